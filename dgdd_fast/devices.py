"""Which device computes."""

from __future__ import annotations

from importlib import import_module

import torch

AUTO = "auto"


def resolved_device(device: str | torch.device) -> torch.device:
    """The device of that name; for "auto" CUDA where torch finds a GPU and the operators are compiled for
    one, else the CPU."""
    return torch.device(automatic_devices()[0] if device == AUTO else device)


def automatic_devices() -> list[str]:
    """What "auto" may choose from: every GPU, or else the CPU."""
    if torch.cuda.device_count() and import_module("dgdd_fast._C").build_info()["cuda_architectures"]:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ["cpu"]


def usable_device(name: str) -> str:
    """The device to compute on, "auto" resolved.

    Raises ValueError for one that torch cannot compute on here, naming those that are there.
    """
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if name == AUTO:
        return automatic_devices()[0]
    if name in there or (name == "cuda" and len(there) > 1):
        return name
    advice = f"give one of {', '.join(there)}"
    if len(there) == 1:
        advice = "torch finds no GPU (dgdd doctor may say why); name cpu instead"
    raise ValueError(f"there is no device {name!r} to compute on here: {advice}")
