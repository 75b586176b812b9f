"""`dgdd report`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from .options import SOURCE_HELP, Against, GridFolder, Overwrite, free_file, show_warnings
from .reading import reading
from .terminal import console, note


def report(
    folder: GridFolder,
    out: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Default: report.html in the folder.")
    ] = None,
    against: Against = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help=f"{SOURCE_HELP} Default: the data of the study."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a page about a grid: tables, distilled images, and what they look like from within.

    One HTML file that needs no other. With umap-learn installed (dgdd-fast[umap]) styles
    are shown by UMAP, else by principal components.

    \b
    dgdd report grids/pacs
    """
    from ..data import DataError
    from ..experiments.grid import load_data, read_index
    from ..report.page import write_report

    index = read_index(folder)
    out = free_file(folder / "report.html" if out is None else out, overwrite or out is None)
    study = index.study if data is None else dataclasses.replace(index.study, data=data)
    try:
        with reading("reading images") as show:
            dataset = load_data(study, progress=show)
        show_warnings(dataset)
    except DataError as error:
        if data is not None:
            raise
        note(f"{error}; pictures with real images are left out")
        dataset = None
    for section in write_report(out, index, dataset, against):
        if section.missing:
            console.print(f"{section.title}: {section.missing}")
    console.print(f"written: {out}")
