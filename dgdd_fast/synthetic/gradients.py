"""What an iteration finds out about the synthetic images: their gradients."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ImageGradients(NamedTuple):
    """Gradients of one iteration with respect to N synthetic images (tiles, where images are mosaics).

    Attributes:
        losses: float32 [L], the terms of the loss against all source domains together, each summed over the
            classes and with its weight: the objective is their sum.
        union: [N, 3, h, w], the gradient of the objective (SGS, Eq. 4). None where only the domain gradients
            were asked for and their plain mean is the union gradient.
        by_domain: [D, N, 3, h, w], the gradient of the matching loss against each source domain (Eq. 6), zero
            in empty cells; None if not asked for.
        valid: bool [D, N], False where the class of image n has no real image in domain d; None if every cell
            is filled.
    """

    losses: Tensor
    union: Tensor | None
    by_domain: Tensor | None
    valid: Tensor | None

    def of_union(self) -> Tensor:
        """[N, 3, h, w], the gradient of the objective, whether or not `union` spells it out."""
        if self.union is not None:
            return self.union
        assert self.by_domain is not None
        return self.by_domain.mean(0)
