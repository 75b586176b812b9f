"""Loading data from any kind of source, and a summary of a dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..plugins import check_new_name
from .dataset import DomainDataset
from .embedded_digits import embedded_digits
from .errors import DataError
from .folder import load_folder
from .names import near
from .npz import is_npz, load_npz
from .packed import is_packed, load_packed
from .read_files import ReadProgress

EMBEDDED_DIGITS = "embedded-digits"


# What loads data that are no files: of the text after the colon, which may be empty, and the side in pixels.
Load = Callable[[str, "int | None"], DomainDataset]


def _digits(argument: str, resolution: int | None) -> DomainDataset:
    if argument:
        raise DataError(f"{EMBEDDED_DIGITS} are built in; leave {argument!r} out")
    return embedded_digits() if resolution is None else embedded_digits(resolution)


LOADERS: dict[str, Load] = {EMBEDDED_DIGITS: _digits}


def register_loader(name: str, load: Load) -> None:
    """Make a loader of your own known: `load_dataset`, the command and studies then take ``name`` and
    ``name:what`` for a source.

    Raises ValueError for a name that is taken or that commands cannot write.
    """
    check_new_name("loader", name, LOADERS)
    LOADERS[name] = load


def load_dataset(
    source: str | Path,
    resolution: int | None = None,
    domains: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    *,
    progress: ReadProgress | None = None,
) -> DomainDataset:
    """Loads what `source` names.

    Args:
        source: ``embedded-digits``, an ``.npz`` file, a folder with one ``.npz`` file per domain (see
            `load_npz`), a folder of image files (see `load_folder`), or one that was packed (see `pack`); or
            the name of a loader that was registered, with what it is to load after a colon, if anything:
            ``mine:path``.
        resolution: side in pixels to resize to; None takes what the source has (32 for the embedded digits).
        domains: the domains to keep; None keeps all.
        classes: the classes to keep, which are numbered in the data's order; None keeps all.
        progress: called with the image files decoded and to be decoded; see `data.cache` for those that need
            not be.

    Raises DataError where there is nothing to load, saying what was looked for.
    """
    if not str(source).strip():
        raise DataError(f"the data have no name: name a folder, or '{EMBEDDED_DIGITS}'")
    name, _, argument = str(source).partition(":")
    if name in LOADERS:
        dataset = LOADERS[name](argument, resolution)
        dataset = dataset if domains is None else dataset.only_domains(domains)
        return dataset if classes is None else dataset.only_classes(classes)
    path = Path(os.path.expanduser(source))
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} is a link that leads nowhere; is what it points to moved, or not mounted?")
    if not path.exists():
        raise DataError(
            f"{path} does not exist{_near(path)}; name a data folder, or '{EMBEDDED_DIGITS}' for the "
            "built-in data"
        )
    if path.is_dir() and is_packed(path):
        return load_packed(path, resolution, domains, classes)
    if is_pictures(path):
        return load_folder(path, resolution, domains, classes, progress=progress)
    if path.is_dir():
        return load_npz(path, resolution, domains, classes)
    if path.suffix.casefold() == ".npz":
        return load_npz(path, resolution, domains, classes)
    raise DataError(
        f"{path} is a file; unpack it if it is an archive, and name the folder that holds the domains"
    )


def is_pictures(path: Path) -> bool:
    """Whether `path` is a folder to look for image files in."""
    return path.is_dir() and not is_packed(path) and not any(map(is_npz, path.iterdir()))


def _near(path: Path) -> str:
    """What else is where `path` was looked for, or among the loaders, and is spelt much like it."""
    there = next((folder for folder in path.parents if folder.is_dir()), Path())
    missing = path.relative_to(there).parts[0]
    try:
        beside = [entry.name for entry in there.iterdir()]
    except OSError:
        beside = []
    return near(missing, beside) or near(str(path), LOADERS)


@dataclass(frozen=True)
class DatasetSummary:
    """What is in a dataset.

    Attributes:
        train_counts, test_counts: images of class k in domain d at ``[k][d]``.
    """

    name: str
    images: int
    resolution: tuple[int, int]
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    train_counts: tuple[tuple[int, ...], ...]
    test_counts: tuple[tuple[int, ...], ...]
    flip_safe: bool
    warnings: tuple[str, ...]


def summary(dataset: DomainDataset) -> DatasetSummary:
    """Counts per class, domain and part, and the warnings of `dataset`."""
    cell = dataset.labels * dataset.num_domains + dataset.domains
    total = dataset.counts()
    test = torch.bincount(cell[dataset.is_test], minlength=total.numel()).reshape(total.shape)
    return DatasetSummary(
        name=dataset.name,
        images=len(dataset),
        resolution=dataset.resolution,
        class_names=dataset.class_names,
        domain_names=dataset.domain_names,
        train_counts=_table(total - test),
        test_counts=_table(test),
        flip_safe=dataset.flip_safe,
        warnings=dataset.warnings,
    )


def _table(counts: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in counts.tolist())
