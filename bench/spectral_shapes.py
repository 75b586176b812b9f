"""What bench_spectral.py times: the operators at the papers' sizes, and on a GPU in its regimes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

CHANNELS = 3
ALPHA, BETA, LEARNING_RATE, MOMENTUM = 1.0, 0.3, 0.5, 0.5
OPERATORS = ("spectral_consensus", "spectral_surgery", "spectral_surgery_step_")

# CPU: the papers' images at each size, and their neighbours' number.
PAPER_IMAGES = {32: 100, 64: 140, 128: 200}
GENERAL_SIZES = (224, 227)
GENERAL_IMAGES = 20

# CUDA: one class of 10 images; all classes of Digits-DG (10 x 10, 32 px), PACS (7 x 20, 64 px) and
# CORe50-Hard (10 x 20, 128 px) at once; as many images as it takes to be bound by memory; PACS at sizes of
# the general tier.
REGIMES = ("one class", "all classes", "saturating", "general")
DOMAINS = (3, 5, 8)
SATURATING_BYTES = 3 * 2**30  # of domain gradients
SATURATING_SHARE = 1 / 16  # of the device's memory, at most: the reference takes several times as much


@dataclass(frozen=True)
class Case:
    operator: str
    images: int
    size: int
    dtype: str
    domains: int = 3
    regime: str = "all classes"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.images, CHANNELS, self.size, self.size

    @property
    def essential_bytes(self) -> int:
        """What the operator has to read and write."""
        plane_bytes = math.prod(self.shape) * getattr(torch, self.dtype).itemsize
        written_and_read = {
            "spectral_consensus": plane_bytes + plane_bytes * (self.size // 2 + 1) // self.size,
            "spectral_surgery": plane_bytes,
            "spectral_surgery_step_": 4 * plane_bytes,
        }
        return self.domains * plane_bytes + written_and_read[self.operator]

    def arguments(self, device: torch.device) -> tuple[Any, ...]:
        """The operator's arguments: gradients of the size that a mean loss has, drawn on the device."""
        dtype = getattr(torch, self.dtype)
        generator = torch.Generator(device).manual_seed(0)
        gradients = torch.empty(self.domains, *self.shape, dtype=dtype, device=device)
        gradients.normal_(std=1e-3, generator=generator)
        if self.operator == "spectral_consensus":
            return (gradients,)
        domain_index = torch.arange(self.images, device=device) % self.domains
        surgery = (gradients, None, domain_index, ALPHA, BETA)
        if self.operator == "spectral_surgery":
            return surgery
        images = torch.empty(self.shape, dtype=dtype, device=device).normal_(generator=generator)
        return (images, torch.zeros_like(images), *surgery, LEARNING_RATE, MOMENTUM)


def cpu_cases(operators: Iterable[str], sizes: Iterable[int], quick: bool) -> Iterator[Case]:
    for size in sizes:
        if size not in PAPER_IMAGES:
            counts: tuple[int, ...] = (GENERAL_IMAGES,)
        elif quick:
            counts = (PAPER_IMAGES[size],)
        else:
            counts = tuple(PAPER_IMAGES.values())
        regime = "all classes" if size in PAPER_IMAGES else "general"
        for images in counts:
            for operator in operators:
                yield Case(operator, images, size, "float32", regime=regime)
        if size in PAPER_IMAGES and not quick:
            for dtype in ("bfloat16", "float16"):
                yield Case("spectral_surgery", PAPER_IMAGES[size], size, dtype)


def saturating_images(size: int, domains: int, itemsize: int, memory_bytes: int) -> int:
    """So many images that their domain gradients take `SATURATING_BYTES`, or less on a small device."""
    wanted = min(SATURATING_BYTES, memory_bytes * SATURATING_SHARE)
    return max(1, int(wanted // (domains * CHANNELS * size * size * itemsize)))


def cuda_cases(
    operators: Iterable[str], sizes: Iterable[int], regimes: Iterable[str], memory_bytes: int, quick: bool
) -> Iterator[Case]:
    """spectral_surgery with every number of domains, and in bfloat16 with three where that is many images;
    the others with three."""
    for regime in regimes:
        for size in sizes:
            if (size in PAPER_IMAGES) == (regime == "general"):
                continue
            for operator, domains, dtype in variants(operators, regime, quick):
                itemsize = getattr(torch, dtype).itemsize
                images = {
                    "one class": 10,
                    "all classes": PAPER_IMAGES.get(size, 0),
                    "saturating": saturating_images(size, domains, itemsize, memory_bytes),
                    "general": PAPER_IMAGES[64],
                }[regime]
                yield Case(operator, images, size, dtype, domains, regime)


def variants(operators: Iterable[str], regime: str, quick: bool) -> Iterator[tuple[str, int, str]]:
    for operator in operators:
        yield operator, DOMAINS[0], "float32"
        if operator == "spectral_surgery" and not quick:
            for domains in DOMAINS[1:]:
                yield operator, domains, "float32"
            if regime != "one class":
                yield operator, DOMAINS[0], "bfloat16"
