"""What every loader needs of the whole: names that clash, their order, classes without images, a single
domain.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

from .dataset import DomainDataset
from .errors import DataError


def check_resolution(resolution: int | None) -> None:
    """Raises DataError unless `resolution` is None or a positive number of pixels."""
    if resolution is not None and resolution < 1:
        raise DataError(f"the resolution must be at least 1 pixel, got {resolution}")


def check_spelling(kind: str, names: Iterable[str], where: str) -> None:
    """Raises DataError where two `names` differ in upper and lower case only."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"{where} has the {kind} names {other!r} and {name!r}, which differ in case only; give both "
                "the same spelling, or different names if they are different"
            )


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts without case and numbers by value: s2 before s10."""
    pieces = re.split(r"(\d+)", name.casefold())
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)], name


def chosen_names(kind: str, available: Sequence[str], wanted: Sequence[str] | None, where: str) -> list[str]:
    """Those of `available` that are `wanted` (all for None), in their order there. Raises DataError for
    others.
    """
    if wanted is None:
        return list(available)
    unknown = [name for name in wanted if name not in available]
    if unknown:
        raise DataError(f"{where} has no {kind} {unknown[0]!r}; it has {', '.join(available)}")
    if not wanted:
        raise DataError(f"{where}: choose at least one {kind} of {', '.join(available)}")
    return [name for name in available if name in wanted]


def checked_dataset(dataset: DomainDataset, warnings: Sequence[str], where: str) -> DomainDataset:
    """`dataset` with `warnings` and with what is odd about its coverage: empty cells, empty parts, one
    domain.

    Raises DataError where a class has no image in any domain.
    """
    counts = dataset.counts()
    for label, name in enumerate(dataset.class_names):
        if not counts[label].any():
            raise DataError(
                f"{where}: the class {name!r} has no image in any domain; remove the class or add images "
                "(if the labels are numbers, check that they start at 0)"
            )
    found = list(warnings)
    for domain, name in enumerate(dataset.domain_names):
        missing = [
            dataset.class_names[label] for label in (counts[:, domain] == 0).nonzero().flatten().tolist()
        ]
        if missing:
            found.append(f"domain {name!r} has no image of {', '.join(missing)}; these cells stay empty")
        in_test = dataset.is_test[dataset.domains == domain]
        if in_test.all() or not in_test.any():
            found.append(f"domain {name!r} has no image in its {'train' if in_test.all() else 'test'} part")
    if dataset.num_domains == 1:
        found.append(
            f"there is one domain only, {dataset.domain_names[0]!r}; leave-one-domain-out needs two or more "
            "(a data folder is laid out as domain/class/image)"
        )
    return dataclasses.replace(dataset, warnings=tuple(found))
