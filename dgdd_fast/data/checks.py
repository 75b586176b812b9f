"""What every loader needs of the whole: classes without images, a single domain."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .dataset import DomainDataset
from .errors import DataError
from .labels import check_counting
from .names import listed


def check_resolution(resolution: int | None) -> None:
    """Raises DataError unless `resolution` is None or a positive number of pixels."""
    if resolution is not None and resolution < 1:
        raise DataError(f"the resolution must be at least 1 pixel, got {resolution}")


def checked_dataset(dataset: DomainDataset, warnings: Sequence[str], where: str) -> DomainDataset:
    """`dataset` with `warnings` and with what is odd about its coverage: empty cells, empty parts, one
    domain.

    Raises DataError where a class has no image in any domain, and where classes that are numbers are counted
    in two ways.
    """
    counts = dataset.counts()
    for label, name in enumerate(dataset.class_names):
        if not counts[label].any():
            raise DataError(
                f"{where}: the class {name!r} has no image in any domain; remove the class or add images "
                "(if the labels are numbers, check that they start at 0)"
            )
    present = [
        [dataset.class_names[label] for label in counts[:, domain].nonzero().flatten().tolist()]
        for domain in range(dataset.num_domains)
    ]
    check_counting(dataset.domain_names, present, where)
    found = list(warnings)
    parts = {"train": dataset.train().counts(), "test": dataset.test().counts()}
    for domain, name in enumerate(dataset.domain_names):
        missing = [label for label in dataset.class_names if label not in present[domain]]
        if missing:
            found.append(f"domain {name!r} has no image of {listed(missing)}; these cells stay empty")
        for part, inside in parts.items():
            if not inside[:, domain].any():
                found.append(f"domain {name!r} has no image in its {part} part")
                continue
            absent = ((inside[:, domain] == 0) & (counts[:, domain] > 1)).nonzero().flatten().tolist()
            if absent:
                names = listed([dataset.class_names[label] for label in absent])
                found.append(f"domain {name!r} has no image of {names} in its {part} part")
    if dataset.num_domains == 1:
        found.append(
            f"there is one domain only, {dataset.domain_names[0]!r}; leave-one-domain-out needs two or more "
            "(a data folder is laid out as domain/class/image)"
        )
    return dataclasses.replace(dataset, warnings=tuple(found))
