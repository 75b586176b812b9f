"""Gradient matching (DC): the cosine distance of the weight gradients that real and synthetic images cause
(Zhao et al., ICLR 2021; with DSA, ICML 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def matched_weights(network: nn.Module) -> list[Tensor]:
    """The parameters whose gradients are compared: the weights of convolutions and linear layers. Biases and
    normalisations are left out, as in the released code."""
    return [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def weight_gradients(
    logits: Tensor, labels: Tensor, weights: Sequence[Tensor], create_graph: bool
) -> tuple[Tensor, ...]:
    """The gradients of the mean cross entropy of `logits` [B, K] against `labels` [B], one for each of
    `weights`; with `create_graph` they can be differentiated once more."""
    return torch.autograd.grad(F.cross_entropy(logits, labels), weights, create_graph=create_graph)


def gradient_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """A scalar: the sum over the layers and over each layer's output channels of 1 - cos of the angle between
    the two gradients of that channel's weights.

    The gradients are [out, ...], equal in shape. Where either gradient of a channel vanishes, cos is 0.
    """
    return torch.stack(
        [
            (1 - F.cosine_similarity(first.flatten(1), second.flatten(1), dim=1)).sum()
            for first, second in zip(synthetic, real, strict=True)
        ]
    ).sum()
