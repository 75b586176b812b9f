"""Data of several domains: one container, the loaders that fill it, and a default that needs no download."""

from .dataset import DomainDataset, LeaveOneOut, denormalise, normalise
from .embedded_digits import embedded_digits
from .errors import DataError
from .npz import load_npz

__all__ = [
    "DataError",
    "DomainDataset",
    "LeaveOneOut",
    "denormalise",
    "embedded_digits",
    "load_npz",
    "normalise",
]
