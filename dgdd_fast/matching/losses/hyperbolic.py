"""Hyperbolic distribution matching (HDD-DM): the geodesic distance of class centroids on the Lorentz model
(Li et al., 2025).

A feature z is a tangent vector at the origin, and the exponential map sends it to the point (cosh r, sinh r *
z / ||z||) of the hyperboloid. The released code cuts r off at `MOST_RADIUS`: random networks' features are
longer than that nearly always, so that all points lie on one shell and no image outweighs the others.

All in float64: the product of two points is a difference of numbers of about e^20.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_RADIUS = 10.0
LOSS_SCALE = 20.0
# Features of the same image differ by it, as a part of their length, where they come of different passes.
ROUNDING = 100 * torch.finfo(torch.float32).eps


def lorentz_points(features: Tensor) -> Tensor:
    """The point of each of `features` [B, F]: float64 [B, 1 + F], the time coordinate first.

    Differentiable; the radius has no gradient where it is cut off, the direction keeps its own.
    """
    features = features.double()
    norm = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    direction = features / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    radius = norm.clamp_max(MOST_RADIUS)
    return torch.cat([radius.cosh(), radius.sinh() * direction], 1)


def hyperbolic_matching(synthetic_means: Tensor, real_means: Tensor) -> Tensor:
    """The loss of each class: 20 times the distance of the two centroids.

    The Lorentz centroid of points is their mean a scaled back to the hyperboloid, a / sqrt(-<a, a>), so any
    multiple of the mean will do. Centroids of the same features have no gradient: that of a distance does not
    fall towards zero, and at zero only rounding would say where it points.

    Args:
        synthetic_means, real_means: float64 [K, 1 + F], means of each class's `lorentz_points`; zero for a
            class without images, whose loss then means nothing, but is finite and without gradient.

    Returns:
        float64 [K]
    """
    first, second = (
        means / (-_product(means, means)).clamp_min(1e-16).sqrt()[:, None]
        for means in (synthetic_means, real_means)
    )
    difference = first - second
    # 4 sinh(distance / 2)^2. The cosh of small distances, <first, second> itself, is lost in rounding.
    square = _product(difference, difference)
    tolerance = ROUNDING * torch.linalg.vector_norm(second[:, 1:], dim=1)
    apart = (torch.linalg.vector_norm(difference, dim=1) > tolerance) & (square > 0)
    chord = torch.where(apart, square, 1).sqrt()
    return torch.where(apart, 2 * LOSS_SCALE * (chord / 2).asinh(), 0)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """[K], the Lorentz product of each pair of rows [K, 1 + F]."""
    return (first[:, 1:] * second[:, 1:]).sum(1) - first[:, 0] * second[:, 0]
