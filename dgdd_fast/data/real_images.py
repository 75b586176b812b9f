"""The real images on the device that computes with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .augment import AugmentDraw, augmented_rows
from .dataset import DomainDataset, normalise


class RealImages:
    """The images of a data set on a device: kept as uint8, normalised batch by batch.

    Attributes:
        pixels: uint8 [N, 3, H, W].
        labels, domains: int64 [N].
        domains_on_cpu: the same domains, for draws, which are made on the CPU.
        cells: see `DomainDataset.cells`; on the CPU.
        mean, std: float32 [3], what the images are normalised with.
    """

    def __init__(
        self,
        sources: DomainDataset,
        mean: Tensor | Sequence[float],
        std: Tensor | Sequence[float],
        device: torch.device,
    ) -> None:
        self.device = device
        self.pixels = sources.images.to(device)
        self.labels, self.domains = sources.labels.to(device), sources.domains.to(device)
        self.domains_on_cpu = sources.domains
        self.cells = sources.cells()
        self.mean, self.std = (torch.as_tensor(values).to(device) for values in (mean, std))
        self.num_classes, self.num_domains = sources.num_classes, sources.num_domains
        self.resolution = sources.resolution

    def take(self, rows: Tensor) -> Tensor:
        """The images `rows`, int64 [n] on the device, normalised: float32 [n, 3, H, W]."""
        return normalise(self.pixels[rows], self.mean, self.std)

    def augmented(self, rows: Tensor, draw: AugmentDraw, group: Tensor | None = None) -> Tensor:
        """The same, each augmented by what was drawn for its group, in one pass; see `augmented_rows`."""
        return augmented_rows(self.pixels, rows, self.mean, self.std, draw, group)
