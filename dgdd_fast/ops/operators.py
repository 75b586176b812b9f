"""The compiled operators as typed functions: Spectral Gradient Surgery (SGS) of per-domain image gradients,
the weighted masking of feature channels (CADM), and the augmentation of a batch (DSA).


the weighted masking of feature channels (CADM), and what follows a convolution in the ConvNet.

The same functions stand in plain PyTorch in `dgdd_fast.ops.reference`, which is their specification.

What holds for all of them:

* Tensors lie on the CPU or on one CUDA device, in any strides. float32 and float64 are computed in their own
  precision; bfloat16 and float16 are storage, computed in float32. All floating tensors of a call share one
  dtype, and so do the results.
* The same call gives the same bits, on one device and machine. The tests ask CUDA for it too; no GPU
  has run them yet.
* A wrong argument raises RuntimeError that names the operator, the argument, what was expected and what came.
  The exception: a `domain_index`, row, operation or parameter out of range on CUDA, where reading it back
  would stop the stream; that sample's results are NaN.

What holds for the spectral ones:

* NaN or Inf in a gradient reaches the results of that plane (sample, channel) and of no other. Nothing is
  hidden or repaired.
* In float32 the magnitudes of a spectrum are safe from under- and overflow between 1e-18 and 1e+18.
* A CUDA graph captures them. Planes other than squares of 32, 64 and 128 pixels (and 64 x 128) and float64 go
  through the library's FFT, which plans a shape on first use: call once with it before the capture.
* Nothing is differentiable: gradients are data here. Backward through a result raises RuntimeError.

What holds for the masking ones:

* Samples are independent of each other.
* Randomness is an argument: `uniforms`, one number of [0, 1] for each channel of each sample, such as
  torch.rand gives. From the same scores and uniforms CPU and CUDA choose the same channels.
* `weight` and `uniforms` may be float32 where the features or scores are bfloat16 or float16.
* A NaN score, or a uniform that is NaN or outside [0, 1], makes that sample's mask NaN, and what is masked by
  it: there is no telling which channels to choose.

How `domain_valid` works: a domain that is marked False for a sample is left out of its mean, of its sum of
magnitudes and of its agreement; what the gradients hold there (NaN, uninitialised memory) does not matter. If
the sample's assigned domain is left out, there is no deviation to add and that term is 0. If all its domains
are left out, mean, consensus and agreement are 0.
"""

# torch.library and torch._check carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Added to the sum of magnitudes. Gradients of a mean loss are small (1e-6): a larger one would bias R.
EPS = 1e-12


def spectral_consensus(domain_grads: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
    """What the domains agree on: each frequency of their mean gradient, weighted by how their phases agree.

    R = |sum_d G^d| / (sum_d |G^d| + eps), g_cls = F^-1(R * mean_d G^d), with G^d = F(g^d) the 2-D Fourier
    transform over the last two axes (SGS, Eq. 7-10). R is 0 where every domain is 0.

    Args:
        domain_grads: [D, *, H, W] with D, H, W >= 1, the gradient of each domain's loss.
        eps: at least 0, in the unit of the spectrum.

    Returns:
        class_signal [*, H, W] = g_cls, in the unit of the gradients, and resultant_length [*, H, W // 2 + 1]
        = R in [0, 1], the half spectrum (R is even in frequency).
    """
    result: tuple[Tensor, Tensor] = torch.ops.dgdd.spectral_consensus.default(domain_grads, eps)
    return result


def spectral_surgery(
    domain_grads: Tensor,
    base_grad: Tensor | None,
    domain_index: Tensor,
    alpha: float,
    beta: float,
    eps: float = EPS,
    weighted_deviation: bool = True,
    domain_valid: Tensor | None = None,
) -> Tensor:
    """The gradient to descend: base + alpha * g_cls + beta * g_dom[domain_index] (SGS, Eq. 11).

    Args:
        domain_grads: [D, N, C, H, W], the gradient of each domain's loss with respect to N synthetic images.
        base_grad: [N, C, H, W], the gradient of the whole objective; None is the mean over the valid domains.
        domain_index: int64 [N] in [0, D), the domain assigned to each image.
        alpha: finite, weight of the class-discriminative signal g_cls (see `spectral_consensus`).
        beta: finite, weight of the assigned domain's deviation g_dom.
        eps: at least 0, in the unit of the spectrum.
        weighted_deviation: True: g_dom^d = g^d - g_cls, so that g^d = g_cls + g_dom^d; False: g_dom^d = g^d
            - the mean over the valid domains.
        domain_valid: bool [D, N], False where a domain has nothing to say about an image (an empty
            class-domain cell); None: all valid.

    Returns:
        [N, C, H, W], in the unit of the gradients. With alpha = beta = 0 it is the base.
    """
    result: Tensor = torch.ops.dgdd.spectral_surgery.default(
        domain_grads, base_grad, domain_index, alpha, beta, eps, weighted_deviation, domain_valid
    )
    return result


def spectral_surgery_step_(
    images: Tensor,
    momentum_buffer: Tensor,
    domain_grads: Tensor,
    base_grad: Tensor | None,
    domain_index: Tensor,
    alpha: float,
    beta: float,
    lr: float,
    momentum: float,
    eps: float = EPS,
    weighted_deviation: bool = True,
    domain_valid: Tensor | None = None,
) -> None:
    """One SGD step along `spectral_surgery`, in place.

    buffer <- momentum * buffer + g; images <- images - lr * buffer, with g what `spectral_surgery` returns.

    Args:
        images: [N, C, H, W], written in place. Images that require a gradient are stepped under
            ``torch.no_grad()``, as an optimiser does; with gradients enabled the call raises RuntimeError.
        momentum_buffer: [N, C, H, W], written in place, memory of its own. Zeros before the first step.
        lr: finite learning rate.
        momentum: finite; 0 is plain SGD.
        domain_grads, base_grad, domain_index, alpha, beta, eps, weighted_deviation, domain_valid: as in
            `spectral_surgery`.
    """
    torch.ops.dgdd.spectral_surgery_step_.default(
        images,
        momentum_buffer,
        domain_grads,
        base_grad,
        domain_index,
        alpha,
        beta,
        lr,
        momentum,
        eps,
        weighted_deviation,
        domain_valid,
    )


def channel_scores(features: Tensor, weight: Tensor, domain_index: Tensor, per_pixel: bool = False) -> Tensor:
    """How much each channel tells of the sample's domain: weight[domain_index] * the mean over the trailing
    axes (CADM, Eq. 5).

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


# Shapes for tracing. Sizes may be symbols: nothing asks for their values beyond the operators' own checks.


def _check_like(
    op: str, name: str, tensor: Tensor, dtype: torch.dtype, shape: Sequence[torch.SymInt | int]
) -> None:
    def message() -> str:
        return f"dgdd::{op}: {name} must be {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}"

    torch._check(tensor.dtype == dtype and tensor.dim() == len(shape), message)
    for size, expected in zip(tensor.shape, shape, strict=True):
        torch._check(size == expected, message)


def _check_surgery(
    op: str, domain_grads: Tensor, base_grad: Tensor | None, domain_index: Tensor, domain_valid: Tensor | None
) -> None:
    torch._check(
        domain_grads.dim() == 5,
        lambda: f"dgdd::{op}: domain_grads must be [D, N, C, H, W], got {list(domain_grads.shape)}",
    )
    if base_grad is not None:
        _check_like(op, "base_grad", base_grad, domain_grads.dtype, domain_grads.shape[1:])
    _check_like(op, "domain_index", domain_index, torch.int64, domain_grads.shape[1:2])
    if domain_valid is not None:
        _check_like(op, "domain_valid", domain_valid, torch.bool, domain_grads.shape[:2])


@torch.library.register_fake("dgdd::spectral_consensus")
def _spectral_consensus_fake(domain_grads: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
    torch._check(
        domain_grads.dim() >= 3,
        lambda: (
            f"dgdd::spectral_consensus: domain_grads must be [D, *, H, W], got {list(domain_grads.shape)}"
        ),
    )
    shape = domain_grads.shape[1:]
    half_spectrum = (*shape[:-1], shape[-1] // 2 + 1)
    return domain_grads.new_empty(shape), domain_grads.new_empty(half_spectrum)


@torch.library.register_fake("dgdd::spectral_surgery")
def _spectral_surgery_fake(
    domain_grads: Tensor,
    base_grad: Tensor | None,
    domain_index: Tensor,
    alpha: float,
    beta: float,
    eps: float = EPS,
    weighted_deviation: bool = True,
    domain_valid: Tensor | None = None,
) -> Tensor:
    _check_surgery("spectral_surgery", domain_grads, base_grad, domain_index, domain_valid)
    return domain_grads.new_empty(domain_grads.shape[1:])


@torch.library.register_fake("dgdd::spectral_surgery_step_")
def _spectral_surgery_step_fake(
    images: Tensor,
    momentum_buffer: Tensor,
    domain_grads: Tensor,
    base_grad: Tensor | None,
    domain_index: Tensor,
    alpha: float,
    beta: float,
    lr: float,
    momentum: float,
    eps: float = EPS,
    weighted_deviation: bool = True,
    domain_valid: Tensor | None = None,
) -> None:
    op = "spectral_surgery_step_"
    _check_surgery(op, domain_grads, base_grad, domain_index, domain_valid)
    _check_like(op, "images", images, domain_grads.dtype, domain_grads.shape[1:])
    _check_like(op, "momentum_buffer", momentum_buffer, domain_grads.dtype, domain_grads.shape[1:])


def _check_scoring(op: str, features: Tensor, weight: Tensor, domain_index: Tensor) -> None:
    torch._check(
        features.dim() >= 2,
        lambda: f"dgdd::{op}: features must be [N, C, *], got {list(features.shape)}",
    )
    torch._check(
        weight.dim() == 2 and weight.shape[1] == features.shape[1],
        lambda: f"dgdd::{op}: weight must be [D, C = {features.shape[1]}], got {list(weight.shape)}",
    )
    _check_like(op, "domain_index", domain_index, torch.int64, features.shape[:1])


def _check_selection(op: str, rows: Tensor, uniforms: Tensor, num_masked: int) -> None:
    _check_like(op, "uniforms", uniforms, uniforms.dtype, rows.shape[:2])
    channels = rows.shape[1]
    torch._check(
        num_masked >= 0 and num_masked <= channels,
        lambda: f"dgdd::{op}: num_masked must be in [0, C] = [0, {channels}], got {num_masked}",
    )


def _empty_like_features(features: Tensor, trailing: tuple[int, ...] | None = None) -> Tensor:
    """As the compiled operators lay it out: channels last where the features are, else contiguous. With other
    trailing axes where these are given."""
    samples, channels, *rest = features.shape
    rest = rest if trailing is None else list(trailing)
    if features.is_contiguous() or features.stride(1) != 1:
        return features.new_empty(samples, channels, *rest)
    return features.new_empty(samples, *rest, channels).movedim(-1, 1)


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
    return _empty_like_features(features), features.new_empty(features.shape[:2])


@torch.library.register_fake("dgdd::apply_channel_mask")
def _apply_channel_mask_fake(features: Tensor, mask: Tensor, scale: float) -> Tensor:
    _check_like("apply_channel_mask", "mask", mask, features.dtype, features.shape[:2])
    return _empty_like_features(features)


def _check_augmentation(
    op: str, source: Tensor, batch: torch.SymInt | int, operation: Tensor, parameters: Tensor
) -> None:
    torch._check(
        source.dim() == 4,
        lambda: f"dgdd::{op}: images must be [M, C, H, W], got {list(source.shape)}",
    )
    _check_like(op, "operation", operation, torch.int64, (batch,))
    _check_like(op, "parameters", parameters, parameters.dtype, (batch, 3))


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
        _check_like(op, "mean", mean, mean.dtype, images.shape[1:2])
        _check_like(op, "std", std, mean.dtype, images.shape[1:2])
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


def _pooled_size(op: str, x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> tuple[int, int]:
    torch._check(x.dim() == 4, lambda: f"dgdd::{op}: x must be [N, C, H, W], got {list(x.shape)}")
    torch._check(pool >= 1, lambda: f"dgdd::{op}: pool must be at least 1, got {pool}")
    for size in x.shape[2:]:
        torch._check(
            size >= pool,
            lambda: (
                f"dgdd::{op}: x must be [N, C, H, W] with H and W at least pool = {pool}, got {list(x.shape)}"
            ),
        )
    _check_like(op, "weight", weight, weight.dtype, x.shape[1:2])
    _check_like(op, "bias", bias, bias.dtype, x.shape[1:2])
    return x.shape[2] // pool, x.shape[3] // pool


@torch.library.register_fake("dgdd::norm_relu_pool")
def _norm_relu_pool_fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, pool: int = 2) -> Tensor:
    return _empty_like_features(x, _pooled_size("norm_relu_pool", x, weight, bias, pool))


@torch.library.register_fake("dgdd::norm_relu_pool_backward")
def _norm_relu_pool_backward_fake(
    pooled_grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: int
) -> tuple[Tensor, Tensor, Tensor]:
    op = "norm_relu_pool_backward"
    pooled_size = _pooled_size(op, x, weight, bias, pool)
    _check_like(op, "pooled_grad", pooled_grad, x.dtype, torch.Size((*x.shape[:2], *pooled_size)))
    return _empty_like_features(x), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


# Autograd. What takes gradients or scores as data has a backward that raises; the step refuses what autograd
# follows; a mask is constant, and applying one is its own derivative.


class _Autograd(torch.library.Library):
    """Kernels of the Autograd key that are asked only where autograd follows the call; every other call goes
    straight on.

    In Python, because torch's stable C++ interface can neither ask a tensor whether it requires a gradient
    nor go on below autograd.
    """

    def impl(self, op_name: str, fn: Any, dispatch_key: str = "", **options: Any) -> None:
        operator = getattr(torch.ops.dgdd, op_name).default
        written = [
            position
            for position, argument in enumerate(operator._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]

        def kernel(keyset: Any, *arguments: Any) -> Any:
            if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
                return fn(keyset, *arguments)
            if written:  # graphs that saved these tensors must hear of it
                torch.autograd.graph.increment_version([arguments[position] for position in written])
            with torch._C._AutoDispatchBelowAutograd():
                return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

        super().impl(op_name, kernel, dispatch_key, **options)


_AUTOGRAD = _Autograd("dgdd", "IMPL")


def _refuse_backward(op: str, reason: str) -> None:
    def backward(context: Any, *output_grads: Tensor) -> None:
        raise RuntimeError(
            f"dgdd::{op} is not differentiable: {reason}. "
            "Call it under torch.no_grad(), or on detached tensors"
        )

    torch.library.register_autograd(f"dgdd::{op}", backward, lib=_AUTOGRAD)


_refuse_backward("spectral_consensus", "it takes gradients as data")
_refuse_backward("spectral_surgery", "it takes gradients as data")
_refuse_backward("channel_scores", "scores are for choosing channels")


def _mask_is_constant(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)


def _no_gradients(context: Any, mask_grad: Tensor) -> tuple[None, ...]:
    return (None, None, None, None)


torch.library.register_autograd(
    "dgdd::weighted_channel_mask", _no_gradients, setup_context=_mask_is_constant, lib=_AUTOGRAD
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
    "dgdd::mask_channels", _mask_channels_backward, setup_context=_keep_mask, lib=_AUTOGRAD
)


def _keep_applied(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    _, mask, ctx.scale = inputs
    ctx.save_for_backward(mask)


def _apply_channel_mask_backward(context: Any, masked_grad: Tensor) -> tuple[Tensor, None, None]:
    (mask,) = context.saved_tensors
    return torch.ops.dgdd.apply_channel_mask.default(masked_grad, mask, context.scale), None, None


torch.library.register_autograd(
    "dgdd::apply_channel_mask", _apply_channel_mask_backward, setup_context=_keep_applied, lib=_AUTOGRAD
)


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
    "dgdd::sample_augment", _sample_augment_backward, setup_context=_keep_augmentation, lib=_AUTOGRAD
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
    "dgdd::sample_augment_backward", _augment_linearly, setup_context=_keep_transpose, lib=_AUTOGRAD
)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.pool = inputs
    ctx.save_for_backward(*tensors)


def _norm_relu_pool_backward(context: Any, pooled_grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.dgdd.norm_relu_pool_backward.default(
        pooled_grad, *context.saved_tensors, context.eps, context.pool
    )
    return (*gradients, None, None)


torch.library.register_autograd(
    "dgdd::norm_relu_pool", _norm_relu_pool_backward, setup_context=_keep_inputs, lib=_AUTOGRAD
)


def _no_second_derivative(context: Any, *output_grads: Tensor) -> None:
    raise RuntimeError(
        "dgdd::norm_relu_pool is differentiable once, and this is a second derivative. To have one, call the "
        "same in plain PyTorch, dgdd_fast.ops.reference.norm_relu_pool; a network of dgdd_fast does so after "
        "dgdd_fast.networks.allow_second_derivatives(network)"
    )


torch.library.register_autograd("dgdd::norm_relu_pool_backward", _no_second_derivative, lib=_AUTOGRAD)


def _refuse_step(keyset: Any, *arguments: Any) -> None:
    raise RuntimeError(
        "dgdd::spectral_surgery_step_ is not differentiable, and one of its tensors requires a gradient. "
        "Call it under torch.no_grad(), like an optimiser's step"
    )


_AUTOGRAD.impl("spectral_surgery_step_", _refuse_step, "Autograd", with_keyset=True)
