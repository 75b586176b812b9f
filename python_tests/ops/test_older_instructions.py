"""The CPU kernels for older instructions than this machine would choose: most tests of the operators again.

A process chooses its kernels once, so each set has a Python of its own, which takes seconds to start: one for
all files.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgdd_fast import _C

HERE = Path(__file__).parent
ORDER = ["baseline", "avx2", "avx512"]
# By file, for pytest -k.
CHOSEN = {
    "test_augmentation.py": "uint8_images or each_operation or (floating and True and 40) or missing",
    "test_convolution.py": "every_size or same_bits or stays_near",
    "test_masking_scores.py": "every_shape and (float32 or bfloat16)",
    "test_masking_selection.py": "same_channels and (33 or 100 or 1030)",
    "test_norm_relu_pool.py": "(every_size and not float64 and (13 or 21 or 33)) or stays_in_its_plane",
    "test_spectral_accuracy.py": "every_size and not float64 and (33 or 37 or 17 or 34 or 7)",
    "test_spectral_fused.py": "pairs or bad or bin or scale or 32",
}


def is_older(capability: str) -> bool:
    """Than what the machine or `DGDD_CPU_CAPABILITY` gives already."""
    return ORDER.index(capability) < ORDER.index(str(_C.build_info()["cpu_capability"]))


@pytest.mark.parametrize("capability", ["baseline", "avx2"])
def test_most_tests_of_the_operators(capability: str) -> None:
    if not is_older(capability):
        pytest.skip("nothing older than what this machine or DGDD_CPU_CAPABILITY already gives")
    chosen = " or ".join(f"({file.removesuffix('.py')} and ({tests}))" for file, tests in CHOSEN.items())
    files = [str(HERE / file) for file in (Path(__file__).name, *CHOSEN)]
    command = [sys.executable, "-m", "pytest", "-k", f"in_use or (({chosen}) and not cuda)", *files]
    environment = {**os.environ, "DGDD_CPU_CAPABILITY": capability}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_newer_instructions_than_those_asked_for_are_in_use() -> None:
    asked = os.environ.get("DGDD_CPU_CAPABILITY")
    if asked is None:
        pytest.skip("DGDD_CPU_CAPABILITY asks for none")
    assert ORDER.index(str(_C.build_info()["cpu_capability"])) <= ORDER.index(asked)
