"""Whether an installed package works: run in a folder without the sources, with whatever is installed."""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

import dgdd_fast
from dgdd_fast import (
    DistillConfig,
    DistilledSet,
    EvaluateConfig,
    SurgeryConfig,
    distill,
    evaluate,
    from_iterable,
    ops,
)
from dgdd_fast.config import NetworkConfig
from dgdd_fast.ops import reference

# The operators against their specification.
random = torch.Generator().manual_seed(0)
for height, width in ((32, 32), (64, 64), (128, 128), (33, 20)):
    gradients = torch.randn(3, 4, 3, height, width, generator=random)
    domains = torch.arange(4) % 3
    expected = reference.spectral_surgery(gradients.double(), None, domains, 1.0, 0.3)
    found = ops.spectral_surgery(gradients, None, domains, 1.0, 0.3)
    error = float((found - expected).norm() / expected.norm())
    assert error < 1e-6, (height, width, error)

# The two verbs, on pictures of noise with a bright half for each class.
pictures = []
for domain in ("dim", "bright"):
    for label in ("left", "right"):
        for _ in range(8):
            picture = torch.randint(64, (3, 16, 16), generator=random)
            picture[:, :, slice(0, 8) if label == "left" else slice(8, 16)] += 64 if domain == "dim" else 160
            pictures.append((picture.to(torch.uint8).permute(1, 2, 0).numpy(), label, domain))
dataset = from_iterable(pictures[::2], pictures[1::2], name="halves")
network = NetworkConfig(width=8)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "set.safetensors"
    config = DistillConfig(ipc=2, iterations=2, batch_real=4, surgery=SurgeryConfig(), network=network)
    distill(dataset.train(), config).save(path)
    result = evaluate(
        DistilledSet.load(path), {"all": dataset.test()}, EvaluateConfig(runs=1, epochs=10, network=network)
    )
assert 0 <= result.mean("all") <= 100

# What the extras bring, where they are installed.
if find_spec("typer") is not None:
    subprocess.run([sys.executable, "-m", "dgdd_fast", "doctor"], check=True)
print(f"dgdd-fast {dgdd_fast.__version__} with torch {torch.__version__} works: {dgdd_fast.__file__}")
