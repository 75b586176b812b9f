"""DataDAM: spatial attention maps of every layer, and the mean features of the last (Sajedi et al., ICCV
2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAP_WEIGHT = 100.0
TASK_BALANCE = 0.01


def attention_vector(activations: Sequence[Tensor], features: Tensor, power: float = 1.0) -> Tensor:
    """Everything of an image that DataDAM compares, scaled such that its loss is `distribution_matching` of
    the vectors' means.

    The attention map of a layer is the sum over its channels of |activation|^power, flattened and divided
    by its Euclidean norm for each image; each map counts `MAP_WEIGHT` times, the features `MAP_WEIGHT *
    TASK_BALANCE` times.

    Args:
        activations: the ReLU outputs of the layers but the last, [B, C_l, H_l, W_l] each.
        features: [B, F], the flattened output of the last block.
        power: the exponent. The released code uses 1, the paper says 4.

    Returns:
        [B, sum of H_l * W_l, + F]
    """
    parts = [
        math.sqrt(MAP_WEIGHT) * torch.nn.functional.normalize(_map(activation, power), dim=1, eps=1e-12)
        for activation in activations
    ]
    return torch.cat([*parts, math.sqrt(MAP_WEIGHT * TASK_BALANCE) * features], 1)


def _map(activation: Tensor, power: float) -> Tensor:
    # A ReLU output has no sign, and 0^power has no slope at powers above one.
    return (activation if power == 1 else activation.pow(power)).sum(1).flatten(1)
