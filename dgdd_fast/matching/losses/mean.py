"""Distribution matching (DM): the squared distance of class means in the feature space of a random network
(SGS, Eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor


def group_means(features: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """The mean of `features` [B, F] over each group: [num_groups, F]; zero where a group has no row.

    A product with the averaging matrix, whose backward is one more product; scattered additions would come in
    no fixed order on CUDA.
    """
    member = torch.zeros(num_groups, len(groups), dtype=features.dtype, device=features.device)
    member[groups, torch.arange(len(groups), device=groups.device)] = 1.0
    return (member / member.sum(1, keepdim=True).clamp_min(1.0)) @ features


def distribution_matching(synthetic_means: Tensor, real_means: Tensor) -> Tensor:
    """The loss of each class (SGS, Eq. 3 before the sum over the classes).

    Args:
        synthetic_means: [K, F], mean features of each class's synthetic images.
        real_means: [K, F], mean features of each class's real images.

    Returns:
        [K] squared Euclidean distances, summed over the feature dimensions (not averaged).
    """
    return (synthetic_means - real_means).square().sum(1)
