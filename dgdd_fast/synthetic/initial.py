"""The initial synthetic images, and the domain that each is assigned to."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import DistillConfig, DistillSettings
from ..data import DomainDataset, normalise
from ..seeds import generator
from .mosaics import reduce


def assign_domains(counts: Tensor, ipc: int, factor: int = 1) -> Tensor:
    """The domain d(i) of every synthetic training image, fixed before the run (SGS, Eq. 11).

    Within a class the domains get equal numbers of images; where `ipc` is not a multiple of the number of
    domains, the domains that have the fewest images so far over the classes before get one more, so that the
    whole set is balanced too. The tiles of a mosaic share its domain, unless there are fewer images per class
    than domains: then the tiles are dealt out as the images are otherwise.

    Args:
        counts: int64 [K, D], real images in each (class, domain) cell; an empty cell is assigned nothing.
        ipc: images per class.
        factor: an image is a mosaic of factor x factor tiles.

    Returns:
        int64 [K, ipc * factor**2], ascending in each row.

    Raises ValueError for a class without any image.
    """
    if factor > 1:
        if ipc < counts.shape[1]:
            return assign_domains(counts, ipc * factor**2)
        return assign_domains(counts, ipc).repeat_interleave(factor**2, dim=1)
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


def initial_tiles(
    sources: DomainDataset, domains: Tensor, config: DistillSettings, mean: Tensor, std: Tensor
) -> Tensor:
    """The synthetic tiles before the first iteration: float32 [K * T, 3, H / f, W / f], normalised, class by
    class.

    `domains` [K, T] are those of the tiles; f is ``config.factor``. With f = 1 a tile is an image.
    They are the images of `initial_rows`, shrunk to the size of a tile, or with ``noise`` standard normal.
    """
    factor = config.factor
    if config.init == "noise":
        shape = (domains.numel(), 3, *(side // factor for side in sources.resolution))
        return torch.randn(shape, generator=generator(config.seed, "init"))
    rows = initial_rows(sources, domains, config)
    return reduce(normalise(sources.images[rows], mean, std), factor)


def initial_rows(sources: DomainDataset, domains: Tensor, config: DistillConfig) -> Tensor:
    """The real images that are the first synthetic ones: rows of `sources`, int64 [K * T], class by class.

    ``uniform``: of the class and the assigned domain in `domains` [K, T]; ``random``: of the class whatever
    their domain. Images repeat only where a cell holds fewer than are asked of it.
    """
    rows: list[Tensor] = []
    for label, cells in enumerate(sources.cells()):
        random = generator(config.seed, "init", label)
        if config.init == "random":
            rows.append(_draw(torch.cat(cells), domains.shape[1], random))
        else:
            for domain, cell in enumerate(cells):
                rows.append(_draw(cell, int((domains[label] == domain).sum()), random))
    return torch.cat(rows)


def repeated_cells(sources: DomainDataset, assigned: Tensor, by_domain: bool) -> list[str]:
    """Where more real images are asked for than there are, so that some come more than once: the names of
    the classes, with their domain where `by_domain`.

    `assigned` [K, T]: the domains of the tiles.
    """
    counts = sources.counts()
    asked = torch.stack([torch.bincount(row, minlength=sources.num_domains) for row in assigned])
    if not by_domain:
        counts, asked = counts.sum(1, keepdim=True), asked.sum(1, keepdim=True)
    domains = [f" ({name})" for name in sources.domain_names] if by_domain else [""]
    cells = (asked > counts).nonzero().tolist()
    return [f"{sources.class_names[label]}{domains[domain]}" for label, domain in cells]


def _draw(rows: Tensor, count: int, random: torch.Generator) -> Tensor:
    if count == 0:
        return rows[:0]
    rounds = [torch.randperm(len(rows), generator=random) for _ in range(-(-count // len(rows)))]
    return rows[torch.cat(rounds)[:count]]
