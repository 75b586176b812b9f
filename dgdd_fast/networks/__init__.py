"""The networks that features are compared with and that distilled sets are tested on."""

from .convnet import ConvNet, default_depth, initialise, rows_per_chunk

__all__ = ["ConvNet", "default_depth", "initialise", "rows_per_chunk"]
