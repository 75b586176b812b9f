"""What follows a convolution in the ConvNet: normalisation, ReLU and pooling."""

# torch.library and torch._check carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .registration import AUTOGRAD, check_like, empty_like_features


def norm_relu_pool(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, pool: int = 2) -> Tensor:
    """What follows a convolution in the ConvNet, in one pass: instance normalisation, ReLU, average pooling.

    Every plane (sample, channel) is brought to mean 0 and variance 1 over its pixels, (x - mean) /
    sqrt(variance + eps) with the biased variance, as ``F.group_norm`` does with one group a channel;
    multiplied by the channel's weight, its bias added; negative numbers become 0; then the means over windows
    of `pool` x `pool` pixels. Statistics and arithmetic are float32 for bfloat16 and float16.

    Differentiable once, in `x`, `weight` and `bias`: what is kept for the backward is `x` alone, the rest is
    computed again. A second derivative raises RuntimeError.

    Args:
        x: [N, C, H, W] with H, W >= `pool`, contiguous or channels last in memory; in other strides it is
            copied.
        weight, bias: [C], in x's dtype or float32.
        eps: at least 0, in the unit of the variance.
        pool: at least 1, the side of a window; 1 pools nothing. Rows and columns that fill no window count in
            the statistics alone, as in ``F.avg_pool2d``.

    Returns:
        [N, C, H // pool, W // pool] in x's dtype, channels last in memory if `x` is, else contiguous.
    """
    result: Tensor = torch.ops.dgdd.norm_relu_pool.default(x, weight, bias, eps, pool)
    return result


def check_pool(op: str, x: Tensor, pool: int) -> None:
    """Raises RuntimeError unless windows of `pool` x `pool` fit into x [N, C, H, W]."""
    torch._check(pool >= 1, lambda: f"dgdd::{op}: pool must be at least 1, got {pool}")
    for size in x.shape[2:]:
        torch._check(
            size >= pool,
            lambda: (
                f"dgdd::{op}: x must be [N, C, H, W] with H and W at least pool = {pool}, got {list(x.shape)}"
            ),
        )


def _pooled_size(op: str, x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> tuple[int, int]:
    torch._check(x.dim() == 4, lambda: f"dgdd::{op}: x must be [N, C, H, W], got {list(x.shape)}")
    check_pool(op, x, pool)
    check_like(op, "weight", weight, weight.dtype, x.shape[1:2])
    check_like(op, "bias", bias, bias.dtype, x.shape[1:2])
    return x.shape[2] // pool, x.shape[3] // pool


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.pool = inputs
    ctx.save_for_backward(*tensors)


@torch.library.register_fake("dgdd::norm_relu_pool")
def _norm_relu_pool_fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, pool: int = 2) -> Tensor:
    return empty_like_features(x, _pooled_size("norm_relu_pool", x, weight, bias, pool))


@torch.library.register_fake("dgdd::norm_relu_pool_backward")
def _norm_relu_pool_backward_fake(
    pooled_grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: int
) -> tuple[Tensor, Tensor, Tensor]:
    op = "norm_relu_pool_backward"
    pooled_size = _pooled_size(op, x, weight, bias, pool)
    check_like(op, "pooled_grad", pooled_grad, x.dtype, torch.Size((*x.shape[:2], *pooled_size)))
    return empty_like_features(x), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _norm_relu_pool_backward(context: Any, pooled_grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.dgdd.norm_relu_pool_backward.default(
        pooled_grad, *context.saved_tensors, context.eps, context.pool
    )
    return (*gradients, None, None)


torch.library.register_autograd(
    "dgdd::norm_relu_pool", _norm_relu_pool_backward, setup_context=_keep_inputs, lib=AUTOGRAD
)


def _no_second_derivative(context: Any, *output_grads: Tensor) -> None:
    raise RuntimeError(
        "dgdd::norm_relu_pool is differentiable once, and this is a second derivative. To have one, call the "
        "same in plain PyTorch, dgdd_fast.ops.reference.norm_relu_pool; a network of dgdd_fast does so after "
        "dgdd_fast.networks.allow_second_derivatives(network)"
    )


torch.library.register_autograd("dgdd::norm_relu_pool_backward", _no_second_derivative, lib=AUTOGRAD)
