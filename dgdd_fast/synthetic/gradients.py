"""The gradients that an iteration computes at the synthetic images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def summed(losses: Tensor) -> Tensor:
    """The terms [L] of the `losses` of `ImageGradients`, summed over the classes."""
    return losses if losses.ndim == 1 else torch.stack([term.sum() for term in losses])


class ImageGradients(NamedTuple):
    """Gradients of one iteration with respect to N synthetic images (tiles, where images are mosaics): of all
    classes, or of those that the objective computes.

    Attributes:
        losses: float32 [L, K], the terms of the loss of each class against all source domains together, with
            their weights, and 0 for a class that is not computed: the objective is the sum of them all. [L]
            where a term is not the sum of the classes'.
        union: [N, 3, h, w], the gradient of the objective (SGS, Eq. 4). None where only the domain gradients
            were asked for and their plain mean is the union gradient.
        by_domain: [D, N, 3, h, w], the gradient of the matching loss against each source domain (Eq. 6), zero
            in empty cells; None if not asked for.
        valid: bool [D, N], False where the class of image n has no real image in domain d; None if every cell
            is filled.
        apart: [N, 3, h, w], the part of `union` that a second term of the loss adds; None where there is one
            term.
    """

    losses: Tensor
    union: Tensor | None
    by_domain: Tensor | None
    valid: Tensor | None
    apart: Tensor | None = None

    def union_gradient(self) -> Tensor:
        """[N, 3, h, w], the gradient of the objective, whether or not `union` spells it out."""
        if self.union is not None:
            return self.union
        if self.by_domain is None:
            raise ValueError("gradients of the union or of the domains are needed, and there are neither")
        return self.by_domain.mean(0)

    def finite_classes(self, classes: int) -> Tensor:
        """Whether the gradients of each class's images, class by class and as many of each, hold no NaN or
        infinity: bool [classes]."""
        parts = [] if self.union is None else [self.union]
        parts += [] if self.by_domain is None else list(self.by_domain)
        # Zero times a number is zero, unless the number is not finite.
        sums = [(part.reshape(classes, -1) * 0).sum(1) for part in parts]
        return (torch.stack(sums) == 0).all(0)
