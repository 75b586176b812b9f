"""Masking of domain-sensitive channels at one stage of an expert (CADM, Eq. 5 and 6).

It knows features and discriminators; what the masked features are compared or classified with is not its
concern.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import ops
from .config import MaskConfig
from .experts import Expert
from .seeds import generator


def draw_stage(config: MaskConfig, num_stages: int, seed: int, purpose: str, iteration: int) -> int | None:
    """The stage, one of ``config.stages`` or of 1 .. num_stages, whose channels `purpose` masks in an
    iteration, or None for no masking.

    One stage for all images, each with the same probability; masking happens with
    ``config.activation_probability``. Every purpose draws for itself.
    """
    stages = config.stages or range(1, num_stages + 1)
    random = generator(seed, "mask stage", purpose, iteration)
    stage = stages[int(torch.randint(len(stages), (), generator=random))]
    active = float(torch.rand((), generator=random, dtype=torch.float64)) < config.activation_probability
    return stage if active else None


def draw_uniforms(images: int, channels: int, seed: int, *purpose: str | int) -> Tensor:
    """The random numbers of a mask for each image: float32 [images, channels] in [0, 1), on the CPU."""
    return torch.rand(images, channels, generator=generator(seed, "mask", *purpose))


def mask(
    maps: Tensor, expert: Expert, stage: int, domain_index: Tensor, uniforms: Tensor, config: MaskConfig
) -> tuple[Tensor, Tensor]:
    """The maps [N, C, h, w] after `stage` with M = floor(config.share * C) channels of every image zeroed,
    and the mask [N, C], 0 for those.

    An image's channels are drawn without replacement with weights that grow with their activation score, the
    channel's part of the discriminator's logit for the image's domain (the bias left out); the score
    "uniform" makes all weights alike. Differentiable in `maps`, the mask being a constant.

    Args:
        domain_index: int64 [N], the domain of each image.
        uniforms: [N, C] of `draw_uniforms`.
    """
    weight: Tensor = expert.discriminator(stage).weight
    if config.score == "uniform":
        weight = torch.zeros_like(weight)
    return ops.mask_channels(
        maps,
        weight,
        domain_index,
        uniforms,
        int(config.share * maps.shape[1]),
        rescale=config.rescale,
        per_pixel=config.score == "pixel",
    )
