"""How the features of each class's synthetic images are compared with those of its real images: of all
domains together, or of one."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .losses.hyperbolic import hyperbolic_matching, lorentz_points
from .losses.kernel import joint_bandwidth, kernel_matching
from .losses.mean import distribution_matching, group_means


class Comparison(Protocol):
    """The loss of an objective, given the features of an iteration's real images.

    Attributes:
        linear: whether the gradient against all domains together is the mean of the domains' gradients,
            weighted by their shares of the class's real images.
    """

    linear: bool

    def begin(self, sizes: Tensor) -> None:
        """Forgets the iteration before; `sizes` int64 [K, D] are the real images of each cell in this one."""

    def add(self, features: Tensor, cells: Tensor) -> None:
        """Takes the features [B, F] of real images and their cells int64 [B], class * D + domain; cell after
        cell, over all calls."""

    def losses(self, features: Tensor, labels: Tensor, domain: int | None = None) -> Tensor:
        """The loss of each class, [K], of the synthetic images' features [N, F] with classes int64 [N],
        against the real images of all domains or of `domain`; 0 where there are none."""


class CellSums:
    """Of the real images only the sum over each cell is kept."""

    def begin(self, sizes: Tensor) -> None:
        self.sizes = sizes
        self.sums = torch.zeros(0)

    def add(self, features: Tensor, cells: Tensor) -> None:
        if self.sums.numel() == 0:
            self.sums = features.new_zeros(self.sizes.numel(), features.shape[1])
        # A run of consecutive cells only.
        first, last = int(cells[0]), int(cells[-1])
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
        sums, sizes = self.sums.view(*self.sizes.shape, -1).sum(0), self.sizes.sum(0)
        return {domain: sums[domain] / size for domain, size in enumerate(sizes.tolist()) if size > 0}


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
    """Keeps the features of every real image."""

    def begin(self, sizes: Tensor) -> None:
        self.sizes = sizes
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, features: Tensor, cells: Tensor) -> None:
        self.parts.append((features, cells))

    def real(self, domain: int | None) -> tuple[Tensor, Tensor]:
        """The features and classes of the real images of all domains or of one."""
        features, cells = (torch.cat(part) for part in zip(*self.parts, strict=True))
        domains = self.sizes.shape[1]
        if domain is not None:
            rows = cells % domains == domain
            features, cells = features[rows], cells[rows]
        return features, cells // domains


class KernelComparison(SampleComparison):
    """M3D.

    With a shared bandwidth, that of the class's synthetic images and its real images of all domains, a
    domain's gradient is linear in its real images' distribution; with bandwidths of its own it is not.
    """

    def __init__(self, shared_bandwidth: bool) -> None:
        self.linear = shared_bandwidth

    def losses(self, features: Tensor, labels: Tensor, domain: int | None = None) -> Tensor:
        union, union_classes = self.real(None)
        real, classes = self.real(domain)
        result = []
        for label in range(len(self.sizes)):
            synthetic, own = features[labels == label], real[classes == label]
            if len(own) == 0:
                result.append(features.new_zeros(()))
                continue
            basis = union[union_classes == label] if self.linear else own
            result.append(kernel_matching(synthetic, own, joint_bandwidth(synthetic, basis)))
        return torch.stack(result)
