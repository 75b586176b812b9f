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

    def classes_not_finite(self, labels: Tensor) -> list[int]:
        """The classes, of `labels` int64 [N], whose gradients hold a NaN or infinity."""
        parts = [part for part in (self.union, self.by_domain) if part is not None]
        # One reduction decides nearly always: a NaN or Inf anywhere makes the sum one.
        if bool(torch.isfinite(torch.stack([part.sum() for part in parts])).all()):
            return []
        found = torch.cat([part.reshape(-1, *part.shape[-4:]) for part in parts])
        bad = ~torch.isfinite(found).all(0).flatten(1).all(1)
        return sorted(set(labels[bad].tolist()))
