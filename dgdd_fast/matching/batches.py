"""The real images of an iteration, and how many images a pass takes at once."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import DistillConfig
from ..data.real_images import RealImages
from ..networks import Network, bytes_per_image, rows_per_chunk
from ..seeds import generator


class CellLayout:
    """Where the images of each (class, domain) cell are in a batch that holds cell after cell in class-major
    order, as the host knows it without asking a device.

    Attributes:
        domains: D.
        offsets: of each of the K * D cells, the first row; then the number of all.
    """

    def __init__(self, sizes: Tensor) -> None:
        """`sizes` int64 [K, D] are the images of each cell."""
        self.domains = sizes.shape[1]
        counts = sizes.flatten().tolist()
        self.offsets = (0, *itertools.accumulate(counts))
        self.filled = min(counts) > 0
        self.even = min(counts) == max(counts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CellLayout) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, tuple[int, ...]]:
        return self.domains, self.offsets

    @property
    def classes(self) -> int:
        """K"""
        return (len(self.offsets) - 1) // self.domains

    def rows(self, label: int, domain: int | None = None) -> slice:
        """Those of a class, or of one cell of it."""
        first = label * self.domains + (0 if domain is None else domain)
        last = first + (self.domains if domain is None else 1)
        return slice(self.offsets[first], self.offsets[last])

    def count(self, label: int, domain: int | None = None) -> int:
        """How many these are."""
        rows = self.rows(label, domain)
        return int(rows.stop - rows.start)

    def count_of_domain(self, domain: int) -> int:
        """The images of a domain, whatever their class."""
        return sum(self.count(label, domain) for label in range(self.classes))

    def cell_of(self, row: int) -> int:
        """class * D + domain of a row."""
        return bisect.bisect_right(self.offsets, row) - 1


class RealBatch(NamedTuple):
    """The real images of an iteration, cell after cell in class-major order.

    Attributes:
        rows: int64 [B], rows of the data; in a plan as `RealImages.rows` has them.
        cells: int64 [B], class * D + domain.
        sizes: int64 [K, D], images of each cell.
        layout: the same, for the host.
    """

    rows: Any
    cells: Tensor
    sizes: Tensor
    layout: CellLayout

    @property
    def labels(self) -> Tensor:
        """int64 [B]"""
        return self.cells // self.layout.domains

    @property
    def domains(self) -> Tensor:
        """int64 [B]"""
        return self.cells % self.layout.domains

    def of_domain(self, values: Tensor, domain: int) -> Tensor:
        """Those of `values` [B, ...] that belong to the images of a domain."""
        parts = [values[self.layout.rows(label, domain)] for label in range(self.layout.classes)]
        return torch.cat(parts)


def draw_real_batch(real: RealImages, config: DistillConfig, batch_real: int, iteration: int) -> RealBatch:
    """The real images of `iteration`, see `real_batch`; on the host."""
    literal = config.union == "literal"
    rows, sizes = real_batch(real.cells, batch_real, config.seed, iteration, literal)
    cells = torch.arange(sizes.numel()).repeat_interleave(sizes.flatten())
    return RealBatch(real.rows(rows), cells, sizes, CellLayout(sizes))


def real_batch(
    cells: Sequence[Sequence[Tensor]], batch_real: int, seed: int, iteration: int, literal: bool = False
) -> tuple[Tensor, Tensor]:
    """The real images of one iteration, drawn without replacement: at most `batch_real` of every (class,
    domain) cell, or if `literal` of every class, whatever their domain.

    A cell or class that holds fewer images is used whole, so that without `literal` every iteration has the
    same sizes.

    Returns:
        rows: int64 [B], rows of the dataset, cell after cell in class-major order.
        sizes: int64 [K, D], images of each cell in the batch.
    """
    random = generator(seed, "real", iteration)
    rows = []
    for class_cells in cells:
        if literal:
            held = [len(cell) for cell in class_cells]
            chosen = torch.zeros(sum(held), dtype=torch.bool)
            chosen[torch.randperm(len(chosen), generator=random)[:batch_real]] = True
            parts = zip(class_cells, torch.split(chosen, held), strict=True)
            rows += [cell[drawn] for cell, drawn in parts]
        else:
            rows += [cell[torch.randperm(len(cell), generator=random)[:batch_real]] for cell in class_cells]
    sizes = torch.tensor([len(drawn) for drawn in rows]).reshape(len(cells), -1)
    return torch.cat(rows), sizes


def filled_cells(batch: RealBatch, labels: Tensor) -> Tensor | None:
    """Which domains have real images of each synthetic image's class, of `labels` int64 [N]: bool [D, N], or
    None where all have."""
    return None if batch.layout.filled else (batch.sizes > 0)[labels].T.contiguous()


def budget_rows(network: Network, config: DistillConfig, graph: bool) -> int:
    """How many images' activations fit the memory budget, those that autograd keeps if `graph`."""
    return max(1, config.memory_budget_mib * 2**20 // bytes_per_image(network, graph))


def chunk_rows(network: Network, config: DistillConfig, graph: bool) -> int:
    """How many images a pass should take at once: within the budget, and no more than is fast."""
    device = network.classifier.weight.device
    return min(rows_per_chunk(network, device), budget_rows(network, config, graph))
