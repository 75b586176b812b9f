"""Spectral Gradient Surgery (SGS) on image gradients, whatever objective they come from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import ops
from .config import SurgeryConfig


class Decomposition(NamedTuple):
    """The parts of the SGS update (SGS, Eq. 9-11), each [N, 3, H, W] but `resultant_length` [N, 3, H, W // 2
    + 1]."""

    union: Tensor
    class_signal: Tensor
    domain_signal: Tensor
    resultant_length: Tensor


def decompose(
    domain_grads: Tensor, union: Tensor | None, domain_index: Tensor, config: SurgeryConfig
) -> Decomposition:
    """The union gradient g, the class-discriminative g_cls, the domain-specific g_dom of each image's domain,
    and R.

    Args:
        domain_grads: [D, N, 3, H, W], every cell valid.
        union: [N, 3, H, W], or None for the mean over the domains.
        domain_index: int64 [N], the domain assigned to each image.
        config: eps and the deviation; the strengths are not used.
    """
    class_signal, resultant_length = ops.spectral_consensus(domain_grads, config.eps)
    mean = domain_grads.mean(0)
    consensus = class_signal if config.consensus == "weighted" else mean
    own = domain_grads.gather(0, domain_index.view(1, -1, 1, 1, 1).expand(1, *domain_grads.shape[1:]))[0]
    return Decomposition(mean if union is None else union, class_signal, own - consensus, resultant_length)


def update_direction(
    domain_grads: Tensor,
    union: Tensor | None,
    domain_index: Tensor,
    valid: Tensor | None,
    config: SurgeryConfig,
) -> Tensor:
    """g + alpha * g_cls + beta * g_dom (SGS, Eq. 11), [N, 3, H, W]; shapes as in `ImageGradients`. Without
    `config.union` the first term is left out."""
    if not config.union:
        union = torch.zeros_like(domain_grads[0])
    return ops.spectral_surgery(
        domain_grads,
        union,
        domain_index,
        config.alpha,
        config.beta,
        config.eps,
        config.consensus == "weighted",
        valid,
    )


def surgery_step_(
    images: Tensor,
    momentum_buffer: Tensor,
    domain_grads: Tensor,
    union: Tensor | None,
    domain_index: Tensor,
    valid: Tensor | None,
    config: SurgeryConfig,
    lr: float,
    momentum: float,
) -> None:
    """One SGD step of the images along `update_direction`, in place and in one operator."""
    if not config.union:
        union = torch.zeros_like(images)
    ops.spectral_surgery_step_(
        images,
        momentum_buffer,
        domain_grads,
        union,
        domain_index,
        config.alpha,
        config.beta,
        lr,
        momentum,
        config.eps,
        config.consensus == "weighted",
        valid,
    )


def length_ratios(update: Tensor, gradient: Tensor, classes: int) -> Tensor:
    """|update| / |gradient| over the images of each class together: [K], NaN where the gradient vanishes.

    By class, as no class's images enter another's loss: for each of these problems the update is as a whole
    longer or shorter, whatever its direction. Image by image it would be another direction.

    Both are [N, 3, H, W] in order of the K classes, with the same number of images each.
    """
    longer, length = (
        torch.linalg.vector_norm(part.reshape(classes, -1), dim=1) for part in (update, gradient)
    )
    return torch.where(length > 0, longer / length, torch.nan)


def scaled_by_class(update: Tensor, ratios: Tensor) -> Tensor:
    """`update` at the length of the gradient that `length_ratios` compared it with; a class where either
    vanishes stays as it is."""
    factors = torch.where(ratios > 0, 1 / ratios, 1)
    return (update.reshape(len(ratios), -1) * factors[:, None]).reshape(update.shape)
