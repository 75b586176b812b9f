"""`dgdd data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..files import write_atomically
from ..memory import readable
from .options import SOURCE_HELP, Classes, names_in, show_warnings
from .reading import read_data
from .terminal import console, table


def data(
    source: Annotated[str | None, typer.Argument(help=SOURCE_HELP)] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, help="Resize the images to this side in pixels.")
    ] = None,
    classes: Classes = None,
    problems: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where files cannot be used, write a line about each to FILE."),
    ] = None,
    clear_cache: Annotated[
        bool, typer.Option("--clear-cache", help="Delete the decoded images that are kept; see docs/data.md.")
    ] = False,
) -> None:
    """Count what is in a data set: images per class and domain, and everything odd about them.

    \b
    dgdd data embedded-digits
    dgdd data pacs/ --resolution 64
    dgdd data pacs/ --problems problems.txt
    dgdd data --clear-cache
    """
    from ..data import DataError, summary
    from ..data.cache import cache_folder
    from ..data.cache import clear_cache as delete_cache

    if clear_cache:
        console.print(f"{readable(delete_cache())} of decoded images are deleted in {cache_folder()}")
    elif source is None:
        raise ValueError("name the data: dgdd data SOURCE")
    if source is None:
        return
    try:
        dataset = read_data(source, resolution, classes=names_in(classes))
    except DataError as error:
        if problems is not None and error.problems:
            write_atomically(problems, "".join(f"{line}\n" for line in error.problems).encode())
            raise DataError(
                f"{len(error.problems)} files cannot be used; they are listed in {problems}"
            ) from error
        raise
    found = summary(dataset)
    rows = table("class", *found.domain_names, title=f"{found.name}: images for training + for testing")
    for name, train, test in zip(found.class_names, found.train_counts, found.test_counts, strict=True):
        rows.add_row(name, *(f"{kept} + {held}" for kept, held in zip(train, test, strict=True)))
    rows.add_section()
    totals = (map(sum, zip(*counts, strict=True)) for counts in (found.train_counts, found.test_counts))
    rows.add_row("all", *(f"{kept} + {held}" for kept, held in zip(*totals, strict=True)))
    console.print(rows)
    height, width = found.resolution
    console.print(
        f"{found.images} images of {height} x {width} px, {len(found.class_names)} classes, "
        f"{len(found.domain_names)} domains"
    )
    if not found.flip_safe:
        console.print("digits or letters: augmentation does not mirror them")
    show_warnings(dataset)
