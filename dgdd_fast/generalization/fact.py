"""FACT: amplitude spectra mixed between images, and a slowly moving teacher that both versions must agree
with (Xu et al., CVPR 2021)."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..networks import Network
from ..precision import at_least_float32

TEMPERATURE = 10.0
CONSISTENCY = 2.0
RAMP = 0.1
TEACHER_MOMENTUM = 0.9995


def mix_amplitudes(images: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """`images` [B, C, H, W] with their own phases and the amplitudes (1 - share) * own + share * `partners`';
    share [B] in [0, 1]. Differentiable."""
    own, other = torch.fft.rfft2(images), torch.fft.rfft2(partners)
    share = share.to(images)[:, None, None, None]
    mixed = (1 - share) * own + share * other.abs() * own.sgn()
    result: Tensor = torch.fft.irfft2(mixed, s=images.shape[-2:])
    return result


def mix_normalised(images: Tensor, partners: Tensor, share: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`mix_amplitudes` of images normalised with `mean` and `std`, [3] each: amplitudes are those of
    pixel intensities, not of deviations from the mean."""
    mean, std = mean[:, None, None], std[:, None, None]
    return (mix_amplitudes(images * std + mean, partners * std + mean, share) - mean) / std


def draw_partners(
    count: int, domains: Tensor | None, random: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For `count` images a partner each, int64 [count], and the share of its amplitude, [count].

    With `domains`, int64 [M] on the CPU, the partners are rows of a pool of M images of these domains: first
    a domain is drawn, each with the same probability, then one of its images. For None they are a permutation
    of the images themselves.
    """
    if domains is None:
        partner = torch.randperm(count, generator=random)
    else:
        weights = domains.bincount().double().reciprocal()[domains]
        partner = torch.multinomial(weights, count, replacement=True, generator=random)
    share = torch.rand(count, generator=random)
    return partner.to(device), share.to(device)


class Fact:
    """The loss of a batch of images and as many mixed ones, each with another image of the batch.

    Half the cross entropy of each kind, and `CONSISTENCY` times the divergence of the network's answer, at
    `TEMPERATURE`, to each kind from its teacher's answer to the other kind. The weight of the divergence
    rises to its full value over the first tenth of the epochs. The teacher is a moving average of the
    network.
    """

    def __init__(
        self, network: Network, mean: Tensor, std: Tensor, epochs: int, random: torch.Generator
    ) -> None:
        self.network, self.random = network, random
        self.mean, self.std = mean, std
        self.teacher = copy.deepcopy(network).requires_grad_(False)
        self.ramp = RAMP * epochs
        self.steps = 0

    def __call__(self, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        self._follow()
        self.steps += 1
        partner, share = draw_partners(len(images), None, self.random, images.device)
        mixed = mix_normalised(images, images[partner], share, self.mean, self.std)
        both = torch.cat([images, mixed])
        logits = at_least_float32(self.network(both))
        with torch.no_grad():
            taught = (at_least_float32(self.teacher(both)) / TEMPERATURE).softmax(1).roll(len(images), 0)
        divergence = F.kl_div((logits / TEMPERATURE).log_softmax(1), taught, reduction="sum") / len(images)
        # The mean over both kinds is half of one and half of the other.
        return F.cross_entropy(logits, torch.cat([labels, labels])) + self.weight(epoch) * divergence

    def weight(self, epoch: int) -> float:
        """Of the divergence in `epoch`, counted from 0."""
        return CONSISTENCY * math.exp(-5 * max(0.0, 1 - epoch / self.ramp) ** 2)

    @torch.no_grad()
    def _follow(self) -> None:
        momentum = min(1 - 1 / (self.steps + 1), TEACHER_MOMENTUM)
        for mine, its in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
            mine.lerp_(its, 1 - momentum)
