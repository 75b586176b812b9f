"""`dgdd grid`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import override
from ..interruption import Interrupted
from ..messages import shown
from .app import FAILURE
from .options import (
    PRECISION_HELP,
    Classes,
    Log,
    check_count,
    logs_to_tensorboard,
    names_in,
    say_where,
    set_threads,
    show_warnings,
)
from .reading import reading
from .terminal import ProgressDisplay, console, labelled

if TYPE_CHECKING:
    from ..experiments.grid import GridOutcome, Workers
    from ..experiments.job import JobProgress
    from ..experiments.study import Study


StudyName = Annotated[
    str, typer.Argument(metavar="STUDY", help="A YAML file, or a study of the package: see dgdd studies.")
]
Scale = Annotated[
    str,
    typer.Option(
        help="full: as the study says. small: every row and column, in settings for two CPU cores; "
        "its numbers mean nothing."
    ),
]
Data = Annotated[
    str | None, typer.Option(metavar="SOURCE", help="Data in place of those that the study names.")
]
Precision = Annotated[
    str | None,
    typer.Option(help=f"{PRECISION_HELP} For all that computes. Default: as the study says."),
]
Processes = Annotated[
    int, typer.Option("--workers", min=0, help="Worker processes on this machine. 0: work in this process.")
]
Devices = Annotated[
    str,
    typer.Option(
        help="Where to compute; several, handed out to the workers: cuda:0,cuda:1. auto: the GPUs where "
        "there are some."
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Run on a Ray cluster that sees the data and the folder: auto, its address, or local.",
    ),
]
Slurm = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=VALUE,...",
        help="Run through Slurm with these options of sbatch: partition=gpu,time=240. local: a trial here.",
    ),
]
WorkerThreads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of each worker. Default: shared evenly.")
]


def grid(
    study: StudyName,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the results go. Default: grids/, named after the study."),
    ] = None,
    data: Data = None,
    classes: Classes = None,
    scale: Scale = "full",
    tuned: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Take the settings that dgdd tune chose, from its folder."),
    ] = None,
    precision: Precision = None,
    workers: Processes = 0,
    devices: Devices = "auto",
    ray: Ray = None,
    slurm: Slurm = None,
    threads: WorkerThreads = None,
    log: Log = None,
) -> None:
    """Carry out a study: every method on every target domain, at every budget, with every seed.

    Every distilled set and its evaluations lie in a folder of their own, named by a
    hash of their settings: run it again after Ctrl-C, a failure or a change of the
    study, and only what is missing is computed. Random real images at the same
    budget are always evaluated too.

    \b
    dgdd grid study.yaml --out grids/pacs
    dgdd grid study.yaml --workers 2 --devices cuda:0,cuda:1 --log tensorboard
    dgdd grid study.yaml --slurm partition=gpu --devices cuda
    dgdd grid sgs-table-1-pacs --data pacs/
    dgdd grid cadm-table-1-domainnet-sub --data domainnet/ --classes zebra,sun,...
    """
    from ..experiments.grid import load_data, run_grid
    from ..experiments.job import JobData

    chosen = study_to_run(study, data, classes, scale, precision)
    if tuned is not None:
        chosen = dataclasses.replace(chosen, tuned=str(tuned))
    chosen_workers = workers_to_use(workers, devices, ray, threads, slurm)
    logs = logs_to_tensorboard(log, "losses.csv is always written in the folders of the jobs")
    out = out or Path("grids") / Path(study).stem
    loaded = JobData()
    with reading("reading images") as show:
        dataset = load_data(chosen, loaded, show)
    show_warnings(dataset)
    with GridProgress() as display, to_go_on():
        outcome = run_grid(chosen, out, chosen_workers, display.show, data=loaded, tensorboard=logs)
    show_outcome(outcome, out)
    console.print(f"next: dgdd table {out}")


@contextmanager
def to_go_on() -> Iterator[None]:
    """Says what to do after an interruption."""
    try:
        yield
    except Interrupted:
        console.print("to go on: the same command again")
        raise


def study_to_run(
    name: str, data: str | None, classes: str | None, scale: str, precision: str | None = None
) -> Study:
    """The study in a file or of the package, at a scale; other data, classes and precision if given."""
    from ..experiments.builtin_studies import builtin_study, small
    from ..experiments.study import read_study, with_precision

    if scale not in ("full", "small"):
        raise ValueError(f"--scale must be full or small, got {scale!r}")
    path = Path(name)
    study = read_study(path) if path.exists() else builtin_study(name)
    if scale == "small":
        study = small(study, data)
    elif data is None and not path.exists():
        raise ValueError(f"{name} is a study on {study.data}: name the folder that holds it, --data FOLDER")
    if precision is not None:
        study = with_precision(study, precision)
    return override(study, data=data, classes=names_in(classes))


def workers_to_use(
    processes: int, devices: str, ray: str | None, threads: int | None, slurm: str | None = None
) -> Workers:
    """Where the jobs run, as the options say, and says it.

    Raises ValueError for options that contradict each other, and for a device that is not there.
    """
    from ..devices import AUTO, automatic_devices, usable_device
    from ..experiments.grid import Workers

    names = tuple(name.strip() for name in devices.split(","))
    if devices == AUTO:
        names = tuple(automatic_devices()[: max(1, processes)])
    if ray is not None or slurm is not None:
        for name, other in (("--workers", processes), ("--slurm", ray is not None and slurm is not None)):
            if other:
                first = "--slurm" if ray is None else "--ray"
                raise ValueError(f"{first} and {name} are two ways to run a grid; choose one")
        if devices == AUTO:
            devices = names[0].partition(":")[0]
        if devices not in ("cpu", "cuda"):
            raise ValueError(
                f"{'Slurm' if ray is None else 'Ray'} hands out the devices by itself: give --devices one "
                f"kind, cuda or cpu, got {devices!r}"
            )
        names = (devices,)
        if "local" in (ray, slurm):  # a cluster may have GPUs that this machine lacks
            usable_device(devices)
        return Workers(0, ray, names, threads, None if slurm is None else _sbatch_options(slurm))
    if len(names) > max(1, processes):
        raise ValueError(f"{len(names)} devices need as many workers: --workers {len(names)}")
    for name in names:
        usable_device(name)
    check_count("--workers", processes)
    check_count("--threads", threads or 1)
    if not processes:
        set_threads(threads)
    say_where(names)
    return Workers(processes, ray, names, threads)


def _sbatch_options(given: str) -> dict[str, str]:
    """The options by name in ``partition=gpu,time=240``; those of a trial on this machine for ``local``."""
    from ..experiments.workers import LOCAL

    if given == "local":
        return LOCAL
    options: dict[str, str] = {}
    for part in given.split(","):
        name, equals, value = (text.strip() for text in part.partition("="))
        if not (name and equals and value):
            raise ValueError(
                f"--slurm takes options of sbatch, such as partition=gpu,time=240, got {shown(part)}"
            )
        name = name.removeprefix("--")
        if options.get(name, value) != value:
            raise ValueError(f"--slurm has {name} twice, as {options[name]} and as {value}: choose one")
        options[name] = value
    return options


def show_outcome(outcome: GridOutcome, folder: Path) -> None:
    """Say what was computed and what failed; ends the command where something did."""
    from ..experiments.job import ERROR_NAME
    from ..experiments.plan import JOBS_FOLDER, POOLS_FOLDER

    before = outcome.jobs - len(outcome.computed) - len(outcome.failures)
    console.print(f"{outcome.jobs} sets: {len(outcome.computed)} computed now, {before} there before")
    for name, reason in outcome.failures.items():
        console.print(labelled("failed", "bold red", f"{name}: {reason}"))
        for trace in (folder / kind / name / ERROR_NAME for kind in (JOBS_FOLDER, POOLS_FOLDER)):
            if trace.exists():  # a worker that died leaves none
                console.print(f"the traceback is in {trace}")
    if outcome.failures:
        console.print("run again to try these again")
        raise typer.Exit(FAILURE)


class GridProgress(ProgressDisplay):
    """The jobs at work, how many are done, and what happened to them."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: dict[str, str] = {}  # the names of those that jobs are at

    def show(self, report: JobProgress) -> None:
        from ..experiments.job import EVENTS, LOOPS

        name = f"{report.job}: {report.stage}"
        before = self._steps.pop(report.job, name)
        if before != name:
            self.remove(before)  # its end may not have been reported
        if report.stage in EVENTS:
            self.remove(report.job)
            console.print(f"{name} {report.detail}".rstrip())
        elif report.stage in LOOPS:
            self.update(report.job, report.done, report.total, f"{report.stage} {report.detail}")
        else:
            self._steps[report.job] = name
            self.step(name, report.done, report.total)
