"""A data set of random pixels, for benchmarks: it is speed that they measure."""

from __future__ import annotations

import torch

from dgdd_fast.data import DomainDataset
from dgdd_fast.seeds import generator


def random_domains(classes: int, domains: int, per_cell: int, side: int) -> DomainDataset:
    """`per_cell` training images of each class in each domain, uint8 [N, 3, side, side]; always the same."""
    count = classes * domains * per_cell
    cell = torch.arange(count) // per_cell
    size = (count, 3, side, side)
    return DomainDataset(
        name="random",
        images=torch.randint(0, 256, size, dtype=torch.uint8, generator=generator(0, "images")),
        labels=cell // domains,
        domains=cell % domains,
        is_test=torch.zeros(count, dtype=torch.bool),
        class_names=tuple(f"class {label}" for label in range(classes)),
        domain_names=tuple(f"domain {domain}" for domain in range(domains)),
        item_names=tuple(map(str, range(count))),
    )
