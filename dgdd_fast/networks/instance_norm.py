"""Instance normalisation for channels-last tensors on the CPU.

PyTorch's own group norm leaves its fast path there as soon as an image has fewer than 1024 pixels, and its
backward has none: it takes as long as the convolutions around it. Written as whole-tensor reductions over the
pixels, with the channels innermost, the same arithmetic is vectorised and costs a tenth of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PIXELS = (2, 3)


def instance_norm(images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``F.group_norm(images, channels, weight, bias, eps)`` of [N, C, H, W].

    `images` is overwritten: it serves as working memory. Statistics are taken in float32 or wider. The result
    has the memory format of `images` and the wider dtype of `images` and `weight`. Differentiable once.
    """
    result: Tensor = _InstanceNorm.apply(images, weight, bias, eps)  # type: ignore[no-untyped-call]
    return result


class _InstanceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        centred = images.to(torch.promote_types(images.dtype, torch.float32))
        centred -= centred.mean(_PIXELS, keepdim=True)
        inverse_std = (centred.square().mean(_PIXELS, keepdim=True) + eps).rsqrt_()
        scale = inverse_std * weight[:, None, None]
        normalised = None if any(ctx.needs_input_grad) else centred
        normalised = torch.addcmul(bias[:, None, None], centred, scale, out=normalised)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(centred, inverse_std, scale)
            ctx.dtype = images.dtype
        return normalised.to(torch.promote_types(images.dtype, weight.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        centred, inverse_std, scale = ctx.saved_tensors
        needs_images, needs_weight, needs_bias, _ = ctx.needs_input_grad
        total = grad.sum(_PIXELS, keepdim=True, dtype=centred.dtype)
        # Per image and channel, the inner product of the gradient with the normalised image.
        along = (grad * centred).sum(_PIXELS, keepdim=True) * inverse_std
        grad_images = None
        if needs_images:
            # scale * (grad - mean(grad) - normalised * mean(grad * normalised))
            count = grad.shape[2] * grad.shape[3]
            grad_images = torch.addcmul(total * scale / -count, grad, scale)
            grad_images.addcmul_(centred, along * inverse_std * scale, value=-1 / count)
            grad_images = grad_images.to(ctx.dtype)
        return (
            grad_images,
            along.sum((0, 2, 3)) if needs_weight else None,
            total.sum((0, 2, 3)) if needs_bias else None,
            None,
        )
