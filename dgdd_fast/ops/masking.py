"""The weighted masking of feature channels (CADM).

* Samples are independent of each other.
* Randomness is an argument: `uniforms`, one number of [0, 1] for each channel of each sample, such as
  torch.rand gives. From the same scores and uniforms CPU and CUDA choose the same channels.
* `weight` and `uniforms` may be float32 where the features or scores are bfloat16 or float16.
* A NaN score, or a uniform that is NaN or outside [0, 1], makes that sample's mask NaN, and what is masked by
  it: which channels to choose is undefined.
"""

# torch.library and torch._check carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .registration import AUTOGRAD, check_like, empty_like_features, refuse_backward


def channel_scores(features: Tensor, weight: Tensor, domain_index: Tensor, per_pixel: bool = False) -> Tensor:
    """What each channel adds to the logit of the sample's domain: weight[domain_index] * the mean over the
    trailing axes (CADM, Eq. 5).

    Not differentiable: backward through the scores raises RuntimeError.

    Args:
        features: [N, C, *], any number of trailing axes. A mean over no elements is NaN.
        weight: [D, C], the domain discriminator's.
        domain_index: int64 [N] in [0, D), the domain of each sample.
        per_pixel: DomainDrop's form. The product of weight and features is brought to [0, 1] at every
            position, by its minimum and maximum over the channels, before the mean. Where all channels are
            equal all count as 1. A NaN or Inf in the features makes scores of that sample NaN.

    Returns:
        [N, C], in the features' dtype.
    """
    result: Tensor = torch.ops.dgdd.channel_scores.default(features, weight, domain_index, per_pixel)
    return result


def weighted_channel_mask(
    scores: Tensor, uniforms: Tensor, num_masked: int, normalize: bool = True
) -> Tensor:
    """Choose `num_masked` channels of each sample by successive draws without replacement, each in proportion
    to the weights of the channels that are left (CADM, Eq. 6; Efraimidis and Spirakis).

    Channel j of weight s_j and uniform r_j has the key -log(r_j) / s_j, in float64 whatever the dtype; the
    smallest keys are masked.

    A channel of weight 0 is masked only when fewer than `num_masked` have a positive weight; these channels
    are ordered by -log(r_j). Equal keys: the lower channel first. A score of +inf is the limit of a large
    one: masked before all finite ones, several of them ordered by -log(r_j). Under `normalize` a score of
    -inf has weight 0 and lifts all finite ones to weight 1. A weight less than 2^-1000 of the row's largest
    score in magnitude counts as 0 (possible in float64 only). A uniform of exactly 0 or 1 counts as the
    nearest normal float64 inside.

    Args:
        scores: [N, C].
        uniforms: [N, C] in [0, 1].
        num_masked: in [0, C].
        normalize: True: the weights are (s - min) / (max - min) over the channels of each row, and 1 in a
            row whose scores are all equal. False: the weights are the scores themselves; those below 0 count
            as 0.

    Returns:
        [N, C] in the scores' dtype, 0 for a masked channel and 1 for the others: exactly `num_masked` zeros a
        row. No gradient flows through it.
    """
    result: Tensor = torch.ops.dgdd.weighted_channel_mask.default(scores, uniforms, num_masked, normalize)
    return result


def mask_channels(
    features: Tensor,
    weight: Tensor,
    domain_index: Tensor,
    uniforms: Tensor,
    num_masked: int,
    rescale: bool = True,
    normalize: bool = True,
    per_pixel: bool = False,
) -> tuple[Tensor, Tensor]:
    """`channel_scores`, `weighted_channel_mask` and the masking itself in one pass over the features.

    Differentiable in `features`, any number of times, with the mask held constant; nothing flows to the other
    arguments.

    Args:
        features, weight, domain_index, per_pixel: as in `channel_scores`.
        uniforms, num_masked, normalize: as in `weighted_channel_mask`.
        rescale: True: multiply what is kept by C / (C - num_masked), so that the mean over the channels keeps
            its size; `num_masked` = C, which leaves nothing to rescale, is refused. False: leave it as it is.

    Returns:
        masked [N, C, *] = features * mask * scale, channels last in memory if the features are, else
        contiguous, and mask [N, C], bit for bit that of the two operators.
    """
    result: tuple[Tensor, Tensor] = torch.ops.dgdd.mask_channels.default(
        features, weight, domain_index, uniforms, num_masked, rescale, normalize, per_pixel
    )
    return result


def _check_scoring(op: str, features: Tensor, weight: Tensor, domain_index: Tensor) -> None:
    torch._check(
        features.dim() >= 2,
        lambda: f"dgdd::{op}: features must be [N, C, *], got {list(features.shape)}",
    )
    torch._check(
        weight.dim() == 2 and weight.shape[1] == features.shape[1],
        lambda: f"dgdd::{op}: weight must be [D, C = {features.shape[1]}], got {list(weight.shape)}",
    )
    check_like(op, "domain_index", domain_index, torch.int64, features.shape[:1])


def _check_selection(op: str, rows: Tensor, uniforms: Tensor, num_masked: int) -> None:
    check_like(op, "uniforms", uniforms, uniforms.dtype, rows.shape[:2])
    channels = rows.shape[1]
    torch._check(
        num_masked >= 0 and num_masked <= channels,
        lambda: f"dgdd::{op}: num_masked must be in [0, C] = [0, {channels}], got {num_masked}",
    )


@torch.library.register_fake("dgdd::channel_scores")
def _channel_scores_fake(
    features: Tensor, weight: Tensor, domain_index: Tensor, per_pixel: bool = False
) -> Tensor:
    _check_scoring("channel_scores", features, weight, domain_index)
    return features.new_empty(features.shape[:2])


@torch.library.register_fake("dgdd::weighted_channel_mask")
def _weighted_channel_mask_fake(
    scores: Tensor, uniforms: Tensor, num_masked: int, normalize: bool = True
) -> Tensor:
    torch._check(
        scores.dim() == 2,
        lambda: f"dgdd::weighted_channel_mask: scores must be [N, C], got {list(scores.shape)}",
    )
    _check_selection("weighted_channel_mask", scores, uniforms, num_masked)
    return scores.new_empty(scores.shape)


@torch.library.register_fake("dgdd::mask_channels")
def _mask_channels_fake(
    features: Tensor,
    weight: Tensor,
    domain_index: Tensor,
    uniforms: Tensor,
    num_masked: int,
    rescale: bool = True,
    normalize: bool = True,
    per_pixel: bool = False,
) -> tuple[Tensor, Tensor]:
    _check_scoring("mask_channels", features, weight, domain_index)
    _check_selection("mask_channels", features, uniforms, num_masked)
    return empty_like_features(features), features.new_empty(features.shape[:2])


@torch.library.register_fake("dgdd::apply_channel_mask")
def _apply_channel_mask_fake(features: Tensor, mask: Tensor, scale: float) -> Tensor:
    check_like("apply_channel_mask", "mask", mask, features.dtype, features.shape[:2])
    return empty_like_features(features)


refuse_backward("channel_scores", "scores are for choosing channels")


def _mask_is_constant(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)


def _no_gradients(context: Any, mask_grad: Tensor) -> tuple[None, ...]:
    return (None, None, None, None)


torch.library.register_autograd(
    "dgdd::weighted_channel_mask", _no_gradients, setup_context=_mask_is_constant, lib=AUTOGRAD
)


def _keep_mask(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, mask = output
    ctx.mark_non_differentiable(mask)
    ctx.save_for_backward(mask)
    channels, num_masked, rescale = mask.shape[1], inputs[4], inputs[5]
    ctx.scale = channels / (channels - num_masked) if rescale and channels != 0 else 1.0


def _mask_channels_backward(
    context: Any, masked_grad: Tensor, mask_grad: Tensor
) -> tuple[Tensor | None, ...]:
    (mask,) = context.saved_tensors
    features_grad = torch.ops.dgdd.apply_channel_mask.default(masked_grad, mask, context.scale)
    return (features_grad, *[None] * 7)


torch.library.register_autograd(
    "dgdd::mask_channels", _mask_channels_backward, setup_context=_keep_mask, lib=AUTOGRAD
)


def _keep_applied(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    _, mask, ctx.scale = inputs
    ctx.save_for_backward(mask)


def _apply_channel_mask_backward(context: Any, masked_grad: Tensor) -> tuple[Tensor, None, None]:
    (mask,) = context.saved_tensors
    return torch.ops.dgdd.apply_channel_mask.default(masked_grad, mask, context.scale), None, None


torch.library.register_autograd(
    "dgdd::apply_channel_mask", _apply_channel_mask_backward, setup_context=_keep_applied, lib=AUTOGRAD
)
