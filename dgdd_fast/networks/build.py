"""From settings to a network."""

from __future__ import annotations

import dataclasses

from ..config import NetworkConfig
from .alexnet import AlexNet
from .convnet import ConvNet, default_depth
from .network import Network
from .resnet import ResNet
from .vgg import VGG11

_ARCHITECTURES: dict[str, type[ConvNet | AlexNet | VGG11 | ResNet]] = {
    "convnet": ConvNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet18": ResNet,
    "resnet50": ResNet,
}
_NAMES = {
    "convnet": "ConvNet",
    "alexnet": "AlexNet",
    "vgg11": "VGG-11",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
}


def resolve_network(config: NetworkConfig, resolution: tuple[int, int]) -> NetworkConfig:
    """The settings with the width, and for a ConvNet the depth, written out.

    Raises ValueError for a depth where the architecture has its own.
    """
    width = _ARCHITECTURES[config.architecture].own_width if config.width is None else config.width
    depth = config.depth
    if config.architecture == "convnet":
        depth = default_depth(resolution) if depth is None else depth
    elif depth is not None:
        raise ValueError(f"network.depth is for a convnet; the depth of {config.architecture} is its own")
    return dataclasses.replace(config, width=width, depth=depth)


def describe_network(config: NetworkConfig) -> str:
    """The network of resolved settings for a reader: "ConvNet (width 128, depth 3, instance norm)"."""
    depth = "" if config.depth is None else f", depth {config.depth}"
    return f"{_NAMES[config.architecture]} (width {config.width}{depth}, {config.norm} norm)"


def build_network(
    num_classes: int, resolution: tuple[int, int], config: NetworkConfig, channels: int = 3
) -> Network:
    """A new network for images [N, channels, *resolution]; `initialise` fills it reproducibly.

    Raises ValueError for settings or a resolution that the architecture cannot work with.
    """
    config = resolve_network(config, resolution)
    return _ARCHITECTURES[config.architecture](num_classes, resolution, config, channels)
