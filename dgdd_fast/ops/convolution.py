"""The 3x3 convolutions of the ConvNet on the CPU, and one with all that follows it."""

# torch.library and torch._check carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .normalization import check_pool, norm_relu_pool
from .registration import AUTOGRAD, check_like, refuse_backward


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=1)`` with weights of 3x3, in float32 on the CPU.

    From 8 channels on it takes Winograd's products (Lavin and Gray, 2016), from 32 on F(4x4, 3x3) where that
    needs fewer: a quarter of those of the plain sum, with at most twice the error of PyTorch's (about 5e-7).
    A number that is not finite then reaches results up to four pixels away. Each image's result is the same
    bits whatever else is in the batch. Differentiable any number of times in all three.

    Args:
        x: [N, C, H, W] with C, H, W >= 1; channels last in memory, or it is copied.
        weight: [C', C, 3, 3].
        bias: [C']; None: zeros.

    Returns:
        [N, C', H, W], channels last in memory.
    """
    result: Tensor = torch.ops.dgdd.conv3x3.default(x, weight, bias)
    return result


def conv3x3_norm_relu_pool(
    x: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    pool: int = 2,
) -> Tensor:
    """``norm_relu_pool(conv3x3(x, conv_weight, conv_bias), weight, bias, eps, pool)``, the same bits.

    Where no gradient is recorded it is one operator, image by image: the maps between stay in the cache.
    """
    tensors = [x, conv_weight, weight, bias, *([] if conv_bias is None else [conv_bias])]
    is_recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    # Maps of one channel are as they would be with the channels first, and norm_relu_pool takes them so.
    if is_recorded or (conv_weight.dim() == 4 and conv_weight.shape[0] == 1):
        return norm_relu_pool(conv3x3(x, conv_weight, conv_bias), weight, bias, eps, pool)
    result: Tensor = torch.ops.dgdd.conv3x3_norm_relu_pool.default(
        x, conv_weight, conv_bias, weight, bias, eps, pool
    )
    return result


def _check_images(op: str, name: str, images: Tensor, layout: str) -> None:
    torch._check(images.dim() == 4, lambda: f"dgdd::{op}: {name} must be {layout}, got {list(images.shape)}")
    for size in images.shape[1:]:
        torch._check(
            size >= 1,
            lambda: (
                f"dgdd::{op}: {name} must be {layout} with at least one channel and pixel, got "
                f"{list(images.shape)}"
            ),
        )
    torch._check(
        images.dtype == torch.float32, lambda: f"dgdd::{op}: {name} must be float32, got {images.dtype}"
    )


def _check_convolution(op: str, x: Tensor, weight: Tensor, bias: Tensor | None, prefix: str = "") -> None:
    _check_images(op, "x", x, "[N, C, H, W]")
    torch._check(
        weight.dim() == 4 and weight.shape[0] >= 1,
        lambda: (
            f"dgdd::{op}: {prefix}weight must be [C', C, 3, 3] with C' at least 1, got {list(weight.shape)}"
        ),
    )
    check_like(op, f"{prefix}weight", weight, torch.float32, (weight.shape[0], x.shape[1], 3, 3))
    if bias is not None:
        check_like(op, f"{prefix}bias", bias, torch.float32, weight.shape[:1])


def _empty(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    sizes = (x.shape[0], channels, height, width)
    return x.new_empty_strided(sizes, (height * width * channels, 1, width * channels, channels))


@torch.library.register_fake("dgdd::conv3x3")
def _conv3x3_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    _check_convolution("conv3x3", x, weight, bias)
    return _empty(x, weight.shape[0], x.shape[2], x.shape[3])


@torch.library.register_fake("dgdd::conv3x3_norm_relu_pool")
def _conv3x3_norm_relu_pool_fake(
    x: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    pool: int = 2,
) -> Tensor:
    op = "conv3x3_norm_relu_pool"
    _check_convolution(op, x, conv_weight, conv_bias, "conv_")
    for name, row in (("weight", weight), ("bias", bias)):
        check_like(op, name, row, torch.float32, conv_weight.shape[:1])
    check_pool(op, x, pool)
    return _empty(x, conv_weight.shape[0], x.shape[2] // pool, x.shape[3] // pool)


@torch.library.register_fake("dgdd::conv3x3_weight_grad")
def _conv3x3_weight_grad_fake(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    op = "conv3x3_weight_grad"
    _check_images(op, "x", x, "[N, C, H, W]")
    _check_images(op, "grad", grad, "[N, C', H, W]")
    check_like(op, "grad", grad, torch.float32, (x.shape[0], grad.shape[1], *x.shape[2:]))
    channels = grad.shape[1]
    return x.new_empty(channels, x.shape[1], 3, 3), x.new_empty(channels)


# Both are linear in each argument, and the gradients of each are values of the other or of itself: together
# they have derivatives of any order.


def _for_x(weight: Tensor) -> Tensor:
    """The weights that take a result's gradient to that of x."""
    return weight.transpose(0, 1).flip(2, 3)


def _keep_x_and_weight(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _conv3x3_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    of_x, of_weight, of_bias = ctx.needs_input_grad
    weight_grad = bias_grad = None
    if of_weight or of_bias:
        weight_grad, bias_grad = torch.ops.dgdd.conv3x3_weight_grad.default(grad, x)
    x_grad = conv3x3(grad, _for_x(weight)) if of_x else None
    return x_grad, weight_grad if of_weight else None, bias_grad if of_bias else None


def _keep_grad_and_x(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _conv3x3_weight_grad_backward(
    ctx: Any, of_weight_grad: Tensor, of_bias_grad: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    grad, x = ctx.saved_tensors
    of_grad, of_x = ctx.needs_input_grad
    return (
        conv3x3(x, of_weight_grad, of_bias_grad) if of_grad else None,
        conv3x3(grad, _for_x(of_weight_grad)) if of_x else None,
    )


torch.library.register_autograd(
    "dgdd::conv3x3", _conv3x3_backward, setup_context=_keep_x_and_weight, lib=AUTOGRAD
)
torch.library.register_autograd(
    "dgdd::conv3x3_weight_grad", _conv3x3_weight_grad_backward, setup_context=_keep_grad_and_x, lib=AUTOGRAD
)
refuse_backward(
    "conv3x3_norm_relu_pool",
    "its maps are kept nowhere (dgdd_fast.ops.conv3x3_norm_relu_pool takes two operators instead of it where "
    "gradients are recorded)",
)
