"""`dgdd tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .grid import (
    Data,
    Devices,
    GridProgress,
    Precision,
    Processes,
    Ray,
    Scale,
    Slurm,
    StudyName,
    WorkerThreads,
    show_outcome,
    study_to_run,
    to_go_on,
    workers_to_use,
)
from .options import Classes, show_warnings
from .reading import reading
from .terminal import console


def tune(
    study: StudyName,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where the results go. Default: tunings/, named after the study."
        ),
    ] = None,
    data: Data = None,
    classes: Classes = None,
    scale: Scale = "full",
    precision: Precision = None,
    workers: Processes = 0,
    devices: Devices = "auto",
    ray: Ray = None,
    slurm: Slurm = None,
    threads: WorkerThreads = None,
) -> None:
    """Choose the settings of a study's methods by leaving out one source domain at a time.

    For each target domain, every trial is distilled from the sources without one and
    tested on that one. The target's images take no part. All methods get the same
    number of trials. What is chosen, and from what, goes to tuning.json and tuning.png.

    \b
    dgdd tune study.yaml --out tunings/pacs
    dgdd grid study.yaml --tuned tunings/pacs
    """
    from ..experiments.grid import load_data
    from ..experiments.job import JobData
    from ..experiments.tune import best
    from ..experiments.tune import tune as run_tuning
    from ..files import write_atomically
    from ..report.curves import png_of, tuning_figure

    chosen = study_to_run(study, data, classes, scale, precision)
    chosen_workers = workers_to_use(workers, devices, ray, threads, slurm)
    out = out or Path("tunings") / Path(study).stem
    loaded = JobData()
    with reading("reading images") as show:
        dataset = load_data(chosen, loaded, show)
    show_warnings(dataset)
    with GridProgress() as display, to_go_on():
        found, outcome = run_tuning(chosen, out, chosen_workers, display.show, loaded)
    for column, methods in found.items():
        for method, budgets in methods.items():
            for ipc, trials in budgets.items():
                winner = best(trials)
                settings = ", ".join(f"{name} {value:g}" for name, value in winner.settings.items())
                own = next((f"{trial.mean:.1f} %" for trial in trials if trial.own), None)
                beside = "its own settings failed" if own is None else f"{own} with the study's own settings"
                console.print(
                    f"{column}, {method}, {ipc} per class: {settings}; {winner.mean:.1f} % on the "
                    f"sources left out, {beside}"
                )
    console.print(f"written: {out / 'tuning.json'}")
    if any(found.values()):  # else every trial failed
        write_atomically(out / "tuning.png", png_of(tuning_figure(found)))
        console.print(f"written: {out / 'tuning.png'}")
    show_outcome(outcome, out)
    console.print(f"next: dgdd grid {study} --tuned {out}")
