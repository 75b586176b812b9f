"""The ConvNet of dataset distillation: it compares features, and it is trained on what was distilled."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NetworkConfig
from .instance_norm import instance_norm


def default_depth(resolution: tuple[int, int]) -> int:
    """The most blocks that leave features of at least 4 x 4 pixels, or one: 3, 4, 5 for 32, 64, 128 px."""
    return max(1, int(math.log2(max(1, min(resolution)))) - 2)


def rows_per_chunk(resolution: tuple[int, int], width: int, device: torch.device) -> int:
    """How many images a pass should take at once to be fast.

    On the CPU a float32 map of the first block stays within 8 MiB, so that the maps of a pass live in the
    cache and in memory that the process keeps (16 images of 32 px at width 128); a GPU takes 512 MiB.
    """
    mebibytes = 8 if device.type == "cpu" else 512
    return max(1, mebibytes * 2**20 // (4 * width * resolution[0] * resolution[1]))


class ConvNet(nn.Module):
    """`depth` blocks of 3x3 convolution, normalisation, ReLU and 2x2 average pooling, then one linear layer.

    `resolution` is (height, width); each block halves both sides, rounding down. A new network holds
    PyTorch's default initialisation; `initialise` refills it reproducibly. Raises ValueError where a side is
    too short for the depth.
    """

    def __init__(
        self,
        num_classes: int,
        resolution: tuple[int, int],
        config: NetworkConfig = NetworkConfig(),  # noqa: B008 (frozen)
        channels: int = 3,
    ) -> None:
        super().__init__()
        _keep_freed_memory()
        depth = default_depth(resolution) if config.depth is None else config.depth
        for name, value in (
            ("num_classes", num_classes),
            ("channels", channels),
            ("width", config.width),
            ("depth", depth),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        height, width = (side >> depth for side in resolution)
        if height < 1 or width < 1:
            raise ValueError(
                f"a network of depth {depth} halves an image {depth} times and needs sides of at least "
                f"{2**depth} px, got {resolution[0]} x {resolution[1]}; use a smaller depth or larger images"
            )
        self.blocks = nn.Sequential(
            *(_Block(channels if i == 0 else config.width, config.width, config.norm) for i in range(depth))
        )
        self.width = config.width
        self.feature_dim = config.width * height * width
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, feature_dim]: the last block after ReLU and pooling, flattened."""
        if images.device.type == "cpu":
            # Pooling and the first convolution are several times faster with the channels innermost.
            images = images.contiguous(memory_format=torch.channels_last)
        return torch.flatten(self.blocks(images), 1)

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] -> logits [N, num_classes]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Refill every parameter in place with a draw from PyTorch's default initialisation.

    Convolutions and linear layers: weight and bias uniform in +-1/sqrt(fan_in); normalisations: weight 1,
    bias 0, running statistics reset. The values depend on the generator only, not on the network's device.
    Raises TypeError for a network with layers of another kind.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(module.weight[0].numel())
                for parameter in (module.weight, module.bias):
                    if parameter is not None:
                        draw = torch.empty(parameter.shape, device=generator.device)
                        parameter.copy_(draw.uniform_(-bound, bound, generator=generator))
            elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
                module.reset_parameters()
            elif next(module.parameters(recurse=False), None) is not None:
                raise TypeError(f"no initialisation is defined for {type(module).__name__}")


def _keep_freed_memory() -> None:
    """Keep the C library of Linux from handing every freed activation back to the kernel.

    It maps large blocks afresh at each allocation, and the kernel fills them with zeros, which costs as much
    as a convolution; once it has seen a block of some size (up to 32 MiB) freed, it serves blocks of that
    size from a heap that it keeps.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


class _InstanceNorm(nn.GroupNorm):
    """One group a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, eps=1e-5)

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type == "cpu":
            return instance_norm(images, self.weight, self.bias, self.eps)
        return super().forward(images)


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, norm: str) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        self.norm: nn.Module
        if norm == "instance":
            self.norm = _InstanceNorm(width)
        elif norm == "batch":
            self.norm = nn.BatchNorm2d(width)
        elif norm == "none":
            self.norm = nn.Identity()
        else:
            raise ValueError(f"norm must be 'instance', 'batch' or 'none', got {norm!r}")

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(F.relu(self.norm(self.convolution(images)), inplace=True), 2)
