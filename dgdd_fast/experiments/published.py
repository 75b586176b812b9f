"""The tables of the two papers, as printed, to stand beside one's own.

Each file of `published/` is one table of SGS (arXiv 2605.18836) or CADM (AAAI 2026) for one data set. Its
rows have the keys of `study.MethodEntry`, its columns the names of the domains in `data.benchmarks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from ..data.benchmarks import BENCHMARKS, Benchmark, domain_key

AVERAGE = "average"


class Figure(NamedTuple):
    """An accuracy in percent, or another number, as printed; `std` None where none is given."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper.

    Attributes:
        name: of its file.
        paper, table, note: where it is printed, and what its numbers are.
        benchmark: the data.
        columns: domains or architectures, and average where the paper prints one.
        blocks: by images per class and row: a figure for each column.
    """

    name: str
    paper: str
    table: str
    note: str
    benchmark: Benchmark
    columns: tuple[str, ...]
    blocks: dict[int, dict[str, tuple[Figure, ...]]]

    def figure(self, ipc: int, row: str, column: str) -> Figure | None:
        """What the paper prints for a row and a column, by their names here; None where it prints nothing.

        A domain may go by any name of the folders in which it is distributed.
        """
        wanted = domain_key(column)
        for name, found in zip(self.columns, self.blocks.get(ipc, {}).get(row, ()), strict=False):
            if domain_key(name) == wanted:
                return found
        return None

    def covers(self, columns: Sequence[str]) -> bool:
        """Whether `columns` are just those whose average the paper prints."""
        own = {domain_key(name) for name in self.columns if name != AVERAGE}
        return own == {domain_key(name) for name in columns}


def published_names() -> list[str]:
    """The names of all published tables."""
    folder = files(__package__) / "published"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def check_published(name: str) -> None:
    """Raise ValueError unless there is a published table of this name."""
    if name not in published_names():
        raise ValueError(f"published: no published table {name!r}; there are {', '.join(published_names())}")


def published_table(name: str) -> PublishedTable:
    """The published table `name`. Raises ValueError for an unknown name."""
    check_published(name)
    content = yaml.safe_load((files(__package__) / "published" / f"{name}.yaml").read_text("utf-8"))
    blocks = {
        block["ipc"]: {row: tuple(map(_figure, values)) for row, values in block["rows"].items()}
        for block in content["blocks"]
    }
    benchmark = next(found for found in BENCHMARKS if found.name == content["data"])
    columns = tuple(content["columns"])
    return PublishedTable(
        name, content["paper"], content["table"], content["note"], benchmark, columns, blocks
    )


def _figure(value: Any) -> Figure:
    if isinstance(value, str):
        mean, std = value.split(" ± ")
        return Figure(float(mean), float(std))
    return Figure(float(value), None)
