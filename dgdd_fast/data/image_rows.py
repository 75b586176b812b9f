"""Images that are not copied: some rows of a pool, which may be a memory-mapped file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..steps import tell

_CHUNK = 2**24  # bytes that `chunks` brings to memory at once


@dataclass(frozen=True, eq=False)
class ImageRows:
    """Those images [N, ...] that are the rows `rows`, int64 [N], of `pool` [M, ...]; indexed like a tensor,
    it gives tensors, copies of what is asked for: ``images[:]`` is all of them."""

    pool: Tensor
    rows: Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.pool.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.pool.dtype

    @property
    def device(self) -> torch.device:
        return self.pool.device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Tensor:
        return self.pool[self.rows[index]]


Images: TypeAlias = "Tensor | ImageRows"


def pool_and_rows(images: Images) -> tuple[Tensor, Tensor | None]:
    """What `images` are rows of, and which; None for all."""
    return (images.pool, images.rows) if isinstance(images, ImageRows) else (images, None)


def select_rows(images: Images, rows: Tensor) -> ImageRows:
    """The `rows`, int64 [n], of `images`; their pool is shared, not copied."""
    pool, own = pool_and_rows(images)
    return ImageRows(pool, rows if own is None else own[rows])


def chunks(images: Images, step: str, size: int | None = None) -> Iterator[Tensor]:
    """All `images` in order, `size` at a time; None: some megabytes. `step`: what they are gone through for,
    which is told (see `steps`)."""
    size = size or max(1, _CHUNK // max(1, images.shape[1:].numel() * images.dtype.itemsize))
    for first in range(0, len(images), size):
        tell(step, first, len(images))
        yield images[first : first + size]
    tell(step, len(images), len(images))
