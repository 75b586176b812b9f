"""The augmentation of a batch (DSA), with the gathering and normalisation of its images."""

# torch.library and torch._check carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .registration import AUTOGRAD, check_like

AUGMENTATIONS = ("none", "color", "crop", "cutout", "flip", "scale", "rotate")


def sample_augment(
    images: Tensor,
    rows: Tensor | None,
    operation: Tensor,
    parameters: Tensor,
    mean: Tensor | None,
    std: Tensor | None,
    crop: int | tuple[int, int],
    cutout: int | tuple[int, int],
) -> Tensor:
    """A batch from a pool of images: each row gathered, normalised and augmented in one pass, by an operation
    and parameters of its own (DSA).

    Differentiable in floating images, any number of times, as every operation is affine in them; nothing
    flows to the other arguments. Gradients are gathered, without atomics, and those of images that repeat add
    up in the order of the batch. Shapes do not depend on what was drawn.

    Args:
        images: [M, C, H, W] with C, H, W >= 1: uint8, brought to [0, 1] and normalised; or floating, taken as
            normalised already.
        rows: int64 [B] in [0, M), the image of each row of the batch. None: image i in row i, B = M.
        operation: int64 [B], positions in `AUGMENTATIONS`.
        parameters: float32 or float64 [B, 3], rounded to the precision that the images are computed in. Those
            beyond the operation's own are not read:

            * ``color``: added brightness in normalised units, factor of saturation (the distance from the
              mean of a pixel's channels), factor of contrast (the distance from the image's mean);
            * ``crop``: the row and the column that become the first, whole numbers (fractions are cut off)
              from -crop to crop; what comes in from outside is 0;
            * ``cutout``: the first row and column of the box that becomes 0;
            * ``flip``: mirrored left to right where it is above 0;
            * ``scale``: the shown share of the width and of the height, about the centre, by bilinear samples
              with zeros outside;
            * ``rotate``: the angle in radians, in pixels about the centre; x turns towards y. Likewise.
        mean, std: [C] floating, for uint8 images; the result has their dtype. Not read for floating images,
            which may have None.
        crop: the most that a crop may move by: pixels, or (rows, columns).
        cutout: the sides of the box: pixels, or (rows, columns).

    Returns:
        [B, C, H, W], contiguous, in the dtype of the images or, for uint8, of `mean`.

    On the CPU a row, operation or crop out of range, or a parameter that is not finite, raises RuntimeError;
    on CUDA that row of the result is NaN.
    """
    result: Tensor = torch.ops.dgdd.sample_augment.default(
        images, rows, operation, parameters, mean, std, _pair(crop), _pair(cutout)
    )
    return result


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _check_augmentation(
    op: str, source: Tensor, batch: torch.SymInt | int, operation: Tensor, parameters: Tensor
) -> None:
    torch._check(
        source.dim() == 4,
        lambda: f"dgdd::{op}: images must be [M, C, H, W], got {list(source.shape)}",
    )
    check_like(op, "operation", operation, torch.int64, (batch,))
    check_like(op, "parameters", parameters, parameters.dtype, (batch, 3))


@torch.library.register_fake("dgdd::sample_augment")
def _sample_augment_fake(
    images: Tensor,
    rows: Tensor | None,
    operation: Tensor,
    parameters: Tensor,
    mean: Tensor | None,
    std: Tensor | None,
    crop: list[int],
    cutout: list[int],
) -> Tensor:
    op = "sample_augment"
    batch = images.shape[0] if rows is None else rows.shape[0]
    _check_augmentation(op, images, batch, operation, parameters)
    dtype = images.dtype
    if dtype == torch.uint8:
        torch._check(
            mean is not None and std is not None,
            lambda: f"dgdd::{op}: mean and std must be tensors for uint8 images, got None",
        )
        assert mean is not None
        assert std is not None
        check_like(op, "mean", mean, mean.dtype, images.shape[1:2])
        check_like(op, "std", std, mean.dtype, images.shape[1:2])
        dtype = mean.dtype
    return images.new_empty((batch, *images.shape[1:]), dtype=dtype)


@torch.library.register_fake("dgdd::sample_augment_backward")
def _sample_augment_backward_fake(
    gradient: Tensor,
    rows: Tensor | None,
    operation: Tensor,
    parameters: Tensor,
    images: int,
    crop: list[int],
    cutout: list[int],
) -> Tensor:
    batch = images if rows is None else rows.shape[0]
    _check_augmentation("sample_augment_backward", gradient, batch, operation, parameters)
    return gradient.new_empty((images, *gradient.shape[1:]))


# Augmentation is affine in the images. Its backward is the linear part transposed, whose own backward is the
# linear part again: the operation without added brightness.
def _keep_augmentation(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    images, rows, operation, parameters, _, _, ctx.crop, ctx.cutout = inputs
    ctx.images = images.shape[0]
    ctx.save_for_backward(rows, operation, parameters)


def _sample_augment_backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    if not context.needs_input_grad[0]:
        return (None,) * 8
    images_grad = torch.ops.dgdd.sample_augment_backward.default(
        gradient, *context.saved_tensors, context.images, context.crop, context.cutout
    )
    return (images_grad, *[None] * 7)


torch.library.register_autograd(
    "dgdd::sample_augment", _sample_augment_backward, setup_context=_keep_augmentation, lib=AUTOGRAD
)


def _keep_transpose(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rows, operation, parameters, _, ctx.crop, ctx.cutout = inputs
    ctx.save_for_backward(rows, operation, parameters)


def _augment_linearly(context: Any, images_grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, operation, parameters = context.saved_tensors
    color = (operation == AUGMENTATIONS.index("color"))[:, None]
    linear = torch.cat([parameters[:, :1].masked_fill(color, 0), parameters[:, 1:]], 1)
    gradient = torch.ops.dgdd.sample_augment.default(
        images_grad, rows, operation, linear, None, None, context.crop, context.cutout
    )
    return (gradient, *[None] * 6)


torch.library.register_autograd(
    "dgdd::sample_augment_backward", _augment_linearly, setup_context=_keep_transpose, lib=AUTOGRAD
)
