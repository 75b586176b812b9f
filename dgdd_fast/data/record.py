"""Which images something was learnt from, so that none of them is tested on, however the data change later.

An image is known again by its pixels: not by its file's name, nor by the part of a split that it is in.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .dataset import DomainDataset
from .errors import DataError
from .image_rows import Images, chunks

_BYTES = 8  # of a digest
_NAMED = 3  # images in a message

Digests = npt.NDArray[np.uint64]


class Split(NamedTuple):
    """Data whose training part is what was learnt from, and whose test part is all else; and in a sentence
    what has changed since, or None."""

    data: DomainDataset
    change: str | None


class ImageRecord(NamedTuple):
    """What something was learnt from.

    Attributes:
        fingerprint: of the images, `DomainDataset.fingerprint`.
        digests: of every image once, ascending.
    """

    fingerprint: str
    digests: Digests

    @classmethod
    def of(cls, sources: DomainDataset) -> ImageRecord:
        """The record of all images of `sources`."""
        return cls(sources.fingerprint(), np.unique(image_digests(sources.images)))

    def to_json(self) -> dict[str, Any]:
        """JSON values, about 11 bytes an image."""
        packed = base64.b64encode(self.digests.astype("<u8").tobytes()).decode()
        return {"fingerprint": self.fingerprint, "digests": packed}

    @classmethod
    def from_json(cls, values: Any) -> ImageRecord | None:
        """What `to_json` gave; None for anything else, such as an earlier version wrote."""
        try:
            digests = np.frombuffer(base64.b64decode(values["digests"], validate=True), "<u8")
            return cls(str(values["fingerprint"]), digests.astype(np.uint64))
        except (KeyError, TypeError, ValueError):
            return None

    def knows(self, images: Images) -> Tensor:
        """bool [N]: which of the images [N, 3, H, W] were learnt from."""
        return torch.from_numpy(np.isin(image_digests(images), self.digests))

    def split(self, data: DomainDataset) -> Split:
        """`data` of the same domains, split as they were when they were learnt from.

        Raises DataError where most of the images are not there any more: then it is not known which
        of them must not be tested on.
        """
        if data.train().fingerprint() == self.fingerprint:
            return Split(data, None)
        digests = image_digests(data.images)
        known = torch.from_numpy(np.isin(digests, self.digests))
        there = len(np.intersect1d(digests, self.digests))
        gone = len(self.digests) - there
        if 2 * there < len(self.digests):
            raise DataError(
                f"of the {len(self.digests)} images that were learnt from, {there} are in {data.name} now: "
                "these are other data, or have all changed, and which images must not be tested on cannot be "
                "told; name the data that were learnt from (--data), or learn anew"
            )
        new = (~known & ~data.is_test).nonzero().squeeze(1).tolist()
        moved = int((known & data.is_test).sum())
        found = _in_words(data, new, gone, moved)
        left = int((~known).sum())
        return Split(
            dataclasses.replace(data, is_test=~known),
            f"{data.name} has changed: {found}. Training images are still those that were learnt from, and "
            f"all {left} others are test images",
        )

    def difference(self, sources: DomainDataset) -> str:
        """In words, how `sources`, all of them to learn from, differ from what was learnt from."""
        digests = image_digests(sources.images)
        new = np.flatnonzero(~np.isin(digests, self.digests)).tolist()
        return _in_words(sources, new, len(np.setdiff1d(self.digests, digests)))

    def without(self, test: DomainDataset) -> tuple[DomainDataset, int]:
        """`test` without the images that were learnt from, and how many those were."""
        known = self.knows(test.images)
        count = int(known.sum())
        return (test.select(~known) if count else test), count


def image_digests(images: Images) -> Digests:
    """uint64 [N] of the images [N, 3, H, W]."""
    parts = (chunk.cpu().contiguous().numpy() for chunk in chunks(images, "identifying images"))
    digests = (hashlib.blake2b(row.data, digest_size=_BYTES).digest() for part in parts for row in part)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def _in_words(data: DomainDataset, new: list[int], gone: int, moved: int = 0) -> str:
    changes = []
    if new:
        changes.append(f"{len(new)} images of its training part were not learnt from ({_named(data, new)})")
    if gone:
        changes.append(f"{gone} images that were learnt from are gone")
    if moved:
        changes.append(f"{moved} images that were learnt from are in its test part now")
    return "; ".join(changes) or "labels, domains or the order of the images are others"


def _named(data: DomainDataset, rows: list[int]) -> str:
    names = [data.item_names[row] for row in rows[:_NAMED]]
    return ", ".join(names) + (", ..." if len(rows) > _NAMED else "")
