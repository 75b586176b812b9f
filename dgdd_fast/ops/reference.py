"""The operators of `dgdd_fast.ops` in plain PyTorch, for reading: what tests and benchmarks compare with.

Shapes, units and the meaning of `domain_valid` are those of `dgdd_fast.ops`. float32 and float64 are computed
as they are; bfloat16 and float16 are widened to float32 and results rounded back. Autograd works here, and
no argument is checked.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .augmentation import AUGMENTATIONS
from .spectral import EPS


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
    """Rows of images, normalised, each with its operation, [B, C, H, W] (DSA). `crop` is a bound only."""
    batch = _widened(images)
    if rows is not None:
        batch = batch[rows]
    dtype = images.dtype
    if dtype == torch.uint8:
        assert mean is not None
        assert std is not None
        dtype, mean, std = mean.dtype, _widened(mean), _widened(std)
        batch = (batch.to(mean.dtype) / 255 - mean[:, None, None]) / std[:, None, None]
    sides = (cutout, cutout) if isinstance(cutout, int) else cutout
    parameters = parameters.to(batch.dtype)
    # Images of one operation together, then everything back in its place.
    places = [(operation == number).nonzero().flatten() for number in range(len(AUGMENTATIONS))]
    parts = [
        _AUGMENTATIONS[name](batch[place], parameters[place], sides)
        for name, place in zip(AUGMENTATIONS, places, strict=True)
        if len(place)
    ]
    return torch.cat([*parts, batch[:0]])[torch.cat(places).argsort()].to(dtype)


def _color(images: Tensor, parameters: Tensor, _: tuple[int, int]) -> Tensor:
    brightness, saturation, contrast = parameters[:, :, None, None, None].unbind(1)
    images = images + brightness
    grey = images.mean(1, keepdim=True)
    images = torch.lerp(grey, images, saturation)
    level = images.mean((1, 2, 3), keepdim=True)
    return torch.lerp(level, images, contrast)


def _crop(images: Tensor, parameters: Tensor, _: tuple[int, int]) -> Tensor:
    height, width = images.shape[2:]
    first = parameters[:, :2].long()
    y = torch.arange(height, device=images.device) + first[:, :1]
    x = torch.arange(width, device=images.device) + first[:, 1:]
    inside = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[:, None, None, :]
    pixel = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None, :]
    index = pixel.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view_as(images).masked_fill(~inside, 0)


def _cutout(images: Tensor, parameters: Tensor, sides: tuple[int, int]) -> Tensor:
    inside = []
    for axis, side in enumerate(sides):
        position = torch.arange(images.shape[2 + axis], device=images.device) - parameters[:, axis, None]
        inside.append((position >= 0) & (position < side))
    return images.masked_fill(inside[0][:, None, :, None] & inside[1][:, None, None, :], 0)


def _flip(images: Tensor, parameters: Tensor, _: tuple[int, int]) -> Tensor:
    return torch.where(parameters[:, 0, None, None, None] > 0, images.flip(3), images)


def _scale(images: Tensor, parameters: Tensor, _: tuple[int, int]) -> Tensor:
    return _sample(images, torch.diag_embed(parameters[:, :2]))


def _rotate(images: Tensor, parameters: Tensor, _: tuple[int, int]) -> Tensor:
    height, width = images.shape[2:]
    cos, sin = parameters[:, 0].cos(), parameters[:, 0].sin()
    # A rotation of pixels; the sampler's coordinates run from -1 to 1 along both axes.
    turn = torch.stack([cos, -sin * height / width, sin * width / height, cos], 1)
    return _sample(images, turn.view(-1, 2, 2))


def _sample(images: Tensor, linear: Tensor) -> Tensor:
    """Bilinear samples where `linear` [B, 2, 2] sends each pixel's (x, y), seen from the centre."""
    grid = F.affine_grid(F.pad(linear, (0, 1)), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


_AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor, tuple[int, int]], Tensor]] = {
    "none": lambda images, parameters, sides: images,
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The sum over the nine neighbours of a pixel, zeros around the image, of [C', C] times [N, C, H, W]."""
    rows, columns = x.shape[2:]
    bordered = F.pad(x, (1, 1, 1, 1))
    result = sum(
        torch.einsum("oc,nchw->nohw", weight[:, :, i, j], bordered[:, :, i : i + rows, j : j + columns])
        for i in range(3)
        for j in range(3)
    )
    assert isinstance(result, Tensor)
    return result if bias is None else result + bias[:, None, None]


def norm_relu_pool(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, pool: int = 2) -> Tensor:
    """Instance normalisation with weight and bias, ReLU and average pooling of [N, C, H, W]."""
    values = _widened(x)
    centred = values - values.mean((2, 3), keepdim=True)
    variance = centred.square().mean((2, 3), keepdim=True)
    normalised = centred / (variance + eps).sqrt()
    active = torch.relu(normalised * _widened(weight)[:, None, None] + _widened(bias)[:, None, None])
    return F.avg_pool2d(active, pool).to(x.dtype)


def conv3x3_norm_relu_pool(
    x: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    pool: int = 2,
) -> Tensor:
    """A block of the ConvNet: `norm_relu_pool` of `conv3x3`."""
    return norm_relu_pool(conv3x3(x, conv_weight, conv_bias), weight, bias, eps, pool)


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
