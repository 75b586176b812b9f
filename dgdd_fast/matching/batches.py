"""The real images of an iteration, and how many images a pass takes at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import DistillConfig
from ..data.real_images import RealImages
from ..networks import Network, bytes_per_image, rows_per_chunk
from ..seeds import generator


class RealBatch(NamedTuple):
    """The real images of an iteration, cell after cell in class-major order.

    Attributes:
        rows: int64 [B], rows of the data; on the CPU, where the images may be. All else is on the device.
        cells: int64 [B], class * D + domain.
        sizes: int64 [K, D], images of each cell.
    """

    rows: Tensor
    cells: Tensor
    sizes: Tensor

    @property
    def labels(self) -> Tensor:
        """int64 [B]"""
        return self.cells // self.sizes.shape[1]

    @property
    def domains(self) -> Tensor:
        """int64 [B]"""
        return self.cells % self.sizes.shape[1]


def draw_real_batch(real: RealImages, config: DistillConfig, batch_real: int, iteration: int) -> RealBatch:
    """The real images of `iteration`, see `real_batch`."""
    literal = config.union == "literal"
    rows, sizes = real_batch(real.cells, batch_real, config.seed, iteration, literal)
    sizes = sizes.to(real.device)
    cells = torch.arange(sizes.numel(), device=real.device).repeat_interleave(sizes.flatten())
    return RealBatch(rows, cells, sizes)


def real_batch(
    cells: Sequence[Sequence[Tensor]], batch_real: int, seed: int, iteration: int, literal: bool = False
) -> tuple[Tensor, Tensor]:
    """The real images of one iteration, drawn without replacement: at most `batch_real` of every (class,
    domain) cell, or if `literal` of every class, whatever their domain.

    A cell or class that holds fewer images is used whole.

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


def filled_cells(sizes: Tensor, labels: Tensor) -> Tensor | None:
    """Which domains have real images of each synthetic image's class: bool [D, N], or None where all have.

    `sizes` int64 [K, D] are those of `real_batch`, `labels` int64 [N] the classes; the result is where these
    are.
    """
    if bool((sizes > 0).all()):
        return None
    return (sizes > 0).to(labels.device)[labels].T.contiguous()


def budget_rows(network: Network, config: DistillConfig, graph: bool) -> int:
    """How many images' activations fit the memory budget, those that autograd keeps if `graph`."""
    return max(1, config.memory_budget_mib * 2**20 // bytes_per_image(network, graph))


def chunk_rows(network: Network, config: DistillConfig, graph: bool) -> int:
    """How many images a pass should take at once: within the budget, and no more than is fast."""
    device = network.classifier.weight.device
    return min(rows_per_chunk(network, device), budget_rows(network, config, graph))
