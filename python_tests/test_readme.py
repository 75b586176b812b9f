"""The README's code does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_sgs_in_a_loop_of_ones_own_equals_the_plain_form_beside_it():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    with_operator = next(block for block in blocks if "ops import spectral_surgery" in block)
    plain = next(block for block in blocks if "torch.fft.rfft2(grads)" in block)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(5, 3, 16, 16, generator=random, requires_grad=True)
    scope = {
        "torch": torch,
        "images": images,
        "domain": torch.arange(5) % 3,
        "batches": torch.randn(3, 1, 3, 16, 16, generator=random),
        "matching_loss": lambda images, batch: ((images**2).mean(0) - batch).pow(2).sum(),
        "optimizer": torch.optim.SGD([images], lr=0.1),
    }
    exec(with_operator, scope)
    updated = images.grad.clone()
    exec(plain, scope)
    assert updated.abs().max() > 0
    torch.testing.assert_close(images.grad, updated)


def test_every_table_is_what_the_committed_results_say():
    script = README.parent / "bench" / "readme_tables.py"
    check = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
