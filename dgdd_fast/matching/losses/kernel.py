"""M3D: the squared maximum mean discrepancy of a class's features under a Gaussian kernel (Zhang et al., AAAI
2024)."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 100  # in which features of the same image differ, in units of the last place of their length
BANDWIDTH_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def joint_bandwidth(synthetic: Tensor, real: Tensor) -> Tensor:
    """The mean squared distance of two different rows of `synthetic` [..., n, F] and `real` [..., m, F]
    together: [...] without gradient. Infinite where all rows are equal up to rounding: the kernel is then the
    same for all pairs, and the loss has no gradient, instead of that of the rounding at the width of the
    rounding.

    Raises ValueError for fewer than two rows.
    """
    rows = torch.cat([synthetic.detach(), real.detach()], -2)
    count = rows.shape[-2]
    if count < 2:
        raise ValueError("a bandwidth needs at least two rows")
    # The sum over all ordered pairs is 2 n sum ||x - mean||^2, by the identity of Huygens.
    spread = (rows - rows.mean(-2, keepdim=True)).square().sum((-2, -1))
    alike = spread <= (ROUNDING * torch.finfo(rows.dtype).eps) ** 2 * rows.square().sum((-2, -1))
    return torch.where(alike, torch.inf, 2 * spread / (count - 1))


def kernel_matching(synthetic: Tensor, real: Tensor, bandwidth: Tensor) -> Tensor:
    """The squared discrepancy of the two sets: mean k(r, r') - 2 mean k(r, s) + mean k(s, s'), the diagonals
    included.

    k(x, y) is the sum over the five `BANDWIDTH_FACTORS` f of exp(-||x - y||^2 / (f * bandwidth)). For a fixed
    bandwidth its gradient is linear in the distribution of the real rows.

    Args:
        synthetic: [..., n, F]
        real: [..., m, F], taken as constant.
        bandwidth: [...], positive or infinity, see `joint_bandwidth`.

    Returns:
        [...] in [0, 10], up to rounding.
    """
    real = real.detach()
    return (
        _mean_kernel(real, real, bandwidth)
        - 2 * _mean_kernel(real, synthetic, bandwidth)
        + _mean_kernel(synthetic, synthetic, bandwidth)
    )


def _mean_kernel(first: Tensor, second: Tensor, bandwidth: Tensor) -> Tensor:
    # Distances do not change with the origin; amid the data their expansion loses the fewest digits.
    origin = second.mean(-2, keepdim=True).detach()
    first, second = first - origin, second - origin
    lengths = first.square().sum(-1)[..., :, None] + second.square().sum(-1)[..., None, :]
    exponent = (lengths - 2 * first @ second.mT).clamp_min(0) / bandwidth[..., None, None]
    return torch.stack([(-exponent / factor).exp().mean((-2, -1)) for factor in BANDWIDTH_FACTORS]).sum(0)
