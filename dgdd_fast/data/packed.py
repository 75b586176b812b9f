"""A packed data set: a folder with decoded images (see `pixel_store`) and ``packed.safetensors``, which says
what they are: labels, domains, split and names. It may be moved, and needs nothing of what it was packed
from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from ..files import locked
from ..memory import readable
from ..tensor_file import TensorFile, TensorFileError
from .checks import checked_dataset
from .dataset import DomainDataset
from .errors import DataError
from .image_rows import ImageRows, chunks, pool_and_rows
from .pixel_store import LOG_NAME, PixelStore, StoreError

PACKED_NAME = "packed.safetensors"
PACKED_FILES = (PACKED_NAME, LOG_NAME)
_FILE = TensorFile("dgdd_fast_packed", "a packed data set", version=1)
_ANEW = "pack the pictures anew, into another folder (dgdd pack)"


def is_packed(folder: Path) -> bool:
    """Whether `folder` is a packed data set, whole or not."""
    return any((folder / name).exists() for name in PACKED_FILES)


def write_packed(folder: Path, dataset: DomainDataset) -> None:
    """Say what the images in the store in `folder` are: `dataset`, whose images are of that store."""
    store = PixelStore(folder)
    store.flush()
    _, rows = pool_and_rows(dataset.images)
    tensors = {
        "labels": dataset.labels,
        "domains": dataset.domains,
        "is_test": dataset.is_test,
        "rows": torch.arange(len(dataset)) if rows is None else rows,
    }
    description = {
        "name": dataset.name,
        "class_names": dataset.class_names,
        "domain_names": dataset.domain_names,
        "item_names": dataset.item_names,
        "warnings": dataset.warnings,
        "log_bytes": store.log_bytes,
        "log_sha256": store.log_digest(store.log_bytes),
    }
    _FILE.write(folder / PACKED_NAME, tensors, description)


def pack_arrays(folder: Path, dataset: DomainDataset) -> DomainDataset:
    """Writes a data set that is in memory to `folder`; returns it as it is there."""
    with locked(folder):
        if (folder / PACKED_NAME).exists():
            raise ValueError(f"{folder} holds a packed data set: choose another folder")
        store = PixelStore(folder)
        store.clear()
        store.begin({"source": dataset.name}, tuple(dataset.images.shape[1:]))
        store.check_room(len(dataset), 1)
        first = 0
        for chunk in chunks(dataset.images, "packing"):
            keys = dataset.item_names[first : first + len(chunk)]
            store.append(
                [f"{first + place} {key}" for place, key in enumerate(keys)], [()] * len(keys), chunk.numpy()
            )
            first += len(chunk)
        packed = dataclasses.replace(dataset, images=store.images())
        write_packed(folder, packed)
    return packed


def load_packed(
    folder: Path,
    resolution: int | None = None,
    domains: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> DomainDataset:
    """The data set in `folder`, its images mapped from the file; every checksum is verified.

    Raises DataError where it is not whole, of another version or resolution, or changed.
    """
    path = folder / PACKED_NAME
    if not path.exists():
        raise DataError(f"{folder} was not packed to its end; go on with the same `dgdd pack`, or remove it")
    try:
        tensors, said = _FILE.read(path)
        store = PixelStore(folder)
        if store.log_digest(said["log_bytes"]) != said["log_sha256"]:
            raise StoreError(f"{folder / LOG_NAME} is not what {PACKED_NAME} was written for")
        dataset = DomainDataset(
            name=said["name"],
            images=_images(store, tensors["rows"]),
            labels=tensors["labels"],
            domains=tensors["domains"],
            is_test=tensors["is_test"],
            class_names=tuple(said["class_names"]),
            domain_names=tuple(said["domain_names"]),
            item_names=tuple(said["item_names"]),
        )
    except TensorFileError as error:
        raise DataError(f"{path}: {error}; {_ANEW}") from error
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing; copy the folder again, or {_ANEW}") from error
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{error}; {_ANEW}") from error
    if resolution is not None and dataset.resolution != (resolution, resolution):
        height, width = dataset.resolution
        raise DataError(
            f"{folder} was packed at {height} x {width} px, not at {resolution}: pack the pictures at that "
            "resolution too (dgdd pack --resolution), or name the pictures themselves"
        )
    if domains is not None:
        dataset = dataset.only_domains(domains)
    if classes is not None:
        dataset = dataset.only_classes(classes)
    return checked_dataset(dataset, said["warnings"], str(folder))


def _images(store: PixelStore, rows: torch.Tensor) -> torch.Tensor | ImageRows:
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < store.rows:
        raise StoreError(f"{store.folder} lacks some of its images")
    for damaged in store.damaged_rows():
        inside = ((rows >= damaged.start) & (rows < damaged.stop)).sum()
        if inside:
            raise StoreError(
                f"{inside} images in {store.folder} are not what was packed (from row {damaged.start} on)"
            )
    images = store.images()
    in_order = len(rows) == len(images) and torch.equal(rows, torch.arange(len(rows)))
    return images if in_order else ImageRows(images, rows)


def size_of(folder: Path) -> str:
    """The room that a packed data set takes, in readable units."""
    return readable(sum(path.stat().st_size for path in folder.iterdir() if path.is_file()))
