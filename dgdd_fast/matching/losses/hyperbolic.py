"""Hyperbolic distribution matching (HDD-DM): the geodesic distance of class centroids on the Lorentz model.

A feature z is a tangent vector at the origin; the exponential map sends it to the point (cosh r, sinh r * u)
of the hyperboloid, with r = ||z|| and u = z / r. Points and centroids are kept in these polar coordinates:
radius r and direction u. Neither cosh nor sinh is ever formed without a factor that keeps it in range, and
every difference of large numbers is rewritten as a sum of positive terms, so that float32 serves for any
radius.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOSS_SCALE = 20.0


class Centroids(NamedTuple):
    """Points of the hyperboloid: `radius` [G], not negative, and `direction` [G, F], unit vectors (zero where
    the radius is)."""

    radius: Tensor
    direction: Tensor


def hyperbolic_matching(synthetic: Centroids, real: Centroids) -> Tensor:
    """The loss of each class: [K], 20 times the distance of the two centroids of each class."""
    return LOSS_SCALE * distance(synthetic, real)


def lorentz_centroids(features: Tensor, groups: Tensor, num_groups: int) -> Centroids:
    """The Lorentz centroid of each group of `features` [B, F]: the mean a of the group's points, scaled back
    to the hyperboloid by 1 / sqrt(-<a, a>).

    A group without a row gets the origin. Differentiable.
    """
    radius = torch.linalg.vector_norm(features, dim=1)
    safe = radius.clamp_min(torch.finfo(features.dtype).tiny)
    direction = features / safe[:, None]
    member = torch.arange(num_groups, device=groups.device)[:, None] == groups
    present = member.any(1)

    # Weights in proportion to sinh r, and T = sum cosh r / sum sinh r = 1 + excess.
    log_sinh = _log_sinh(safe)
    log_total = torch.where(present, _masked_logsumexp(log_sinh, member), 0)
    weights = torch.where(member, (log_sinh - log_total[groups]).exp(), 0)
    log_excess = torch.where(present, _masked_logsumexp(-radius, member), 0) - log_total

    # The weighted mean of the directions, m, as seen from the direction of the largest radius: the spread
    # 1 - ||m||^2 is then a variance without the square of a mean that could nearly cancel it. Neither depends
    # on where they are seen from, so no gradient goes there.
    centre = direction.detach()[torch.where(member, radius.detach(), -1).argmax(1)]
    offset = direction - centre[groups]
    mean_offset = weights @ offset
    spread = (weights @ offset.square().sum(1) - mean_offset.square().sum(1)).clamp_min(0)
    mean = torch.where(present[:, None], centre + mean_offset, 0)
    length = torch.linalg.vector_norm(mean, dim=1)

    # sinh(radius) = ||m|| / sqrt(T^2 - ||m||^2), with T^2 - ||m||^2 = excess * (2 + excess) + spread.
    log_gap = torch.logaddexp(log_excess + (2 + log_excess.exp()).log(), _log_or_minus_inf(spread))
    centroid_radius = _asinh_of_scaled(length, -log_gap / 2)
    return Centroids(centroid_radius, mean / length.clamp_min(torch.finfo(length.dtype).tiny)[:, None])


def distance(first: Centroids, second: Centroids) -> Tensor:
    """[G], arccosh(-<p, q>) of each pair of points.

    With cosh(d) - 1 = 2 sinh^2(d / 2) the distance is ``2 asinh(||w||)`` for the vector w = (sinh((r - s) /
    2), sqrt(sinh r sinh s) (u - v) / 2), which neither cancels nor has an infinite slope at coinciding
    points: its gradient there is zero, and at most of length one (in the metric) elsewhere.
    """
    half = (first.radius - second.radius) / 2
    chord = first.direction - second.direction
    log_chord = _log_or_minus_inf(chord.square().sum(1)).detach() / 2
    tiny = torch.finfo(half.dtype).tiny
    log_sinh = (_log_sinh(first.radius.clamp_min(tiny)) + _log_sinh(second.radius.clamp_min(tiny))) / 2
    # A factor exp(-scale) that brings the longer part of w to about one.
    scale = torch.maximum(half.detach().abs(), log_sinh.detach() + log_chord).clamp_min(0)
    radial = half.sign() * (half.abs() - scale).exp() * -torch.expm1(-2 * half.abs()) / 2
    apart = log_chord.isfinite()
    factor = torch.where(apart, torch.where(apart, log_sinh - scale, 0).exp(), 0) / 2
    parts = torch.cat([radial[:, None], factor[:, None] * chord], 1)
    return 2 * _asinh_of_scaled(torch.linalg.vector_norm(parts, dim=1), scale)


def _log_sinh(x: Tensor) -> Tensor:
    """log(sinh(x)) for x > 0."""
    return x + (-torch.expm1(-2 * x)).log() - math.log(2)


def _log_or_minus_inf(x: Tensor) -> Tensor:
    """log(x) for x >= 0, with the gradient zero instead of infinite at x = 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1).log(), -torch.inf)


def _asinh_of_scaled(x: Tensor, log_scale: Tensor) -> Tensor:
    """asinh(x * exp(log_scale)) for x >= 0, of order one wherever the scale is large."""
    large = log_scale > 1
    excess = torch.where(large, log_scale, 1)
    far = excess + (x + (x.square() + (-2 * excess).exp()).sqrt()).log()
    return torch.where(large, far, torch.asinh(x * torch.where(large, 0, log_scale).exp()))


def _masked_logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    """[G], logsumexp of those of `values` [B] that each row of `mask` [G, B] names; -inf for a row that names
    none."""
    return torch.where(mask, values, -torch.inf).logsumexp(1)
