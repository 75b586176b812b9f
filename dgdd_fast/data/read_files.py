"""Decoding many image files on all cores, except those that were decoded before."""

from __future__ import annotations

import collections
import os
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor

from ..files import locked
from ..parallel import available_cores
from ..steps import tell
from . import cache
from .checks import check_size
from .errors import DataError
from .findings import Findings
from .image_rows import ImageRows, Images
from .images import read_image
from .layouts import ImageItem
from .names import plain_name
from .pixel_store import Batch, PixelStore, Stamp, StoreError, remove_store

# What the pixels of a file follow from beside its content and the resolution: raise the number where
# `read_image` gives others.
DECODING = f"1, Pillow {PIL.__version__}"
_BATCH = 64  # files that a thread decodes at a time
_SHARE = 0.5  # of a disk's free space, for the cache
_LISTED = 1000  # files whose times are compared from one report to the next
_AHEAD = 4  # batches that are decoded for each core and not yet taken

ReadProgress = Callable[[int, int], None]


class _Decoded(NamedTuple):
    """A batch: which of the items it has, their pixels and what was found, by place; and what cannot be
    used."""

    rows: list[int]
    stamps: list[Stamp]
    pixels: Batch
    found: dict[int, Any]
    problems: list[str]


def read_files(
    folder: Path,
    items: Sequence[ImageItem],
    resolution: int | None,
    findings: Findings,
    progress: ReadProgress | None = None,
    pack_into: Path | None = None,
) -> Images:
    """The images of `items`, which are below `folder`, as uint8 [N, 3, H, W]: of the store in `pack_into`, or
    of the cache, where those that are not known yet, or have changed, are decoded; without either in memory.

    What was done to them goes to `findings`. Raises DataError for files that cannot be used, with all of them
    in its `problems`; what was decoded is kept.
    """
    side = (resolution, resolution) if resolution is not None else _first_size(items)
    made = {"source": plain_name(str(folder.resolve())), "resolution": resolution, "decoding": DECODING}
    reading = _Reading(folder, items, resolution, side, findings, progress)
    if pack_into is not None:
        store = PixelStore(pack_into)
        store.drop(store.damaged_rows())
        return reading.through(store, made)
    kept = cache.folder_for(made, len(items))
    if kept is None:
        return reading.to_memory()
    try:
        return _through_cache(kept, reading, made)
    except OSError as error:
        reason = f"{error.filename or kept}: {error.strerror or error}"
        warnings.warn(f"decoded images are not kept in the cache ({reason})", stacklevel=4)
        return reading.to_memory()


def _through_cache(kept: Path, reading: _Reading, made: dict[str, Any]) -> Images:
    """What cannot be used there is decoded anew."""
    try:
        store = PixelStore(kept)
        if not reading.missing(store) and not store.damaged_rows():
            return reading.through(store, made, _SHARE, missing=[])
    except StoreError:
        pass
    with locked(kept, wait=True):
        try:
            store = PixelStore(kept)
            store.drop(store.damaged_rows())
            if 2 * len(store.entries) < store.rows:  # most of it is of files that have changed
                store.clear()
            return reading.through(store, made, _SHARE)
        except StoreError:
            remove_store(kept)
            return reading.through(PixelStore(kept), made, _SHARE)


class _Reading:
    """The items that are wanted, and how."""

    def __init__(
        self,
        folder: Path,
        items: Sequence[ImageItem],
        resolution: int | None,
        side: tuple[int, int],
        findings: Findings,
        progress: ReadProgress | None,
    ) -> None:
        self.items, self.resolution, self.findings = items, resolution, findings
        self.height, self.width = side
        self.progress = progress
        self.shape = (3, *side)
        self.keys = [urllib.parse.quote(os.fsencode(item.file.relative_to(folder))) for item in items]

    def to_memory(self) -> Tensor:
        check_size(len(self.items), self.height, self.width)
        images = torch.empty(len(self.items), *self.shape, dtype=torch.uint8)
        rows = images.numpy()
        for batch in self._decoded(range(len(self.items))):
            rows[batch.rows] = batch.pixels
            for place, found in batch.found.items():
                self.findings.remember(found, self._shown(batch.rows[place]))
        return images

    def through(
        self,
        store: PixelStore,
        made: dict[str, Any],
        share: float = 1,
        missing: Sequence[int] | None = None,
    ) -> ImageRows:
        """The images in the store, with what it lacks added; of the disk, it takes at most a `share` of what
        is free. `missing`: the rows that it lacks, where that is known."""
        store.begin(made, self.shape)
        missing = self.missing(store) if missing is None else missing
        store.check_room(len(missing), share)
        for batch in self._decoded(missing):
            keys = [self.keys[row] for row in batch.rows]
            if keys:
                store.append(keys, batch.stamps, batch.pixels, batch.found)
        entries = [store.entries[key] for key in self.keys]
        for row, entry in enumerate(entries):
            if entry.found:
                self.findings.remember(entry.found, self._shown(row))
        return ImageRows(store.images(), torch.tensor([entry.row for entry in entries]))

    def missing(self, store: PixelStore) -> list[int]:
        """The rows of items that the store does not have as they are now."""
        found: list[int] = []
        for row, item in enumerate(self.items):
            if row % _LISTED == 0:
                tell("looking for changed pictures", row, len(self.items))
            entry = store.entries.get(self.keys[row])
            if entry is None or entry.stamp != _stamp(item.file):
                found.append(row)
        tell("looking for changed pictures", len(self.items), len(self.items))
        return found

    def _decoded(self, rows: Sequence[int]) -> Iterator[_Decoded]:
        """The batches of the items `rows`, in order. Raises DataError at the end, where some cannot be
        used."""
        parts = [rows[first : first + _BATCH] for first in range(0, len(rows), _BATCH)]
        problems: list[str] = []
        done = 0
        for part, batch in zip(parts, _ahead(self._batch, parts), strict=True):
            if self.progress is not None and done == 0:
                self.progress(0, len(rows))
            yield batch
            problems += batch.problems
            done += len(part)
            if self.progress is not None:
                self.progress(done, len(rows))
        if problems:
            rest = f"and {len(problems) - 5} more files: dgdd data FOLDER --problems FILE lists them all"
            raise DataError("\n".join(problems[:5] + ([rest] if len(problems) > 5 else [])), problems)

    def _batch(self, rows: Sequence[int]) -> _Decoded:
        good: list[int] = []
        stamps: list[Stamp] = []
        pixels = np.empty((len(rows), *self.shape), np.uint8)
        found: dict[int, Any] = {}
        problems = []
        for row in rows:
            findings, shown = Findings(), self._shown(row)
            stamp = _stamp(self.items[row].file)  # before it is read: a change since then is noticed
            try:
                image = read_image(self.items[row].file, shown, self.resolution, findings)
            except DataError as error:
                problems.append(str(error))
                continue
            if image.shape[:2] != (self.height, self.width):
                problems.append(
                    f"{shown} is {image.shape[1]} x {image.shape[0]} pixels, others are {self.width} x "
                    f"{self.height}; choose a resolution to resize to"
                )
                continue
            pixels[len(good)] = image.transpose(2, 0, 1)
            if of_file := findings.of_one_file():
                found[len(good)] = of_file
            good.append(row)
            stamps.append(stamp)
        return _Decoded(good, stamps, pixels[: len(good)], found, problems)

    def _shown(self, row: int) -> str:
        return plain_name(str(self.items[row].file))


def _ahead(
    function: Callable[[Sequence[int]], _Decoded], parts: Sequence[Sequence[int]]
) -> Iterator[_Decoded]:
    """`function` of each part on all cores, in order; few are waiting to be taken.

    In threads: most of the time that a picture takes is Pillow's decoding and resizing, which release the
    interpreter's lock. Processes that are forked took more of the processors in all, and those that are not
    begin with seconds of imports each.
    """
    cores = available_cores()
    waiting: collections.deque[Future[_Decoded]] = collections.deque()
    left = iter(parts)
    pool = ThreadPoolExecutor(cores)
    try:
        for part in left:
            waiting.append(pool.submit(function, part))
            if len(waiting) >= _AHEAD * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # so that an interrupt does not wait for all the rest


def _stamp(file: Path) -> Stamp:
    """Size and times of a file, to the nanosecond; the second, of its last change by any means, cannot be
    set by a program. Empty where there is none to be read."""
    try:
        found = os.stat(file)
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _first_size(items: Sequence[ImageItem]) -> tuple[int, int]:
    """Height and width of the first image that can be read."""
    for item in items:
        try:
            pixels = read_image(item.file, str(item.file))
        except DataError:
            continue
        return pixels.shape[0], pixels.shape[1]
    return 1, 1  # none can be read: decoding names them all
