"""Checks of a whole dataset that every loader makes: empty classes, dark domains, a single domain."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from .dataset import DomainDataset
from .errors import DataError
from .image_rows import Images, chunks
from .labels import check_counting
from .names import listed

_DARK = 64  # of 255: a domain without a brighter pixel may have another range


def check_resolution(resolution: object) -> None:
    """Raises DataError unless `resolution` is None or a whole number of pixels, of which an image fits into
    memory.
    """
    if resolution is None:
        return
    if isinstance(resolution, bool) or not isinstance(resolution, Integral) or resolution < 1:
        raise DataError(f"the resolution must be a whole number and at least 1 pixel, got {resolution!r}")
    check_size(1, int(resolution), int(resolution))


def check_size(count: int, height: int, width: int) -> None:
    """Raises DataError where `count` images of that size, 3 bytes a pixel, are more than memory holds."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = 3 * count * height * width
    if needed > there:
        raise DataError(
            f"{count} images of {height} x {width} px need {needed / 2**30:.0f} GiB of memory, of "
            f"{there / 2**30:.0f} that this machine has; choose a smaller resolution, or fewer domains or "
            "classes"
        )


def check_filled(sources: DomainDataset) -> None:
    """Raises DataError where a class has no image among those to learn from."""
    empty = [
        sources.class_names[label] for label in (sources.counts().sum(1) == 0).nonzero().flatten().tolist()
    ]
    if empty:
        raise DataError(
            f"{listed(empty)} has no image to learn from in {listed(sources.domain_names)} (only in a domain "
            "that is held out, or in the test part); add images, or name the other classes (--classes)"
        )


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
    darkest, brightest = _extremes(dataset.images)
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
        most = int(brightest[dataset.domains == domain].max())
        if most < _DARK:
            found.append(
                f"domain {name!r} is dark: no pixel is brighter than {most} of 255; if its pixels have "
                "another range, scale them first"
            )
    plain = (darkest == brightest).all(1).nonzero().flatten().tolist()
    if plain and dataset.resolution != (1, 1):
        found.append(
            f"images of one colour throughout: {len(plain)}, for example {dataset.item_names[plain[0]]}"
        )
    if dataset.num_domains == 1:
        found.append(
            f"there is one domain only, {dataset.domain_names[0]!r}; leave-one-domain-out needs two or more "
            "(a data folder is laid out as domain/class/image)"
        )
    if dataset.num_classes == 1:
        found.append(
            f"there is one class only, {dataset.class_names[0]!r}, so there is nothing to tell it from"
        )
    return dataclasses.replace(dataset, warnings=tuple(dict.fromkeys(found)))


def _extremes(images: Images) -> tuple[Tensor, Tensor]:
    """uint8 [N, 3] each: the least and the largest value of every channel of images [N, 3, H, W]."""
    parts = [(part.amin((2, 3)), part.amax((2, 3))) for part in chunks(images, "checking images")]
    return torch.cat([low for low, _ in parts]), torch.cat([high for _, high in parts])
