"""From settings to a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..config import ARCHITECTURES, NetworkConfig, NetworkSettings, settled
from .alexnet import AlexNet
from .convnet import ConvNet, default_depth
from .network import Network
from .resnet import ResNet
from .vgg import VGG11

Build = Callable[[int, tuple[int, int], NetworkSettings, int], Network]


class Architecture(NamedTuple):
    """How a network is built.

    Attributes:
        build: of the number of classes, the (height, width) of the images, the settings and the number of
            colour channels.
        own_width: channels of the first stage where the settings leave them open.
        own_depth: blocks where the settings leave them open, by (height, width); None where the depth is
            fixed and not a setting.
    """

    build: Build
    own_width: int
    own_depth: Callable[[tuple[int, int]], int] | None = None


_ARCHITECTURES: dict[str, Architecture] = {
    "convnet": Architecture(ConvNet, ConvNet.own_width, default_depth),
    "alexnet": Architecture(AlexNet, AlexNet.own_width),
    "vgg11": Architecture(VGG11, VGG11.own_width),
    "resnet18": Architecture(ResNet, ResNet.own_width),
    "resnet50": Architecture(ResNet, ResNet.own_width),
}


def register_network(
    name: str,
    build: Build,
    *,
    label: str | None = None,
    own_width: int = 64,
    own_depth: Callable[[tuple[int, int]], int] | None = None,
) -> None:
    """Make a network of your own known as an architecture, to Python, the command and studies.

    Args:
        name: as settings say it.
        build, own_width, own_depth: see `Architecture`; what is built is a `Network`.
        label: as texts write it; None: the name.

    Raises ValueError for a name that is taken.
    """
    if name in ARCHITECTURES:
        raise ValueError(f"there is a network {name!r} already; choose another name")
    ARCHITECTURES[name] = label or name
    _ARCHITECTURES[name] = Architecture(build, own_width, own_depth)


def is_staged(architecture: str) -> bool:
    """Whether a network is a ResNet, whose stages may be passed one by one."""
    return architecture in _ARCHITECTURES and _ARCHITECTURES[architecture].build is ResNet


def has_depth(architecture: str) -> bool:
    """Whether the depth of an architecture is a setting."""
    return architecture in _ARCHITECTURES and _ARCHITECTURES[architecture].own_depth is not None


def resolve_network(config: NetworkConfig, resolution: tuple[int, int]) -> NetworkSettings:
    """The settings with the width, and for a ConvNet the depth, written out.

    Raises ValueError for an unknown network, and for a depth where the architecture has its own.
    """
    architecture = _ARCHITECTURES.get(config.architecture)
    if architecture is None:
        known = ", ".join(_ARCHITECTURES)
        raise ValueError(f"there is no network {config.architecture!r}; there are {known}")
    width, depth = config.width, config.depth
    if architecture.own_depth is not None:
        depth = architecture.own_depth(resolution) if depth is None else depth
    elif depth is not None:
        raise ValueError(f"network.depth is for a convnet; the depth of {config.architecture} is its own")
    width = architecture.own_width if width is None else width
    return settled(NetworkSettings, config, width=width, depth=depth)


def describe_network(config: NetworkConfig) -> str:
    """The network of resolved settings for a reader: "ConvNet (width 128, depth 3, instance norm)"."""
    depth = "" if config.depth is None else f", depth {config.depth}"
    return f"{ARCHITECTURES[config.architecture]} (width {config.width}{depth}, {config.norm} norm)"


def build_network(
    num_classes: int, resolution: tuple[int, int], config: NetworkConfig, channels: int = 3
) -> Network:
    """A new network for images [N, channels, *resolution]; `initialise` fills it reproducibly.

    Raises ValueError for settings or a resolution that the architecture cannot work with.
    """
    settings = resolve_network(config, resolution)
    return _ARCHITECTURES[settings.architecture].build(num_classes, resolution, settings, channels)
