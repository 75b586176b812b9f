"""Decoding a data set once, for all runs: see `packed` for what is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..files import locked
from .dataset import DomainDataset
from .errors import DataError
from .folder import load_folder
from .load import is_pictures, load_dataset
from .packed import is_packed, pack_arrays, write_packed
from .pixel_store import StoreError
from .read_files import ReadProgress


def pack(
    source: str | Path,
    folder: Path,
    resolution: int | None = None,
    classes: Sequence[str] | None = None,
    *,
    progress: ReadProgress | None = None,
) -> DomainDataset:
    """Writes what `source` names to `folder`, decoded, and returns it: `load_dataset` of the folder gives the
    same images, labels and split as of `source`, bit for bit.

    Of a folder of image files, those that are packed already and have not changed since are not decoded
    again: after an interruption the same call goes on, and later it brings the folder up to date.

    Args and errors as in `load_dataset`; ValueError where another process packs into `folder`, or it holds
    something else.
    """
    pictures = Path(os.path.expanduser(source))
    if folder.is_dir() and any(folder.iterdir()) and not is_packed(folder):
        raise ValueError(f"{folder} is not empty, and no packed data set: choose another folder")
    if not is_pictures(pictures):
        return pack_arrays(folder, load_dataset(source, resolution, classes=classes))
    if folder.resolve().is_relative_to(pictures.resolve()):
        raise ValueError(f"{folder} is inside of {pictures}: choose a folder outside of the data")
    with locked(folder):
        try:
            dataset = load_folder(pictures, resolution, classes=classes, progress=progress, pack_into=folder)
        except StoreError as error:
            raise DataError(f"{error}; choose another folder, or remove this one") from error
        write_packed(folder, dataset)
    return dataset
