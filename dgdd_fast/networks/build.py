"""Networks by name: how each is built, and where others are registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from ..config import ARCHITECTURES, NetworkConfig, NetworkSettings
from ..plugins import check_new_name
from .alexnet import AlexNet
from .convnet import ConvNet
from .library import library_network, library_of
from .network import Network
from .resnet import ResNet18, ResNet50
from .staged import StagedNetwork
from .vgg import VGG11

_NETWORKS: dict[str, type[Network]] = {
    "convnet": ConvNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet18": ResNet18,
    "resnet50": ResNet50,
}


def register_network(name: str, network: type[Network], *, label: str | None = None) -> None:
    """Make a network of your own known as an architecture, to Python, the command and studies.

    Args:
        name: as settings say it.
        network: a subclass of `Network`; of `StagedNetwork`, if experts, masks, DataDAM and MixStyle are to
            take it.
        label: as texts write it; None: the name.

    Raises ValueError for a name that is taken or that commands cannot write, TypeError for another class.
    """
    check_new_name("network", name, ARCHITECTURES)
    if not (isinstance(network, type) and issubclass(network, Network)):
        raise TypeError(f"the network {name!r} must be a subclass of dgdd_fast.networks.Network")
    ARCHITECTURES[name] = label or name
    _NETWORKS[name] = network


def has_stages(architecture: str) -> bool:
    """Whether the stages of a network may be passed one by one."""
    return issubclass(_network(architecture), StagedNetwork)


def can_be_stacked(architecture: str) -> bool:
    """Whether several such networks can be one `StackedConvNet`."""
    return _network(architecture) is ConvNet


def staged_architectures() -> list[str]:
    """The networks that have stages, by name."""
    return [name for name in _NETWORKS if has_stages(name)]


def resolve_network(config: NetworkConfig, resolution: tuple[int, int]) -> NetworkSettings:
    """The settings with the width, and for a ConvNet the depth, written out.

    Raises ValueError for an unknown network, and for a depth where the architecture has its own.
    """
    return _network(config.architecture).settings(config, resolution)


def describe_network(config: NetworkConfig) -> str:
    """The network of resolved settings in words: "ConvNet (width 128, depth 3, instance norm)"."""
    library = library_of(config.architecture)
    if library is not None:
        return f"{config.architecture.partition(':')[2]} of {library}"
    depth = "" if config.depth is None else f", depth {config.depth}"
    return f"{ARCHITECTURES[config.architecture]} (width {config.width}{depth}, {config.norm} norm)"


def build_network(
    num_classes: int, resolution: tuple[int, int], config: NetworkConfig, channels: int = 3
) -> Network:
    """A new network for images [N, channels, *resolution]; `initialise` fills it reproducibly.

    Raises ValueError for settings or a resolution that the architecture cannot work with.
    """
    settings = resolve_network(config, resolution)
    build = cast("Callable[..., Network]", _network(settings.architecture))
    return build(num_classes, resolution, settings, channels)


def network_on_meta(num_classes: int, resolution: tuple[int, int], config: NetworkConfig) -> Network | None:
    """The network without any memory for its parameters; None for one (a plugin's) that computes while it is
    built, which takes memory.

    Raises ValueError as `build_network` does.
    """
    try:
        with torch.device("meta"):
            return build_network(num_classes, resolution, config)
    except (RuntimeError, TypeError):  # by what it computes; an error of its own returns when it is built
        return None


def network_bytes(num_classes: int, resolution: tuple[int, int], config: NetworkConfig) -> int:
    """What the parameters take in float32, found without any memory for them; 0 for a network that does not
    say, see `network_on_meta`. Raises ValueError as `build_network` does.
    """
    network = network_on_meta(num_classes, resolution, config)
    return 0 if network is None else sum(4 * parameter.numel() for parameter in network.parameters())


def build_staged_network(
    num_classes: int, resolution: tuple[int, int], config: NetworkConfig
) -> StagedNetwork:
    """As `build_network`, for RGB images; raises ValueError where the architecture has no stages."""
    network = build_network(num_classes, resolution, config)
    if not isinstance(network, StagedNetwork):
        raise ValueError(
            f"{config.architecture} has no stages; {', '.join(staged_architectures())} have some"
        )
    return network


def check_distillable(architecture: str) -> None:
    """Raises ValueError for a network that sets can be tested with, but not distilled."""
    if library_of(architecture) is not None:
        raise ValueError(
            f"{architecture} is for evaluation only: what distils must pass the images of a class in parts, "
            "without statistics of a batch, and be refilled in place at every iteration, which networks of "
            f"libraries do not; distil with one of {', '.join(_NETWORKS)}"
        )


def _network(architecture: str) -> type[Network]:
    if library_of(architecture) is not None:
        return library_network(architecture)
    if architecture not in _NETWORKS:
        raise ValueError(f"there is no network {architecture!r}; there are {', '.join(_NETWORKS)}")
    return _NETWORKS[architecture]
