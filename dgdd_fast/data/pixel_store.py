"""Decoded images in a folder, to be read from there as if they were in memory.

``images.bin`` holds uint8 [M, 3, H, W] and only grows. ``images.log`` says what is in it: a line about the
whole, then one for every batch that was added, each with its checksum and that of the batch. A crash leaves
whole batches, and at most one line that is cut off. An image that is replaced stays where it is, for those
who are reading it; its successor is added at the end.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import shutil
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..files import naming, read_file
from ..json_text import parse_json
from ..memory import readable
from ..parallel import available_cores
from ..steps import counted
from .errors import DataError

FORMAT = 1
PIXELS_NAME, LOG_NAME = "images.bin", "images.log"
# A file larger than memory may be mapped: its pages are not set aside for writing before they are written to.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)

Stamp = tuple[int, ...]  # of a file as it was decoded: what it was is not what it is where this differs
Batch = npt.NDArray[np.uint8]  # [n, 3, H, W]


class StoreError(DataError):
    """A store that is of another version or content, or damaged."""


class Entry(NamedTuple):
    """An image: its row, the stamp of its file, and what was found as it was decoded (JSON values)."""

    row: int
    stamp: Stamp
    found: dict[str, Any]


class PixelStore:
    """The store in `folder`; there need not be one yet. One process writes at a time: see `files.locked`.

    Raises StoreError for one that cannot be used as it is; `clear` it or name another folder.

    Attributes:
        made: JSON values that say how its images were made; None in a store not yet begun.
        shape: (3, H, W), None while it is empty.
        entries: the images that are current, by key.
        rows: how many images are in the file, current or not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._forget()
        self._read()

    def _forget(self) -> None:
        self.made: dict[str, Any] | None = None
        self.shape: tuple[int, ...] | None = None
        self.entries: dict[str, Entry] = {}
        self.rows = 0
        self.log_bytes = 0
        self._batches: list[tuple[int, int, str]] = []  # first row, last but one, checksum

    def _read(self) -> None:
        try:
            content = self._log()
        except (FileNotFoundError, NotADirectoryError):
            return
        *lines, _cut_off = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                if line[:8] != _checksum(line[9:]):
                    raise ValueError("its content is not what was written")
                self._take(parse_json(line[9:]), first=number == 1)
            except StoreError:
                raise
            except (KeyError, TypeError, ValueError) as error:
                place = f"{self.folder / LOG_NAME}, line {number}"
                raise StoreError(f"{place}: damaged ({error})") from error
            self.log_bytes += len(line) + 1
        pixels = self.folder / PIXELS_NAME
        needed = self.rows * self.image_bytes
        there = pixels.stat().st_size if pixels.exists() else 0
        if there < needed:
            raise StoreError(f"{pixels} is truncated: {there} bytes, of {needed}")

    def _take(self, line: dict[str, Any], first: bool) -> None:
        if first:
            if line["format"] != FORMAT:
                raise StoreError(
                    f"{self.folder / LOG_NAME} has format version {line['format']}, and this dgdd-fast reads "
                    f"version {FORMAT}"
                )
            self.made, self.shape = dict(line["made"]), tuple(map(int, line["shape"]))
            return
        keys, stamps, found = line["keys"], line["stamps"], line["found"]
        for place, (key, stamp) in enumerate(zip(keys, stamps, strict=True)):
            self.entries[key] = Entry(self.rows + place, tuple(stamp), found.get(str(place), {}))
        self._batches.append((self.rows, self.rows + len(keys), line["sha256"]))
        self.rows += len(keys)

    @property
    def image_bytes(self) -> int:
        return 0 if self.shape is None else int(np.prod(self.shape))

    def begin(self, made: dict[str, Any], shape: tuple[int, ...]) -> None:
        """Say how the images are made. Raises StoreError where those that are there were made otherwise."""
        if self.made is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_store(self.folder)
            self._write({"format": FORMAT, "made": made, "shape": shape})
            self.made, self.shape = made, shape
        if (self.made, self.shape) != (made, shape):
            differ = [name for name in made if self.made.get(name) != made[name]] or ["shape"]
            was, now = (str({**known, "shape": size}[differ[0]]) for known, size in (
                (self.made, self.shape), (made, shape)))  # fmt: skip
            raise StoreError(f"{self.folder} holds images of another {differ[0]}: {was}, not {now}")

    def check_room(self, count: int, share: float) -> None:
        """Raises OSError where `count` more images take more than a `share` of what is free on the disk."""
        needed, free = count * self.image_bytes, shutil.disk_usage(self.folder).free
        if needed > share * free:
            reason = f"{count} images need {readable(needed)}, and the disk has room for {readable(free)}"
            raise OSError(errno.ENOSPC, reason, str(self.folder))

    def append(
        self, keys: Sequence[str], stamps: Sequence[Stamp], pixels: Batch, found: dict[int, Any] | None = None
    ) -> None:
        """Add images, or what takes their place; `found`: by their place in `pixels`. Raises OSError where
        the disk takes no more: what was there is untouched."""
        place = self.rows * self.image_bytes
        with naming(self.folder / PIXELS_NAME), open(self.folder / PIXELS_NAME, "ab") as file:
            file.truncate(place)  # an interrupted write may have left something
            file.write(np.ascontiguousarray(pixels).data)
        line = {
            "keys": list(keys),
            "stamps": [list(stamp) for stamp in stamps],
            "found": {str(number): what for number, what in (found or {}).items()},
            "sha256": _digest(pixels),
        }
        self._write(line)
        self._take(line, first=False)

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps(line).encode()
        content = _checksum(text) + b" " + text + b"\n"
        path = self.folder / LOG_NAME
        with naming(path), open(path, "ab") as file:
            file.truncate(self.log_bytes)
            file.write(content)
        self.log_bytes += len(content)

    def flush(self) -> None:
        """Wait until all is on the disk."""
        for name in (PIXELS_NAME, LOG_NAME):
            with naming(self.folder / name), open(self.folder / name, "rb") as file:
                os.fsync(file.fileno())

    def clear(self) -> None:
        """Begin anew; processes that have the images mapped keep them."""
        remove_store(self.folder)
        self._forget()

    def images(self) -> Tensor:
        """uint8 [M, 3, H, W], mapped from the file; what is written to it is this process's own."""
        if self.shape is None or self.rows == 0:
            return torch.empty((0, *(self.shape or (3, 1, 1))), dtype=torch.uint8)
        with naming(self.folder / PIXELS_NAME), open(self.folder / PIXELS_NAME, "rb") as file:
            size = self.rows * self.image_bytes
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            mapped = mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE | _NO_RESERVE, protection)
        return torch.frombuffer(mapped, dtype=torch.uint8).reshape(self.rows, *self.shape)

    def damaged_rows(self) -> list[range]:
        """The batches whose pixels are not those that were written."""
        images = self.images().numpy()

        def damaged(batch: tuple[int, int, str]) -> bool:
            first, end, digest = batch
            return _digest(images[first:end]) != digest

        with ThreadPoolExecutor(available_cores()) as pool:
            checked = pool.map(damaged, self._batches)
            found = list(counted("checking decoded images", checked, len(self._batches)))
        return [range(batch[0], batch[1]) for batch, bad in zip(self._batches, found, strict=True) if bad]

    def drop(self, rows: Sequence[range]) -> None:
        """Forget the entries of these rows, so that others are added for them."""
        self.entries = {
            key: entry for key, entry in self.entries.items() if not any(entry.row in part for part in rows)
        }
        self._batches = [batch for batch in self._batches if range(batch[0], batch[1]) not in rows]

    def log_digest(self, size: int) -> str:
        """SHA-256 of the first `size` bytes of the log."""
        return hashlib.sha256(self._log()[:size]).hexdigest()

    def _log(self) -> bytes:
        try:
            return read_file(self.folder / LOG_NAME)
        except ValueError as error:
            raise StoreError(f"{self.folder / LOG_NAME} cannot be read: {error}") from error


def remove_store(folder: Path) -> None:
    """Deletes a store's files, whatever is in them."""
    for name in (LOG_NAME, PIXELS_NAME):
        (folder / name).unlink(missing_ok=True)


def _digest(pixels: Batch) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)
