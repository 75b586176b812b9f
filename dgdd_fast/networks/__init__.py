"""The networks that features are compared with and that distilled sets are tested on."""

from .build import (
    build_network,
    build_staged_network,
    can_be_stacked,
    check_distillable,
    describe_network,
    has_stages,
    network_bytes,
    network_on_meta,
    register_network,
    resolve_network,
    staged_architectures,
)
from .convnet import ConvNet, default_depth
from .initialisation import drawn_parameters, fill_parameters, initialise, is_drawn_by_rule
from .network import Network, allow_second_derivatives, bytes_per_image, normalisation, rows_per_chunk
from .stacked import StackedConvNet
from .staged import StagedNetwork

__all__ = [
    "ConvNet",
    "Network",
    "StackedConvNet",
    "StagedNetwork",
    "allow_second_derivatives",
    "build_network",
    "build_staged_network",
    "bytes_per_image",
    "can_be_stacked",
    "check_distillable",
    "default_depth",
    "describe_network",
    "drawn_parameters",
    "fill_parameters",
    "has_stages",
    "initialise",
    "is_drawn_by_rule",
    "network_bytes",
    "network_on_meta",
    "normalisation",
    "register_network",
    "resolve_network",
    "rows_per_chunk",
    "staged_architectures",
]
