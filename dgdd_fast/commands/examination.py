"""What `dgdd doctor` shows: versions, devices, what is compiled, and whether the operators are right."""

from __future__ import annotations

import platform
import sys
from importlib import import_module, metadata
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from .. import ops
from ..config import DistillConfig
from ..ops import reference
from ..parallel import available_cores
from .terminal import console, labelled

LIBRARIES = ("numpy", "safetensors", "pillow", "scikit-learn", "matplotlib")
SIDES = ((32, 32), (64, 64), (128, 128), (33, 20))
LARGEST_ERROR = 1e-6  # relative, in float32; rounding alone gives about 3e-7


def examine() -> bool:
    """Print everything, then what to do. Returns whether the operators passed on every device."""
    build = import_module("dgdd_fast._C").build_info()
    facts = Table(show_header=False)
    for name, value in _facts(build):
        facts.add_row(name, value)
    console.print(facts)

    passed = True
    for device in ("cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))):
        if device != "cpu" and not build["cuda_architectures"]:
            continue
        error = max(_relative_error(height, width, device) for height, width in SIDES)
        good = error <= LARGEST_ERROR
        passed &= good
        verdict = ("good", "green") if good else ("wrong", "bold red")
        numbers = f" (relative error {error:.1e}, limit {LARGEST_ERROR:.0e})"
        console.print(Text.assemble(f"operators on {device}: ", verdict, numbers))
    for advice in _advice(build, passed):
        console.print(labelled("advice", "yellow", advice))
    return passed


def _facts(build: dict[str, Any]) -> list[tuple[str, str]]:
    cores = available_cores()
    facts = [
        ("dgdd-fast", build["version"]),
        ("python", f"{sys.version.split()[0]} on {platform.platform()}"),
        ("torch", str(torch.__version__)),  # the metadata may lack the local part, such as +cu130
        *((name, _version(name)) for name in LIBRARIES),
        (
            "CPU",
            f"{cores} cores, {torch.get_num_threads()} threads, kernels for {build['cpu_capability']}",
        ),
        ("precision", f"{DistillConfig.precision}, unless a run is given tf32 or bfloat16 (--precision)"),
        ("compiler", build["compiler"]),
        (
            "CUDA compiler",
            build["cuda_compiler"] or f"none: built for the CPU only{_why(build)}",
        ),
        ("CUDA architectures", build["cuda_architectures"] or "none"),
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        chip = f"{properties.name}, {memory:.0f} GiB, sm_{properties.major}{properties.minor}"
        units = "with" if properties.major >= 8 else "without"
        facts.append((f"cuda:{index}", f"{chip}, {units} units for TF32 and bfloat16"))
    if not torch.cuda.is_available():
        facts.append(("GPU", "none that torch can use"))
    return facts


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _why(build: dict[str, Any]) -> str:
    """Why there are no CUDA kernels; a core that was built before it was kept does not say."""
    return f" ({build['without_cuda']})" if build.get("without_cuda") else ""


def _relative_error(height: int, width: int, device: str) -> float:
    """Of `spectral_surgery` in float32 against the reference in float64, in the L2 norm."""
    random = torch.Generator().manual_seed(height * 1000 + width)
    gradients = torch.randn(3, 4, 3, height, width, generator=random, dtype=torch.float64)
    domain_index = torch.arange(4) % 3
    expected = reference.spectral_surgery(gradients, None, domain_index, 1.0, 0.3)
    result = ops.spectral_surgery(gradients.float().to(device), None, domain_index.to(device), 1.0, 0.3)
    return float((result.cpu() - expected).norm() / expected.norm())


def _advice(build: dict[str, Any], passed: bool) -> list[str]:
    advice = []
    rebuild = "pip install --no-build-isolation ."
    if not passed:
        advice.append(f"build again ({rebuild}); if the operators stay wrong, report it with all of this")
    if torch.cuda.is_available() and not build["cuda_architectures"]:
        advice.append(
            "torch has a GPU, but the operators were built without CUDA: put the nvcc of a CUDA toolkit on "
            f"the PATH and build again: DGDD_CUDA=ON {rebuild}"
        )
    if torch.version.cuda is not None and not torch.cuda.is_available():
        advice.append(
            "torch is built for CUDA and finds no GPU: if there is one, see to its driver (nvidia-smi)"
        )
    cores, threads = available_cores(), torch.get_num_threads()
    if threads * 2 < cores:
        advice.append(
            f"torch uses {threads} threads on {cores} cores: unset OMP_NUM_THREADS, or give --threads"
        )
    return advice
