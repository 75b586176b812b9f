"""A multi-domain image set of a few kilobytes: the class is a pattern, the domain its colour and contrast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dgdd_fast.data import DomainDataset
from dgdd_fast.seeds import generator


def toy_domains(
    per_cell: int = 12, classes: int = 3, domains: int = 3, side: int = 16, seed: int = 0
) -> DomainDataset:
    random = generator(seed, "toy")
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    images, labels, domain_labels = [], [], []
    for label in range(classes):
        for domain in range(domains):
            phase = torch.rand(per_cell, 1, 1, generator=random) * 3
            pattern = torch.sin((row * (label + 1) + column * (classes - label)) * 0.5 + phase)
            colour = torch.rand(3, 1, 1, generator=random) * 100 + 60
            noise = torch.randn(per_cell, 3, side, side, generator=random) * 12
            images.append((colour + pattern[:, None] * (20 + 15 * domain) + noise).clamp(0, 255).byte())
            labels += [label] * per_cell
            domain_labels += [domain] * per_cell
    count = len(labels)
    return DomainDataset(
        name="toy",
        images=torch.cat(images),
        labels=torch.tensor(labels),
        domains=torch.tensor(domain_labels),
        is_test=torch.arange(count) % 4 == 3,
        class_names=tuple(f"class{label}" for label in range(classes)),
        domain_names=tuple(f"domain{domain}" for domain in range(domains)),
        item_names=tuple(f"item{row}" for row in range(count)),
    )


def write_npz(data: DomainDataset, folder: Path) -> None:
    """The data as `load_dataset(folder)` reads them: one .npz file for each domain."""
    for domain, name in enumerate(data.domain_names):
        part = data.select(data.domains == domain)
        arrays = {
            f"{what}_{split}": values
            for split, rows in (("train", part.train()), ("test", part.test()))
            for what, values in (
                ("x", rows.images[:].permute(0, 2, 3, 1).numpy()),
                ("y", rows.labels.numpy()),
            )
        }
        np.savez(folder / f"{name}.npz", classes=np.array(data.class_names), **arrays)


def without_rows(data: DomainDataset, label: int, domain: int, keep: int) -> DomainDataset:
    """The data with at most `keep` images in one of its cells."""
    cell = data.cells()[label][domain]
    rows = torch.arange(len(data))
    return data.select(rows[~torch.isin(rows, cell[keep:])])
