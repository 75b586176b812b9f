"""`dgdd report`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config.run import CONFIG_NAME, read_run_config
from .options import SOURCE_HELP, Against, Overwrite, free_file, show_warnings
from .reading import read_data, reading
from .terminal import console, note

if TYPE_CHECKING:
    from ..data import DomainDataset
    from ..experiments.grid import GridIndex
    from ..report.html import Section


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder of a run or a grid, finished or not.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Default: report.html in the folder.")
    ] = None,
    against: Against = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help=f"{SOURCE_HELP} Default: the data of the run or the study."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a page about a run or a grid: images before and after, accuracy, losses, gradients, settings.

    One HTML file that needs no other. Of a grid it has the tables, and what its sets
    look like from within; with umap-learn installed (dgdd-fast[umap]) styles are shown
    by UMAP, else by principal components.

    \b
    dgdd report runs/sketch
    dgdd report grids/pacs
    """
    from ..experiments.grid import read_index

    is_run = (folder / CONFIG_NAME).exists()
    index = None if is_run else read_index(folder)
    if is_run and against is not None:
        raise ValueError(f"--against is for the table of a grid, and {folder} is the folder of a run")
    out = free_file(folder / "report.html" if out is None else out, overwrite or out is None)
    for section in _of_run(folder, out, data) if index is None else _of_grid(index, out, data, against):
        if section.missing:
            console.print(f"{section.title}: {section.missing}")
    console.print(f"written: {out}")


def _of_run(folder: Path, out: Path, data: str | None) -> list[Section]:
    from ..report.run_page import write_run_report

    run = read_run_config(folder / CONFIG_NAME)
    dataset = _data_at_hand(
        lambda: read_data(data or run.data, run.resolution, run.domains, run.classes), data
    )
    return write_run_report(out, folder, dataset)


def _of_grid(index: GridIndex, out: Path, data: str | None, against: str | None) -> list[Section]:
    from ..experiments.grid import load_data
    from ..report.page import write_report

    study = index.study if data is None else dataclasses.replace(index.study, data=data)
    with reading("reading images") as show:
        dataset = _data_at_hand(lambda: load_data(study, progress=show), data)
    return write_report(out, index, dataset, against)


def _data_at_hand(load: Callable[[], DomainDataset], named: str | None) -> DomainDataset | None:
    """The data; None, which is said, where they cannot be had and nobody named them."""
    from ..data import DataError

    try:
        dataset = load()
    except DataError as error:
        if named is not None:
            raise
        note(f"{error}; pictures with real images are left out")
        return None
    show_warnings(dataset)
    return dataset
