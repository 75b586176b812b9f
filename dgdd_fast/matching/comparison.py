"""How the features of each class's synthetic images are compared with those of its real images: of all
domains together, or of one."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .batches import RealBatch
from .losses.hyperbolic import hyperbolic_matching, lorentz_points
from .losses.kernel import joint_bandwidth, kernel_matching
from .losses.mean import distribution_matching, group_means

MOST_PAIRS = 2**26  # of real images, whose kernels a GPU computes at once: 256 MiB in float32


class Comparison(Protocol):
    """The loss of an objective, given the features of an iteration's real images.

    Attributes:
        linear: whether the gradient against all domains together is the mean of the domains' gradients,
            weighted by their shares of the class's real images.
    """

    linear: bool

    def begin(self, batch: RealBatch, first: int) -> None:
        """Forgets the iteration before; `batch` are the real images of this one, and the row of them that is
        the `first` to be added."""

    def add(self, features: Tensor, cells: Tensor) -> None:
        """Takes the features [B, F] of real images and their cells int64 [B], class * D + domain; cell after
        cell, over all calls."""

    def losses(self, features: Tensor, labels: Tensor, domain: int | None = None) -> Tensor:
        """The loss of each class, [K], of the synthetic images' features [N, F] with classes int64 [N], class
        by class and as many of each, against the real images of all domains or of `domain`; 0 where there are
        none."""


class CellSums:
    """Of the real images only the sum over each cell is kept."""

    def begin(self, batch: RealBatch, first: int) -> None:
        self.layout, self.sizes = batch.layout, batch.sizes
        self.sums = torch.zeros(0)
        self.next = first

    def add(self, features: Tensor, cells: Tensor) -> None:
        if self.sums.numel() == 0:
            self.sums = features.new_zeros(self.sizes.numel(), features.shape[1])
        # A run of consecutive cells only.
        first = self.layout.cell_of(self.next)
        self.next += len(features)
        last = self.layout.cell_of(self.next - 1)
        member = torch.nn.functional.one_hot(cells - first, last - first + 1).to(features.dtype)
        self.sums[first : last + 1] += member.T @ features

    def class_means(self, domain: int | None) -> tuple[Tensor, Tensor]:
        """The mean of each class over the real images of all domains or of `domain`, [K, F], zero where there
        are none, and whether there are any, bool [K]."""
        sums, sizes = self.sums.view(*self.sizes.shape, -1), self.sizes
        if domain is not None:
            sums, sizes = sums[:, domain, None], sizes[:, domain, None]
        count = sizes.sum(1)
        return sums.sum(1) / count.clamp_min(1)[:, None], count > 0


class MeanComparison(CellSums):
    """Distribution matching (SGS, Eq. 3): quadratic in the difference of the means, hence linear in the sense
    above."""

    linear = True

    def losses(self, features: Tensor, labels: Tensor, domain: int | None = None) -> Tensor:
        real_means, there = self.class_means(domain)
        return distribution_matching(group_means(features, labels, len(there)), real_means) * there

    def domain_means(self) -> dict[int, Tensor]:
        """The mean features [F] of the real images of each domain that has any, whatever their class."""
        sums = self.sums.view(*self.sizes.shape, -1).sum(0)
        counts = map(self.layout.count_of_domain, range(self.layout.domains))
        return {domain: sums[domain] / count for domain, count in enumerate(counts) if count > 0}


class HyperbolicComparison(CellSums):
    """HDD-DM. Neither the centroid nor the distance is linear in the real images."""

    linear = False

    def add(self, features: Tensor, cells: Tensor) -> None:
        super().add(lorentz_points(features), cells)

    def losses(self, features: Tensor, labels: Tensor, domain: int | None = None) -> Tensor:
        real_means, there = self.class_means(domain)
        synthetic_means = group_means(lorentz_points(features), labels, len(there))
        return torch.where(there, hyperbolic_matching(synthetic_means, real_means), 0).to(features.dtype)


class SampleComparison:
    """Keeps the features of every real image; they are 0 where none were added."""

    def begin(self, batch: RealBatch, first: int) -> None:
        self.batch, self.sizes, self.first = batch, batch.sizes, first
        self.parts: list[Tensor] = []

    def add(self, features: Tensor, cells: Tensor) -> None:
        self.parts.append(features)

    def real(self, domain: int | None) -> tuple[Tensor, Tensor]:
        """The features and classes of the real images of all domains or of one, class by class."""
        if len(self.parts[0]) < len(self.batch.cells):
            added = torch.cat(self.parts)
            if len(added) < len(self.batch.cells):
                whole = added.new_zeros(len(self.batch.cells), added.shape[1])
                whole[self.first : self.first + len(added)] = added
                added = whole
            self.parts = [added]
        features, classes = self.parts[0], self.batch.labels
        if domain is None:
            return features, classes
        return self.batch.of_domain(features, domain), self.batch.of_domain(classes, domain)

    def there(self, domain: int | None) -> Tensor:
        """Whether a class has real images, of any domain or of one: bool [K]."""
        return (self.sizes.sum(1) if domain is None else self.sizes[:, domain]) > 0


class KernelComparison(SampleComparison):
    """M3D.

    With a shared bandwidth, that of the class's synthetic images and its real images of all domains, a
    domain's gradient is linear in its real images' distribution; with bandwidths of its own it is not.
    """

    def __init__(self, shared_bandwidth: bool) -> None:
        self.linear = shared_bandwidth

    def losses(self, features: Tensor, labels: Tensor, domain: int | None = None) -> Tensor:
        union, _ = self.real(None)
        layout = self.batch.layout
        synthetic = torch.split(features, len(features) // layout.classes)  # class by class
        result = [features.new_zeros(())] * layout.classes
        for classes in self._at_once(domain, features.device):
            of_these = _stacked([synthetic[label] for label in classes])
            own = _stacked([union[layout.rows(label, domain)] for label in classes])
            basis = _stacked([union[layout.rows(label)] for label in classes]) if self.linear else own
            losses = kernel_matching(of_these, own, joint_bandwidth(of_these, basis))
            for label, loss in zip(classes, losses.reshape(-1).unbind(), strict=True):
                result[label] = loss
        return torch.stack(result)

    def _at_once(self, domain: int | None, device: torch.device) -> list[list[int]]:
        """Classes that have real images, in groups whose kernels are computed at once: a GPU takes those with
        as many images together, as it takes as long to launch a small kernel as to run it; the CPU one by
        one, which stays in its cache."""
        layout = self.batch.layout
        groups: dict[tuple[int, ...], list[int]] = {}
        for label in range(layout.classes):
            own, all_domains = layout.count(label, domain), layout.count(label)
            if own > 0:
                most = max(1, MOST_PAIRS // all_domains**2)
                part = label if device.type == "cpu" else label // most
                groups.setdefault((own, all_domains, part), []).append(label)
        return list(groups.values())


def _stacked(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts)
