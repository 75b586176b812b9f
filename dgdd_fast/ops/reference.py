"""The operators of `dgdd_fast.ops` in plain PyTorch, for reading: what tests and benchmarks compare with.

Shapes, units and the meaning of `domain_valid` are those of `dgdd_fast.ops`. float32 and float64 are computed
as they are; bfloat16 and float16 are widened to float32 and results rounded back. Autograd works here, and
no argument is checked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .operators import EPS


def spectral_consensus(domain_grads: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
    """(class_signal, resultant_length) of gradients [D, *, H, W] (SGS, Eq. 7-10)."""
    class_signal, resultant_length = _consensus(_widened(domain_grads), eps, None)
    return class_signal.to(domain_grads.dtype), resultant_length.to(domain_grads.dtype)


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
    """base + alpha * g_cls + beta * g_dom[domain_index], [N, C, H, W] (SGS, Eq. 11)."""
    update = _surgery(
        _widened(domain_grads),
        None if base_grad is None else _widened(base_grad),
        domain_index,
        alpha,
        beta,
        eps,
        weighted_deviation,
        domain_valid,
    )
    return update.to(domain_grads.dtype)


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
    """buffer <- momentum * buffer + surgery; images <- images - lr * buffer, in place."""
    update = _surgery(
        _widened(domain_grads),
        None if base_grad is None else _widened(base_grad),
        domain_index,
        alpha,
        beta,
        eps,
        weighted_deviation,
        domain_valid,
    )
    buffer = momentum * _widened(momentum_buffer) + update
    images.copy_(_widened(images) - lr * buffer)
    momentum_buffer.copy_(buffer)


def channel_scores(features: Tensor, weight: Tensor, domain_index: Tensor, per_pixel: bool = False) -> Tensor:
    """weight[domain_index] * the mean over the trailing axes, [N, C] (CADM, Eq. 5)."""
    values = _widened(features)[..., None].flatten(2)
    weights = _widened(weight)[domain_index]
    if per_pixel:
        values = weights[..., None] * values
        lowest, highest = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
        values = torch.where(highest == lowest, 1.0, (values - lowest) / (highest - lowest))
        return values.mean(-1).to(features.dtype)
    return (weights * values.mean(-1)).to(features.dtype)


def weighted_channel_mask(
    scores: Tensor, uniforms: Tensor, num_masked: int, normalize: bool = True
) -> Tensor:
    """Zeros at the `num_masked` smallest keys -log(r) / s of each row, else ones, [N, C] (CADM, Eq. 6)."""
    weights = _selection_weights(scores.double(), normalize)
    inside = uniforms.double().clamp(torch.finfo(torch.float64).tiny, 1 - 2**-53)
    ordinary = (weights > 0) & (weights < torch.inf)
    keys = -inside.log() / torch.where(ordinary, weights, 1.0)
    # Infinite weights first, those of 0 last; stable sorts leave equal keys in the order of the channels.
    by_key = keys.argsort(dim=1, stable=True)
    tiers = torch.where(weights == torch.inf, 0, torch.where(weights > 0, 1, 2))
    by_tier = tiers.gather(1, by_key).argsort(dim=1, stable=True)
    chosen = by_key.gather(1, by_tier)[:, :num_masked]
    mask = torch.ones_like(weights).scatter(1, chosen, 0.0)
    invalid = scores.isnan() | ~((uniforms >= 0) & (uniforms <= 1))
    return mask.masked_fill(invalid.any(1, keepdim=True), torch.nan).to(scores.dtype)


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
    """(features * mask * scale, mask), the mask a constant to autograd."""
    with torch.no_grad():
        scores = channel_scores(features, weight, domain_index, per_pixel)
        mask = weighted_channel_mask(scores, uniforms, num_masked, normalize)
    channels = features.shape[1]
    scale = channels / (channels - num_masked) if rescale else 1.0
    factors = (_widened(mask) * scale)[(...,) + (None,) * (features.dim() - 2)]
    return (_widened(features) * factors).to(features.dtype), mask


def _selection_weights(scores: Tensor, normalize: bool) -> Tensor:
    """The weights of float64 scores [N, C], times a power of two that keeps them from over- and underflow."""
    largest = scores.abs().masked_fill(~scores.isfinite(), 0.0).amax(1, keepdim=True)
    exponent = torch.frexp(largest).exponent.clamp(-1000, 1022)
    scaled = torch.ldexp(scores, -exponent)
    if not normalize:
        weights = scaled
    else:
        lowest, highest = scaled.amin(1, keepdim=True), scaled.amax(1, keepdim=True)
        # An infinite score is the limit of a large one: beside -inf all finite ones are equally far up.
        weights = torch.where(lowest == -torch.inf, 1.0, scaled - lowest)
        weights = weights.masked_fill(scaled == -torch.inf, 0.0).masked_fill(scaled == torch.inf, torch.inf)
        weights = torch.where(lowest == highest, 1.0, weights)
    return weights.masked_fill(weights < 2.0**-1000, 0.0)


def _surgery(
    domain_grads: Tensor,
    base_grad: Tensor | None,
    domain_index: Tensor,
    alpha: float,
    beta: float,
    eps: float,
    weighted_deviation: bool,
    domain_valid: Tensor | None,
) -> Tensor:
    samples = torch.arange(domain_grads.shape[1], device=domain_grads.device)
    class_signal, _ = _consensus(domain_grads, eps, domain_valid)
    mean = _mean(domain_grads, domain_valid)
    base = mean if base_grad is None else base_grad
    deviation = domain_grads[domain_index, samples] - (class_signal if weighted_deviation else mean)
    if domain_valid is not None:
        deviation = _zero_where_invalid(deviation, domain_valid[domain_index, samples])
    return base + alpha * class_signal + beta * deviation


def _consensus(domain_grads: Tensor, eps: float, domain_valid: Tensor | None) -> tuple[Tensor, Tensor]:
    spectra = torch.fft.rfft2(domain_grads)
    if domain_valid is not None:
        spectra = _zero_where_invalid(spectra, domain_valid)
    magnitudes = spectra.abs().sum(0) + eps
    # Where all domains are 0 and eps is 0 the quotient would be 0 / 0; a NaN in the spectra stays.
    resultant_length = torch.where(magnitudes == 0, 0.0, spectra.sum(0).abs() / magnitudes)
    consensus = resultant_length * _mean(spectra, domain_valid)
    return torch.fft.irfft2(consensus, s=domain_grads.shape[-2:]), resultant_length


def _mean(domains: Tensor, domain_valid: Tensor | None) -> Tensor:
    """The mean of [D, N, C, H, W] over the valid domains, 0 where there is none."""
    if domain_valid is None:
        return domains.mean(0)
    count = domain_valid.sum(0).clamp(min=1)[:, None, None, None]
    return _zero_where_invalid(domains, domain_valid).sum(0) / count


def _zero_where_invalid(tensor: Tensor, valid: Tensor) -> Tensor:
    """`tensor` [*, C, H, W] with zeros where `valid` [*] is False, whatever stood there."""
    return torch.where(valid[..., None, None, None], tensor, 0.0)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
