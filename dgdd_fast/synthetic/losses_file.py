"""``losses.csv`` of a run folder: the loss of every iteration, to be watched while the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ..files import naming, read_file, write_atomically
from ..json_text import MOST_BYTES


class LossesFile:
    """A row for each iteration: its number, the loss, and the terms that it is the sum of, if several.

    A context manager: rows are there for others to read as soon as they are added. What a checkpoint does not
    know of is gone from the file after a resumption, so that it is that of an uninterrupted run.

    Args:
        path: the file.
        terms: their names.
        losses: of the iterations done before, each with its terms.
    """

    def __init__(self, path: Path, terms: Sequence[str], losses: Sequence[Sequence[float]]) -> None:
        self._path = path
        self._terms = tuple(terms) if len(terms) > 1 else ()
        header = ",".join(("iteration", "loss", *self._terms))
        rows = [self._row(number, values) for number, values in enumerate(losses, start=1)]
        self._begin = "\n".join((header, *rows, ""))
        self._file: TextIO | None = None

    def __enter__(self) -> LossesFile:
        write_atomically(self._path, self._begin.encode())
        self._file = self._path.open("a", buffering=1, encoding="utf-8", newline="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with naming(self._path):
                self._file.close()

    def add(self, iteration: int, values: Sequence[float]) -> None:
        """Adds the terms of an iteration, counted from 1."""
        if self._file is None:
            raise ValueError("the file of losses is not open")
        with naming(self._path):
            self._file.write(self._row(iteration, values) + "\n")

    def _row(self, iteration: int, values: Sequence[float]) -> str:
        shown = (sum(values), *(values if self._terms else ()))
        return ",".join((str(iteration), *(f"{value:.9g}" for value in shown)))


def read_losses(path: Path) -> dict[str, list[float]]:
    """The columns of the file by name, of the rows that are whole.

    Raises ValueError for a file that is not one of losses.
    """
    text = read_file(path, MOST_BYTES).decode()
    header, *rows = [line.split(",") for line in text.splitlines()] or [[]]
    if header[:2] != ["iteration", "loss"]:
        raise ValueError(f"{path} is no file of losses: its first line must be iteration,loss,...")
    if rows and len(rows[-1]) != len(header):  # being written
        rows.pop()
    try:
        columns = [list(map(float, column)) for column in zip(*rows, strict=True)]
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); a resumed run writes it anew") from error
    return dict(zip(header, columns or [[] for _ in header], strict=True))
