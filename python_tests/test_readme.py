"""The README's code does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import readme_tables
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


def test_what_the_python_examples_import_is_there():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    imports = [line for block in blocks for line in block.splitlines() if line.startswith(("from", "import"))]
    assert len(imports) > 3
    exec("\n".join(imports), {})


def test_a_table_of_cuda_has_what_was_measured_and_a_dash_for_the_rest():
    assert "not measured" in readme_tables.cuda_table([])
    times = {"dgdd_fast": {"median": 0.0125}, "eager": {"median": 0.25}, "eager_graph": {"median": 0.0625}}
    case = {"operator": "spectral_surgery", "images": 10, "size": 32, "dtype": "float32", "domains": 3}
    row = {"case": case, "cache": "warm", "times": times, "share_of_copy": 0.031}
    row["speedup"] = {name: each["median"] / 0.0125 for name, each in times.items() if name != "dgdd_fast"}
    others = [{**row, "cache": "flushed"}, {**row, "case": {**case, "domains": 5}}]
    table = readme_tables.cuda_table([{"device": "a chip", "torch": "2.11", "rows": [row, *others]}])
    (line,) = [line for line in table.splitlines() if "32 x 32" in line]
    assert line == "| 10 of 32 x 32 | 0.0125 ms | 3 % | 0.25 ms (20.0x) | - | 0.0625 ms (5.0x) | - |"


def test_every_table_is_what_the_committed_results_say():
    script = README.parent / "bench" / "readme_tables.py"
    check = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
