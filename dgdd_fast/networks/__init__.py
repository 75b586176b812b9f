"""The networks that features are compared with and that distilled sets are tested on."""

from .build import (
    Architecture,
    build_network,
    describe_network,
    has_depth,
    is_staged,
    register_network,
    resolve_network,
)
from .convnet import ConvNet, default_depth
from .initialisation import initialise
from .network import Network, allow_second_derivatives, bytes_per_image, rows_per_chunk
from .resnet import ResNet

__all__ = [
    "Architecture",
    "ConvNet",
    "Network",
    "ResNet",
    "allow_second_derivatives",
    "build_network",
    "bytes_per_image",
    "default_depth",
    "describe_network",
    "has_depth",
    "initialise",
    "is_staged",
    "register_network",
    "resolve_network",
    "rows_per_chunk",
]
