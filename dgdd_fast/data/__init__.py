"""Data of several domains: one container, the loaders that fill it, and a default that needs no download."""

from .benchmarks import BENCHMARKS, Benchmark
from .dataset import DomainDataset, LeaveOneOut, denormalise, may_be_mirrored, normalise
from .embedded_digits import embedded_digits
from .errors import DataError
from .folder import load_folder
from .iterable import from_iterable
from .load import DatasetSummary, load_dataset, register_loader, summary
from .npz import load_npz

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "DataError",
    "DatasetSummary",
    "DomainDataset",
    "LeaveOneOut",
    "denormalise",
    "embedded_digits",
    "from_iterable",
    "load_dataset",
    "load_folder",
    "load_npz",
    "may_be_mirrored",
    "normalise",
    "register_loader",
    "summary",
]
