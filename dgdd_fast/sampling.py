"""Draws from the (class, domain) cells of a dataset: assigned domains, initial images, real batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .config import DistillConfig
from .data import DomainDataset, normalise
from .seeds import generator


def assign_domains(counts: Tensor, ipc: int) -> Tensor:
    """The domain d(i) of every synthetic image, fixed before the run (SGS, Eq. 11).

    Within a class the domains get equal numbers of images; where `ipc` is not a multiple of the number of
    domains, the domains that have the fewest images so far over the classes before get one more, so that the
    whole set is balanced too.

    Args:
        counts: int64 [K, D], real images in each (class, domain) cell; an empty cell is assigned nothing.
        ipc: images per class.

    Returns:
        int64 [K, ipc], ascending in each row.
    """
    totals = [0] * counts.shape[1]
    rows = []
    for class_counts in counts.tolist():
        present = [domain for domain, count in enumerate(class_counts) if count > 0]
        if not present:
            raise ValueError("a class has no image in any source domain; drop the class or add images")
        share, rest = divmod(ipc, len(present))
        quota = dict.fromkeys(present, share)
        for domain in sorted(present, key=lambda candidate: totals[candidate])[:rest]:
            quota[domain] += 1
        row = [domain for domain in present for _ in range(quota[domain])]
        for domain in row:
            totals[domain] += 1
        rows.append(row)
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), ipc)


def initial_images(
    sources: DomainDataset, domains: Tensor, config: DistillConfig, mean: Tensor, std: Tensor
) -> Tensor:
    """The synthetic images before the first iteration: float32 [K * IPC, 3, H, W], normalised, class by
    class.

    ``uniform``: real images of the class and the assigned domain; ``random``: real images of the class
    whatever their domain; ``noise``: standard normal. Real images repeat only where a cell holds fewer than
    are asked of it.
    """
    if config.init == "noise":
        shape = (domains.numel(), 3, *sources.resolution)
        return torch.randn(shape, generator=generator(config.seed, "init"))
    rows: list[Tensor] = []
    for label, cells in enumerate(sources.cells()):
        random = generator(config.seed, "init", label)
        if config.init == "random":
            rows.append(_draw(torch.cat(cells), config.ipc, random))
        else:
            for domain, cell in enumerate(cells):
                rows.append(_draw(cell, int((domains[label] == domain).sum()), random))
    return normalise(sources.images[torch.cat(rows)], mean, std)


def _draw(rows: Tensor, count: int, random: torch.Generator) -> Tensor:
    if count == 0:
        return rows[:0]
    rounds = [torch.randperm(len(rows), generator=random) for _ in range(-(-count // len(rows)))]
    return rows[torch.cat(rounds)[:count]]


def real_batch(
    cells: Sequence[Sequence[Tensor]], batch_real: int, seed: int, iteration: int
) -> tuple[Tensor, Tensor]:
    """The real images of one iteration: at most `batch_real` of every (class, domain) cell, drawn without
    replacement.

    A cell that holds fewer images is used whole.

    Returns:
        rows: int64 [B], rows of the dataset, cell after cell in class-major order.
        sizes: int64 [K, D], images of each cell in the batch.
    """
    random = generator(seed, "real", iteration)
    rows = [
        cell[torch.randperm(len(cell), generator=random)[:batch_real]]
        for class_cells in cells
        for cell in class_cells
    ]
    sizes = torch.tensor([len(drawn) for drawn in rows]).reshape(len(cells), -1)
    return torch.cat(rows), sizes
