"""What every loader checks of the whole: names that clash, classes without images, a single domain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

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
                f"{where} has the {kind} names {other!r} and {name!r}, which differ in case only; "
                "give both the same spelling, or different names if they are different"
            )


def chosen_domains(available: Sequence[str], wanted: Sequence[str] | None, where: str) -> list[str]:
    """The domains of `available` that are `wanted` (all for None), in their order there."""
    if wanted is None:
        return list(available)
    unknown = [name for name in wanted if name not in available]
    if unknown or not wanted:
        named = f"no domain {unknown[0]!r}" if unknown else "no domain chosen"
        raise DataError(f"{where}: {named}; its domains are {', '.join(available)}")
    return [name for name in available if name in wanted]


def coverage_warnings(
    counts: Tensor, class_names: Sequence[str], domain_names: Sequence[str], where: str
) -> list[str]:
    """What is odd about int64 [K, D] `counts`: classes that a domain lacks, one domain only.

    Raises DataError where a class has no image in any domain.
    """
    for label, name in enumerate(class_names):
        if not counts[label].any():
            raise DataError(
                f"{where}: the class {name!r} has no image in any domain; remove the class or add images "
                "(if the labels are numbers, check that they start at 0)"
            )
    found = []
    for domain, name in enumerate(domain_names):
        missing = [class_names[label] for label in (counts[:, domain] == 0).nonzero().flatten().tolist()]
        if missing:
            found.append(f"domain {name!r} has no image of {', '.join(missing)}; these cells stay empty")
    if len(domain_names) == 1:
        found.append(
            f"there is one domain only, {domain_names[0]!r}; leave-one-domain-out needs two or more "
            "(a data folder is laid out as domain/class/image)"
        )
    return found
