"""The data that a set was distilled from: which of their images, and have they changed since?"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..config import DistillConfig, from_dict
from ..data import DomainDataset
from ..data.pseudo_domains import apply_pseudo_domains
from ..data.record import ImageRecord
from .distilled_set import DistilledSet


class SourceData(NamedTuple):
    """Data of a set's source domains, split as when it was distilled.

    Attributes:
        data: their training part is what the set was distilled from.
        note: what has changed, in a sentence; None for nothing.
        known: False where a set of an earlier version does not tell what it was distilled from: then the test
            part may hold some of it.
    """

    data: DomainDataset
    note: str | None
    known: bool


def record_of(distilled: DistilledSet) -> ImageRecord | None:
    """The images that a set was distilled from; None where an earlier version did not record them."""
    return ImageRecord.from_json(distilled.provenance.get("learnt_from"))


def fingerprint_of(distilled: DistilledSet) -> str | None:
    """Of the images that a set was distilled from; those of an earlier version may be of pseudo-domains."""
    record = record_of(distilled)
    if record is not None:
        return record.fingerprint
    found = distilled.provenance.get("fingerprint")
    return found.partition(" ")[0] if isinstance(found, str) else None  # after it, the experts'


def source_data(distilled: DistilledSet, data: DomainDataset) -> SourceData:
    """`data`, of the set's source domains, split as when it was distilled.

    Raises DataError where they are not, or not any more, what the set was distilled from.
    """
    record = record_of(distilled)
    if record is not None:
        split, change = record.split(data)
        return SourceData(split, change, True)
    if distilled.imported is not None:
        return SourceData(
            data,
            "an imported set does not tell which images it was distilled from: the training part of the "
            "source domains is taken for them, and numbers on the rest are to be read with that in mind",
            False,
        )
    config = from_dict(DistillConfig, distilled.config)
    sources = apply_pseudo_domains(data.train(), config, torch.device("cpu"))
    if sources.fingerprint() == fingerprint_of(distilled):
        return SourceData(data, None, True)
    return SourceData(
        data,
        f"{data.name}, or its split, is not what this set was distilled from, and a set of an earlier "
        "version does not tell its images: the source domains cannot be tested without a doubt",
        False,
    )
