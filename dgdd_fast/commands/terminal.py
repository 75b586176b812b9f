"""What the commands write to a terminal, or to a log file where there is none."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ..config import method_label

if TYPE_CHECKING:
    from ..evaluation import Evaluation

SECONDS_BETWEEN_LINES = 10.0

console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds for a reader: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table with its first column flush left and the others flush right."""
    result = Table(*columns[:1], title=title, title_justify="left", title_style="bold")
    for column in columns[1:]:
        result.add_column(column, justify="right")
    return result


def accuracy_table(results: Mapping[str, Evaluation]) -> Table:
    """Methods in rows, test sets in columns: accuracy in percent, mean and standard deviation."""
    names = list(next(iter(results.values())).accuracies)
    result = table("method", *names, title="accuracy in %")
    for method, evaluation in results.items():
        cells = [f"{evaluation.mean(name):.1f}" for name in names]
        if evaluation.runs > 1:
            cells = [f"{cell} ± {evaluation.std(name):.1f}" for cell, name in zip(cells, names, strict=True)]
        result.add_row(method_label(method), *cells)
    return result


class Meter:
    """How far a loop of `total` steps is, with the time left: a bar on a terminal, else some lines."""

    def __init__(self, label: str, total: int) -> None:
        self.label = label
        self.total = total
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task(label, total=total, detail="")

    def __enter__(self) -> Meter:
        self._began: tuple[float, int] | None = None
        self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.start()
        return self

    def update(self, done: int, detail: str = "") -> None:
        """Report that `done` steps are done. The time left counts from the first report on."""
        now = time.monotonic()
        if self._began is None:
            self._began = (now, done)
        elapsed, steps = now - self._began[0], done - self._began[1]
        if steps > 0 and done < self.total:
            detail += f"  {duration(elapsed / steps * (self.total - done))} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, detail=detail)
        elif done >= self.total or now - self._last_line >= SECONDS_BETWEEN_LINES:
            console.print(f"{self.label} {done}/{self.total}  {detail}")
            self._last_line = now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
