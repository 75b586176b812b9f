"""Runs every operator on small inputs and compares with the CPU's results, for compute-sanitizer to watch:

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool racecheck --kernel-name kns=dgdd \
        --error-exitcode 1 python csrc/tests/sanitize.py

Inputs are made on the CPU, strides and all, and copied to the device whole, so that initcheck knows who wrote
what a fused kernel reads: a kernel that the filter leaves out would have written nothing. With --fused the
general tier is left out, whose inputs cuFFT writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dgdd_fast import ops

FUSED_SIZES = ((32, 32), (64, 64), (128, 128), (64, 128))
GENERAL_SIZES = ((9, 10), (48, 32))
RELATIVE_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def spectral_results(size: tuple[int, int], dtype: torch.dtype, whole: bool, device: str) -> Iterator[Tensor]:
    """What the spectral operators make of five planes (an odd number), with or without optional arguments."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).to(device)

    gradients, base = drawn(3, 5, 1, *size), drawn(5, 1, *size)
    domain_index = (torch.arange(5) % 3).to(device)
    valid = (torch.rand(3, 5, generator=generator) < 0.7).to(device)
    options: dict[str, Any] = {"domain_valid": valid, "weighted_deviation": False} if whole else {}
    surgery = (gradients, base if whole else None, domain_index, 1.3, 0.4)
    yield from ops.spectral_consensus(gradients)
    yield ops.spectral_surgery(*surgery, **options)
    images, buffer = drawn(5, 1, *size), drawn(5, 1, *size)
    ops.spectral_surgery_step_(images, buffer, *surgery, 0.5, 0.9, **options)
    yield images
    yield buffer


def masking_results(shape: tuple[int, ...], dtype: torch.dtype, whole: bool, device: str) -> Iterator[Tensor]:
    """What the masking operators make of features [N, C, *], contiguous and channels last."""
    generator = torch.Generator().manual_seed(0)
    rows, channels = shape[:2]
    here = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    features = here.to(device)
    weight = torch.rand(3, channels, generator=generator).to(dtype).to(device)
    wide = torch.promote_types(dtype, torch.float32)
    uniforms = torch.rand(rows, channels, generator=generator, dtype=wide).to(device)
    domain_index = (torch.arange(rows) % 3).to(device)
    yield ops.channel_scores(features, weight, domain_index, whole)
    # The score of one feature map is rounded differently on each device; a mask that follows from the same
    # scores is not.
    scores = torch.rand(rows, channels, generator=generator, dtype=wide).to(device)
    yield ops.weighted_channel_mask(scores, uniforms, channels // 3, whole)
    masked, mask = ops.mask_channels(features, weight, domain_index, uniforms, channels // 3, per_pixel=whole)
    yield mask.sum(1)
    if len(shape) == 4:
        last = here.contiguous(memory_format=torch.channels_last).to(device)
        yield ops.mask_channels(last, weight, domain_index, uniforms, 0)[0]
    yield masked.isnan()


def augmentation_results(
    shape: tuple[int, ...], dtype: torch.dtype, whole: bool, device: str
) -> Iterator[Tensor]:
    """What the augmentation makes of images [M, C, H, W] and of a gradient, with or without rows."""
    generator = torch.Generator().manual_seed(0)
    batch = 2 * len(ops.AUGMENTATIONS)
    images = shape[0] if whole else batch
    rows = (torch.arange(batch) % (images - 1)).to(device) if whole else None
    operation = (torch.arange(batch) % len(ops.AUGMENTATIONS)).to(device)
    parameters = (torch.rand(batch, 3, generator=generator) + 0.5).to(device)
    pixels = torch.randint(256, (images, *shape[1:]), dtype=torch.uint8, generator=generator).to(device)
    mean, std = torch.full((2, shape[1]), 0.5).to(dtype)
    floats = torch.randn(images, *shape[1:], generator=generator).to(dtype).to(device)
    gradient = torch.randn(batch, *shape[1:], generator=generator).to(dtype).to(device)
    drawn = (rows, operation, parameters)
    yield ops.sample_augment(pixels, *drawn, mean.to(device), std.to(device), 4, 3)
    yield ops.sample_augment(floats, *drawn, None, None, 4, 3)
    yield torch.ops.dgdd.sample_augment_backward.default(gradient, *drawn, images, (4, 4), (3, 3))


def normalization_results(
    shape: tuple[int, ...], dtype: torch.dtype, whole: bool, device: str
) -> Iterator[Tensor]:
    """What norm_relu_pool and its backward make of maps [N, C, H, W]; `whole`: channels last."""
    generator = torch.Generator().manual_seed(0)
    memory_format = torch.channels_last if whole else torch.contiguous_format

    def maps(height: int, width: int) -> Tensor:
        drawn = torch.randn(*shape[:2], height, width, generator=generator, dtype=torch.float64).to(dtype)
        return drawn.contiguous(memory_format=memory_format).to(device)

    x = maps(*shape[2:])
    wide = torch.promote_types(dtype, torch.float32)
    weight, bias = (torch.rand(shape[1], generator=generator, dtype=wide).to(device) for _ in range(2))
    for pool in (1, 2):
        yield ops.norm_relu_pool(x, weight, bias, 1e-5, pool)
        gradient = maps(shape[2] // pool, shape[3] // pool)
        yield from torch.ops.dgdd.norm_relu_pool_backward.default(gradient, x, weight, bias, 1e-5, pool)


def check(name: str, results: Iterator[Tensor], expected: Iterator[Tensor]) -> None:
    for position, (result, truth) in enumerate(zip(results, expected, strict=True)):
        difference = (result.cpu().double() - truth.double()).norm() / truth.double().norm().clamp(min=1.0)
        tolerance = RELATIVE_TOLERANCE.get(truth.dtype, 0.0)
        if not difference <= tolerance:
            raise SystemExit(f"{name}: result {position} is off by {difference:.1e}, allowed {tolerance:.0e}")


def main() -> None:
    parser = argparse.ArgumentParser(description="small calls of every operator, for compute-sanitizer")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--fused", action="store_true", help="leave out the general tier")
    options = parser.parse_args()
    calls = 0
    for whole in (False, True):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            half = dtype in (torch.bfloat16, torch.float16)
            sizes = () if dtype == torch.float64 else FUSED_SIZES[:1] if half else FUSED_SIZES
            for size in sizes if options.fused else sizes + GENERAL_SIZES:
                arguments = (size, dtype, whole)
                check(
                    f"spectral {arguments}",
                    spectral_results(*arguments, options.device),
                    spectral_results(*arguments, "cpu"),
                )
                calls += 3
            for shape in ((5, 24, 7, 6), (3, 512, 4, 4), (4, 2048)):
                masking = (shape, dtype, whole)
                check(
                    f"masking {masking}",
                    masking_results(*masking, options.device),
                    masking_results(*masking, "cpu"),
                )
                calls += 4
            for shape in ((5, 3, 9, 10), (6, 5, 40, 33)):
                augmentation = (shape, dtype, whole)
                check(
                    f"augmentation {augmentation}",
                    augmentation_results(*augmentation, options.device),
                    augmentation_results(*augmentation, "cpu"),
                )
                calls += 3
            for shape in ((3, 16, 16, 16), (2, 5, 9, 10), (2, 8, 64, 64)):
                normalization = (shape, dtype, whole)
                check(
                    f"normalization {normalization}",
                    normalization_results(*normalization, options.device),
                    normalization_results(*normalization, "cpu"),
                )
                calls += 4
    print(f"{calls} calls of the operators on {options.device}, as on the CPU")


if __name__ == "__main__":
    main()
