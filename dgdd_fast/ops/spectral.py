"""Spectral Gradient Surgery (SGS) of per-domain image gradients.

* NaN or Inf in a gradient reaches the results of that plane (sample, channel) and of no other. Nothing is
  hidden or repaired.
* In float32 the magnitudes of a spectrum are safe from under- and overflow between 1e-18 and 1e+18.
* A CUDA graph captures them. Planes other than squares of 32, 64 and 128 pixels (and 64 x 128) and float64 go
  through the library's FFT, which plans a shape on first use: call once with it before the capture.
* Nothing is differentiable: gradients are data here. Backward through a result raises RuntimeError.

How `domain_valid` works: a domain that is marked False for a sample is left out of its mean, of its sum of
magnitudes and of its agreement; what the gradients hold there (NaN, uninitialised memory) does not matter. If
the sample's assigned domain is left out, there is no deviation to add and that term is 0. If all its domains
are left out, mean, consensus and agreement are 0.
"""

# torch.library and torch._check carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .registration import AUTOGRAD, check_like, refuse_backward

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
        domain_valid: bool [D, N], False where a domain has no gradient for an image (an empty
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


def _check_surgery(
    op: str, domain_grads: Tensor, base_grad: Tensor | None, domain_index: Tensor, domain_valid: Tensor | None
) -> None:
    torch._check(
        domain_grads.dim() == 5,
        lambda: f"dgdd::{op}: domain_grads must be [D, N, C, H, W], got {list(domain_grads.shape)}",
    )
    if base_grad is not None:
        check_like(op, "base_grad", base_grad, domain_grads.dtype, domain_grads.shape[1:])
    check_like(op, "domain_index", domain_index, torch.int64, domain_grads.shape[1:2])
    if domain_valid is not None:
        check_like(op, "domain_valid", domain_valid, torch.bool, domain_grads.shape[:2])


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
    check_like(op, "images", images, domain_grads.dtype, domain_grads.shape[1:])
    check_like(op, "momentum_buffer", momentum_buffer, domain_grads.dtype, domain_grads.shape[1:])


refuse_backward("spectral_consensus", "it takes gradients as data")


refuse_backward("spectral_surgery", "it takes gradients as data")


def _refuse_step(keyset: Any, *arguments: Any) -> None:
    raise RuntimeError(
        "dgdd::spectral_surgery_step_ is not differentiable, and one of its tensors requires a gradient. "
        "Call it under torch.no_grad(), like an optimiser's step"
    )


AUTOGRAD.impl("spectral_surgery_step_", _refuse_step, "Autograd", with_keyset=True)
