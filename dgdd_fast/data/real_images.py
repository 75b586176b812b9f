"""The real images where they are computed with, which need not be where they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..memory import available
from ..plans import OnHost
from .augment import AugmentDraw, augmented_rows
from .dataset import DomainDataset, normalise
from .image_rows import Images, chunks, pool_and_rows, select_rows

_SHARE = 0.5  # of the memory that is free on a GPU, for images


class DeviceImages:
    """Images for a device to take batches of: on the CPU from where they are kept, which may be a file; on a
    GPU, as many as fit live there, and the others are fetched batch by batch while it computes.

    The host runs ahead of a GPU: it gathers the images of the next pass in pinned memory, and they are copied
    in a stream of their own, while the passes before are still computed.
    """

    def __init__(self, images: Images, device: torch.device, room: int | None = None) -> None:
        """`room`: bytes for images on the device; None: half of what is free there. None of `images` is
        copied where they are on the device already, unless there is a `room`."""
        self.pool, self.rows = pool_and_rows(images)
        self.count, self.shape, self.device = len(images), images.shape[1:], device
        self.resident: Tensor | None = None
        self.stream: Any = None  # for copies to a GPU
        if room is None and _same(self.pool.device, device):
            return
        if room is None:
            room = int(_SHARE * (available(device) or 0))
        size = images.shape[1:].numel() * images.dtype.itemsize
        kept = min(self.count, room // max(1, size))
        self.resident = torch.empty((kept, *self.shape), dtype=images.dtype, device=device)
        first = 0
        there = images if kept == self.count else select_rows(images, torch.arange(kept))
        for part in chunks(there, "bringing images to the device"):
            self.resident[first : first + len(part)] = part.to(device)
            first += len(part)
        if device.type == "cuda" and self.fetches:
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def fetches(self) -> bool:
        """Whether some images live elsewhere, so that rows are better on the CPU."""
        return self.resident is not None and len(self.resident) < self.count

    def __len__(self) -> int:
        return self.count

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """A pool on the device, and where in it the images `rows`, int64 [n], are, on the device too.

        Rows on the CPU are best: to read rows from a GPU is to wait for it.
        """
        if self.resident is None:
            rows = rows.to(self.pool.device)
            return self.pool, rows if self.rows is None else self.rows[rows]
        if not self.fetches:
            return self.resident, rows.to(self.device)
        rows = rows.cpu()
        near, far = ((rows < len(self.resident)) == there for there in (True, False))
        batch = self.resident.new_empty((len(rows), *self.shape))
        batch[near.nonzero().squeeze(1).to(self.device)] = self.resident[rows[near].to(self.device)]
        batch[far.nonzero().squeeze(1).to(self.device)] = self._fetched(rows[far])
        return batch, torch.arange(len(rows), device=self.device)

    def _fetched(self, rows: Tensor) -> Tensor:
        """The images `rows`, on the device; the copy is under way, not done, when this returns."""
        rows = rows if self.rows is None else self.rows[rows.to(self.rows.device)]
        if self.stream is None:
            return self.pool[rows].to(self.device)
        host = torch.empty((len(rows), *self.shape), dtype=self.pool.dtype, pin_memory=True)
        torch.index_select(self.pool, 0, rows, out=host)
        with torch.cuda.stream(self.stream):
            there = host.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)
        there.record_stream(computing)
        return there


class RealImages:
    """The images of a data set for a device: kept as uint8, normalised batch by batch.

    Attributes:
        labels, domains: int64 [N], on the device.
        domains_on_cpu: the same domains, for draws, which are made on the CPU.
        cells: see `DomainDataset.cells`; on the CPU.
        mean, std: float32 [3], what the images are normalised with.
    """

    def __init__(
        self,
        sources: DomainDataset,
        mean: Tensor | Sequence[float],
        std: Tensor | Sequence[float],
        device: torch.device,
    ) -> None:
        self.device = device
        self.images = DeviceImages(sources.images, device)
        self.labels, self.domains = sources.labels.to(device), sources.domains.to(device)
        self.domains_on_cpu = sources.domains
        self.cells = sources.cells()
        self.mean, self.std = (torch.as_tensor(values).to(device) for values in (mean, std))
        self.num_classes, self.num_domains = sources.num_classes, sources.num_domains
        self.resolution = sources.resolution

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, rows: Tensor) -> Tensor | OnHost:
        """Rows int64 [n] on the CPU, for a plan to hold them where `take` and `augmented` want them."""
        return OnHost(rows) if self.images.fetches else rows

    def take(self, rows: Tensor) -> Tensor:
        """The images `rows`, int64 [n], best on the CPU, normalised: float32 [n, 3, H, W] on the device."""
        pool, where = self.images.at(rows)
        return normalise(pool[where], self.mean, self.std)

    def augmented(self, rows: Tensor, draw: AugmentDraw, group: Tensor | None = None) -> Tensor:
        """The same, each augmented by what was drawn for its group, in one pass; see `augmented_rows`."""
        pool, where = self.images.at(rows)
        return augmented_rows(pool, where, self.mean, self.std, draw, group)


@dataclass(frozen=True, eq=False)
class NormalisedImages:
    """uint8 images [N, 3, H, W] of which only those that are asked for are normalised, float32; indexed like
    a tensor."""

    images: Images
    mean: Tensor | Sequence[float]
    std: Tensor | Sequence[float]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return normalise(self.images[index], self.mean, self.std)


def _same(one: torch.device, other: torch.device) -> bool:
    """ "cuda" is the current one of the GPUs."""
    return one == other or (one.type == other.type == "cuda" and other.index is None)
