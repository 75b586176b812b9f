"""What the commands write to a terminal, or to a log file where there is none."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from ..config import method_label
from ..messages import plain
from ..steps import listening

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..analysis.scores import Scores
    from ..evaluation import Evaluation

_PACKAGE = Path(__file__).parents[1]
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BEFORE_BARS = 1.0  # of steps that are mostly done at once


def lines_to_show(text: str) -> str:
    """`text` for a terminal, which must obey no character of a name or a path in it."""
    return "\n".join(map(plain, text.split("\n")))


class _Console(Console):
    def render_str(self, text: str, **options: Any) -> Text:  # of what is printed, and of the cells of tables
        return super().render_str(lines_to_show(text), **options)


# Names and paths are shown as they are: no markup, so that photo[hd] keeps its brackets, and no :smile:.
console = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
error_console = _Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def labelled(label: str, style: str, text: str) -> Text:
    """``label: text``, the label in a rich style."""
    return Text.assemble((f"{label}:", style), f" {lines_to_show(text)}")


def note(text: str) -> None:
    """Say what is odd and does not stop the command."""
    console.print(labelled("note", "yellow", text))


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Has what this package warns of said as a note: it is about the command, and no line of code."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category is UserWarning and Path(filename).is_relative_to(_PACKAGE):
            note(str(message))
        else:
            pythons(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        pythons, warnings.showwarning = warnings.showwarning, show
        yield


def duration(seconds: float) -> str:
    """Seconds in words: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
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
        texts = [f"{evaluation.mean(name):.1f}" for name in names]
        if evaluation.runs > 1:
            texts = [f"{text} ± {evaluation.std(name):.1f}" for text, name in zip(texts, names, strict=True)]
        result.add_row(shown_method(method), *texts)
    return result


def shown_method(row: str) -> str:
    """The label of a row called "METHOD" or "METHOD, how"."""
    name, comma, how = row.partition(",")
    return f"{method_label(name)}{comma}{how}"


def scores_table(scores: Mapping[str, Scores]) -> Table:
    """DD-Ranking's scores in rows, test sets in columns."""
    result = table("DD-Ranking", *scores, title="scores in [0, 1], higher is better")
    for label, name in (
        ("label-robust (LRS)", "label_robust_score"),
        ("augmentation-robust (ARS)", "augmentation_robust_score"),
    ):
        found = [each.to_dict()[name] for each in scores.values()]
        texts = [f"{each['mean']:.3f}" for each in found]
        if found[0]["std"] is not None:
            texts = [f"{text} ± {each['std']:.3f}" for text, each in zip(texts, found, strict=True)]
        result.add_row(label, *texts)
    return result


class ProgressDisplay:
    """How far loops are, by their names, with the time left: a bar each on a terminal, else a line now and
    then and one at the end."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}
        self._paces: dict[str, _Pace] = {}
        self._bars: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
            )
            self._bars = Progress(*columns, console=console)

    def __enter__(self) -> Self:
        for other in _displays:
            other._pause()
        _displays.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _displays.remove(self)
        self._pause()

    def _pause(self) -> None:
        """A terminal has the bars of one display at a time."""
        if self._bars is not None:
            self._bars.stop()

    def update(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Report `done` of `total` steps. The time left counts from the first report on."""
        now = time.monotonic()
        pace = self._paces.get(name)
        if pace is None or pace.total != total or done < pace.done:  # another loop of this name
            pace = self._paces[name] = _Pace(now, done, total)
        if pace.done < done < total:
            left = (now - pace.began) / (done - pace.done) * (total - done)
            detail = f"{detail}  {duration(left)} left".lstrip()
        if self._bars is not None:
            self._bars.start()  # unless it is
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total, detail="")
            self._bars.update(self._tasks[name], completed=done, total=total, detail=detail)
            return
        if now - self._last_line.setdefault(name, now) >= SECONDS_BETWEEN_LINES or done >= total:
            self._last_line[name] = now
            console.print(f"{name} {done}/{total}  {detail}".rstrip())

    def step(self, name: str, done: int, total: int) -> None:
        """The same of what is mostly done at once: shown only where it takes a while; its bar goes at the
        end."""
        now = time.monotonic()
        if done == 0 or name not in self._paces:
            self._paces[name], self._last_line[name] = _Pace(now, done, total), now
        takes_long = SECONDS_BETWEEN_LINES if self._bars is None else SECONDS_BEFORE_BARS
        if now - self._paces[name].began >= takes_long:
            self.update(name, done, total)
        if done >= total:
            self.remove(name)

    def remove(self, name: str) -> None:
        """The loop is at its end; its bar goes."""
        if self._bars is not None and name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
            if not self._tasks:
                self._pause()
        self._last_line.pop(name, None)
        self._paces.pop(name, None)


_displays: list[ProgressDisplay] = []  # those that are on; steps are shown by the last


@contextmanager
def steps_shown() -> Iterator[None]:
    """Within, steps that take long are shown, wherever they are told of: see `dgdd_fast.steps`."""
    with ProgressDisplay(), listening(lambda *step: _displays[-1].step(*step)):
        yield


class _Pace(NamedTuple):
    """When a loop was first heard of, and how far it was."""

    began: float
    done: int
    total: int


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[..., None]]:
    """How far one loop is: gives what to call with the steps done, and a detail if there is one."""
    with ProgressDisplay() as display:
        yield lambda done, detail="": display.update(name, done, total, detail)
