"""The operators of `dgdd_fast.ops` in plain PyTorch, for reading: what tests and benchmarks compare with.

Shapes, units and the meaning of `domain_valid` are those of `dgdd_fast.ops`. float32 and float64 are computed
as they are; bfloat16 and float16 are widened to float32 and results rounded back. Autograd works here, and
no argument is checked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgdd_fast.ops import EPS


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
