"""`dgdd table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Against, GridFolder, Overwrite, free_file
from .terminal import lines_to_show


def table(
    folder: GridFolder,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="text, markdown, latex, html, csv: a line for each number, or json: of every seed.",
        ),
    ] = "text",
    against: Against = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: the terminal.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show the results of a grid in the papers' shape: methods in rows, target domains in columns.

    Where the study names a published table, its figures stand in brackets.

    \b
    dgdd table grids/pacs
    dgdd table grids/pacs --against dm
    dgdd table grids/pacs --format latex --out pacs.tex
    """
    from ..experiments.grid import read_index
    from ..files import write_atomically
    from ..report.table import result_table
    from ..report.table_formats import format_table

    index = read_index(folder)
    if out is not None:
        free_file(out, overwrite)
    text = format_table(result_table(index, against), form)
    if out is None:
        typer.echo(lines_to_show(text), nl=False)
    else:
        write_atomically(out, text.encode())
