"""The ConvNet of dataset distillation: it compares features, and it is trained on what was distilled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NetworkConfig
from .convolution import Convolution
from .network import channels_innermost, convolve_activate_and_pool, normalisation
from .staged import StagedNetwork


def default_depth(resolution: tuple[int, int]) -> int:
    """The most blocks that leave features of at least 4 x 4 pixels, or one: 3, 4, 5 for 32, 64, 128 px."""
    return max(1, int(math.log2(max(1, min(resolution)))) - 2)


class ConvNet(StagedNetwork):
    """`depth` blocks of 3x3 convolution, normalisation, ReLU and 2x2 average pooling, then one linear layer.

    `resolution` is (height, width); each block halves both sides, rounding down. A new network holds
    PyTorch's default initialisation; `initialise` refills it reproducibly. Raises ValueError where a side is
    too short for the depth.
    """

    own_width = 128

    def __init__(
        self,
        num_classes: int,
        resolution: tuple[int, int],
        config: NetworkConfig = NetworkConfig(),  # noqa: B008 (frozen)
        channels: int = 3,
    ) -> None:
        settings = self.settings(config, resolution)
        width, depth = settings.width, settings.depth
        if depth is None or depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        rows, columns = (side >> depth for side in resolution)
        if rows < 1 or columns < 1:
            raise ValueError(
                f"a network of depth {depth} halves an image {depth} times and needs sides of at least "
                f"{2**depth} px, got {resolution[0]} x {resolution[1]}; use a smaller depth or larger images"
            )
        super().__init__(num_classes, (channels, *resolution), width, width * rows * columns)
        self.stem = nn.Identity()
        self.stages = nn.ModuleList(
            Block(channels if i == 0 else width, width, config.norm, last=i == depth - 1)
            for i in range(depth)
        )
        self.channels = (width,) * depth

    @classmethod
    def own_depth(cls, resolution: tuple[int, int]) -> int:
        return default_depth(resolution)

    def head(self, maps: Tensor) -> Tensor:
        """The last maps, flattened."""
        return torch.flatten(maps, 1)

    def activations(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The ReLU outputs of all blocks, before pooling, and the features: [N, width, h, w] each and [N,
        feature_dim]."""
        maps, activations = channels_innermost(images), []
        for block in cast("Iterable[Block]", self.stages):
            activations.append(block.activation(maps))
            maps = F.avg_pool2d(activations[-1], 2)
        return activations, self.head(maps)


class Block(nn.Module):
    """Convolution, normalisation, ReLU and pooling; of `groups` networks side by side, each with so many
    `channels` and so much `width`."""

    def __init__(self, channels: int, width: int, norm: str, last: bool, groups: int = 1) -> None:
        super().__init__()
        self.convolution = Convolution(groups * channels, groups * width, groups)
        self.norm = normalisation(norm, groups * width)
        self.sizes = channels, width, norm, last
        self.last = last

    @classmethod
    @torch.no_grad()
    def stacked(cls, blocks: Sequence[Block]) -> Block:
        """The blocks of several networks as one, on their device, with their parameters one behind the
        other."""
        stacked = cls(*blocks[0].sizes, groups=len(blocks)).to(blocks[0].convolution.weight.device)
        for parameter, own in zip(
            stacked.parameters(), zip(*(block.parameters() for block in blocks), strict=True), strict=True
        ):
            parameter.copy_(torch.cat(own))
        return stacked

    def activation(self, images: Tensor) -> Tensor:
        """The output of the ReLU."""
        return self._passed(images, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self._passed(images, 2)

    def _passed(self, images: Tensor, pool: int) -> Tensor:
        # Under autocast the next convolution would round its input anyway; features are not rounded.
        dtype = self.convolution.weight.dtype if self.last else None
        return convolve_activate_and_pool(self.convolution, self.norm, images, pool, dtype)
