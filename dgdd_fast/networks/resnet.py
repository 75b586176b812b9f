"""ResNet-18 and ResNet-50 (He et al., CVPR 2016) for small and large images, in stages that may be passed one
by one."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NetworkConfig
from .convolution import Convolution
from .network import Layers, channels_innermost, normalisation
from .staged import StagedNetwork

_BOTTLENECK_EXPANSION = 4


class ResNet(StagedNetwork):
    """A stem, four stages of residual blocks, global average pooling and one linear layer.

    A subclass says how many blocks each stage has, and which: two 3x3 convolutions, or bottlenecks. The stem
    follows the shorter side of the images, as NCFM's does: up to 64 px a 3x3 convolution; up to 128 px the
    same and a 3x3 max pooling of stride 2; beyond, the original 7x7 convolution of stride 2 and the same
    pooling. Stages 2, 3 and 4 halve the sides, rounding up.

    Attributes:
        counts: the blocks of each stage.
        expansion: the outputs of a block, as a multiple of its width.
    """

    own_width = 64
    he_normal = True
    counts: ClassVar[tuple[int, ...]]
    expansion: ClassVar[int]

    def __init__(
        self,
        num_classes: int,
        resolution: tuple[int, int],
        config: NetworkConfig,
        channels: int = 3,
    ) -> None:
        width = self.settings(config, resolution).width
        stage_channels = tuple(width * 2**stage * self.expansion for stage in range(len(self.counts)))
        super().__init__(num_classes, (channels, *resolution), width, stage_channels[-1])
        self.channels = stage_channels
        if config.norm == "instance" and max(resolution) <= 8:
            raise ValueError(
                f"the last stage of a ResNet would normalise maps of a single pixel to zero: instance "
                f"normalisation needs images of more than 8 px, got {resolution[0]} x {resolution[1]}"
            )
        stem_stride = 1 if min(resolution) <= 64 else 2 if min(resolution) <= 128 else 4
        self.stem = _stem(stem_stride, channels, width, config.norm)
        self.stages = nn.ModuleList()
        inputs = width
        for stage, count in enumerate(self.counts):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                branch = self.block(inputs, width * 2**stage, stride, config.norm)
                blocks.append(_Residual(branch, inputs, self.channels[stage], stride, config.norm))
                inputs = self.channels[stage]
            self.stages.append(nn.Sequential(*blocks))

    @staticmethod
    @abstractmethod
    def block(inputs: int, width: int, stride: int, norm: str) -> nn.Module:
        """The branch of a residual block, with `expansion` * `width` outputs."""


class _Residual(nn.Module):
    """ReLU of branch(x) + x; where the shapes differ, x goes through a 1x1 convolution."""

    def __init__(self, branch: nn.Module, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                _PointwiseConvolution(inputs, outputs, kernel_size=1, stride=stride, bias=False),
                normalisation(norm, outputs),
            )

    def forward(self, maps: Tensor) -> Tensor:
        # The branch's own result is overwritten, never `maps`: others may still need them.
        return F.relu(self.branch(maps).add_(self.shortcut(maps)), inplace=True)


class _PointwiseConvolution(nn.Conv2d):
    """A 1x1 convolution; a stride selects its pixels beforehand, with the same result.

    On the CPU, PyTorch's own strided weight gradient (oneDNN, several threads, channels innermost, 8 of them)
    writes beyond its memory.
    """

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(channels_innermost(maps[:, :, ::rows, ::columns]), self.weight, self.bias)


def _stem(stride: int, channels: int, width: int, norm: str) -> Layers:
    convolution: nn.Module
    if stride == 4:
        convolution = nn.Conv2d(channels, width, kernel_size=7, stride=2, padding=3, bias=False)
    else:
        convolution = Convolution(channels, width, bias=False)
    layers = [convolution, normalisation(norm, width), nn.ReLU(inplace=True)]
    if stride > 1:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return Layers(*layers)


def _basic_block(inputs: int, width: int, stride: int, norm: str) -> Layers:
    return Layers(
        Convolution(inputs, width, stride=stride, bias=False),
        normalisation(norm, width),
        nn.ReLU(inplace=True),
        Convolution(width, width, bias=False),
        normalisation(norm, width),
    )


def _bottleneck(inputs: int, width: int, stride: int, norm: str) -> Layers:
    outputs = width * _BOTTLENECK_EXPANSION
    return Layers(
        nn.Conv2d(inputs, width, kernel_size=1, bias=False),
        normalisation(norm, width),
        nn.ReLU(inplace=True),
        Convolution(width, width, stride=stride, bias=False),
        normalisation(norm, width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, outputs, kernel_size=1, bias=False),
        normalisation(norm, outputs),
    )


class ResNet18(ResNet):
    """Two blocks a stage, of two 3x3 convolutions each."""

    counts = (2, 2, 2, 2)
    block = staticmethod(_basic_block)
    expansion = 1


class ResNet50(ResNet):
    """3, 4, 6 and 3 bottlenecks."""

    counts = (3, 4, 6, 3)
    block = staticmethod(_bottleneck)
    expansion = _BOTTLENECK_EXPANSION
