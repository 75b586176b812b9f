"""Data of several domains: one container, the loaders that fill it, and a default that needs no download."""

from .dataset import DomainDataset, LeaveOneOut, denormalise, normalise
from .errors import DataError
from .npz import load_npz

__all__ = [
    "DataError",
    "DomainDataset",
    "LeaveOneOut",
    "denormalise",
    "load_npz",
    "normalise",
]
