"""`dgdd grid`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ..terminal import SECONDS_BETWEEN_LINES, console
from .app import FAILURE
from .options import set_threads

if TYPE_CHECKING:
    from ..experiments.job import JobProgress


def grid(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study: a YAML file.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the results go. Default: grids/, named after the study."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Data in place of those that the study names.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Worker processes on this machine. 0: the work is done in this one.")
    ] = 0,
    devices: Annotated[
        str, typer.Option(help="Where to compute; several, handed out to the workers: cuda:0,cuda:1")
    ] = "cpu",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on a Ray cluster that sees the data and the folder: auto, its address, or local.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each worker. Default: shared evenly.")
    ] = None,
) -> None:
    """Carry out a study: every method on every target domain, at every budget, with every seed.

    Every distilled set and its evaluations lie in a folder of their own, named by a
    hash of their settings: run it again after Ctrl-C, a failure or a change of the
    study, and only what is missing is computed. Random real images at the same
    budget are always evaluated too.

    \b
    dgdd grid study.yaml --out grids/pacs
    dgdd grid study.yaml --workers 2 --devices cuda:0,cuda:1
    """
    import dataclasses

    from ..experiments.grid import Workers, run_grid
    from ..experiments.study import read_study

    chosen = read_study(study)
    if data is not None:
        chosen = dataclasses.replace(chosen, data=data)
    if ray is not None and workers:
        raise ValueError("--ray and --workers are two ways to run a grid; choose one")
    names = tuple(name.strip() for name in devices.split(","))
    if len(names) > max(1, workers) and ray is None:
        raise ValueError(f"{len(names)} devices need as many workers: --workers {len(names)}")
    if not (workers or ray):
        set_threads(threads)
    out = out or Path("grids") / study.stem
    with GridDisplay() as display:
        outcome = run_grid(chosen, out, Workers(workers, ray, names, threads), display.show)
    console.print(
        f"{outcome.jobs} sets: {len(outcome.computed)} computed now, "
        f"{outcome.jobs - len(outcome.computed) - len(outcome.failures)} there before"
    )
    for name, reason in outcome.failures.items():
        console.print(f"[bold red]failed:[/] {escape(name)}: {escape(reason)}")
    if outcome.failures:
        console.print(f"the tracebacks are in {out / 'cells'}/NAME/error.txt; run again to try these again")
        raise typer.Exit(FAILURE)


class GridDisplay:
    """The jobs at work: a bar each on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}
        self._bars: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
            )
            self._bars = Progress(*columns, console=console)

    def __enter__(self) -> GridDisplay:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, report: JobProgress) -> None:
        name = report.job
        if report.stage in ("done", "failed", "restarted"):
            if self._bars is not None and name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))
            self._last_line.pop(name, None)
            console.print(escape(f"{name}: {report.stage} {report.detail}".rstrip()))
        elif self._bars is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, detail="")
            self._bars.update(
                self._tasks[name],
                completed=report.done,
                total=report.total,
                detail=f"{report.stage} {report.detail}",
            )
        else:
            now = time.monotonic()
            if now - self._last_line.setdefault(name, now) >= SECONDS_BETWEEN_LINES:
                self._last_line[name] = now
                line = f"{name}: {report.stage} {report.done}/{report.total} {report.detail}"
                console.print(escape(line.rstrip()))
