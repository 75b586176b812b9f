"""MixStyle: the channel means and deviations of two images' feature maps, mixed (Zhou et al., ICLR 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..networks import Network, StagedNetwork, staged_architectures

PROBABILITY = 0.5
ALPHA = 0.1
EPS = 1e-6


def mix_style(maps: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """`maps` [B, C, H, W] with each channel's mean and deviation over the pixels mixed with those of another
    image; no gradient goes through the statistics.

    Args:
        maps: of a layer.
        share: [B] in [0, 1], what an image keeps of its own style.
        partner: int64 [B], whose style is mixed in.
    """
    mean = maps.mean((2, 3), keepdim=True).detach()
    std = (maps.var((2, 3), keepdim=True) + EPS).sqrt().detach()
    share = share.to(maps)[:, None, None, None]
    mixed_mean = share * mean + (1 - share) * mean[partner]
    mixed_std = share * std + (1 - share) * std[partner]
    return (maps - mean) / std * mixed_std + mixed_mean


def install_mixstyle(network: Network, random: torch.Generator) -> None:
    """Let `network` mix styles while it is in training mode, after every stage but the last
    (a block of a ConvNet is a stage).

    Each layer draws anew at each pass: with `PROBABILITY` it mixes, with partners by a permutation of the
    batch and shares from Beta(ALPHA, ALPHA). Raises ValueError for a network without stages.
    """
    if not isinstance(network, StagedNetwork):
        raise ValueError(
            f"mixstyle mixes between the stages of a network ({', '.join(staged_architectures())}), and "
            f"{type(network).__name__} has none"
        )

    def mix(layer: nn.Module, _: Any, maps: Tensor) -> Tensor | None:
        if not layer.training or float(torch.rand((), generator=random)) >= PROBABILITY:
            return None
        share = symmetric_beta(ALPHA, len(maps), random)
        return mix_style(maps, share, torch.randperm(len(maps), generator=random).to(maps.device))

    for layer in network.stages[:-1]:
        layer.register_forward_hook(mix)


def symmetric_beta(alpha: float, count: int, random: torch.Generator) -> Tensor:
    """float64 [count], draws from Beta(alpha, alpha) for alpha up to 1, by Jöhnk's rejection."""
    accepted: list[Tensor] = []
    missing = count
    while missing > 0:
        logs = torch.rand(2, 2 * missing, generator=random, dtype=torch.float64).log() / alpha
        kept = torch.logsumexp(logs, 0) <= 0
        # x / (x + y) for x = u^(1 / alpha), y = v^(1 / alpha), which may themselves be too small for a float.
        accepted.append(torch.sigmoid(logs[0] - logs[1])[kept][:missing])
        missing -= len(accepted[-1])
    return torch.cat(accepted) if accepted else torch.zeros(0, dtype=torch.float64)
