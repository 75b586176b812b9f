"""`dgdd export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config.run import SHEET_NAME
from ..files import check_writable
from .options import SET_HELP, set_file
from .terminal import console, note

FORMATS = ("png", "dm", "numpy", "huggingface")


def export(
    distilled_set: Annotated[Path, typer.Argument(metavar="SET", help=SET_HELP)],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="A new folder, or for dm and numpy a new file. Default: beside the set."
        ),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "png",
) -> None:
    """Write the images of a distilled set for other tools.

    png: de-normalised images/domain/class/NNN.png, and contact_sheet.png. dm: the .pt file
    of DC, DSA and DM. numpy: an .npz file. huggingface: an image folder for
    datasets.load_dataset, with a card. `dgdd import` reads dm and numpy back exactly.

    \b
    dgdd export runs/sketch --out pictures/
    dgdd export runs/sketch --format dm --out sketch.pt
    """
    from ..synthetic import export as formats
    from ..synthetic.distilled_set import DistilledSet

    if format_ not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {format_!r}")
    path = set_file(distilled_set)
    distilled = DistilledSet.load(path)
    if format_ in ("dm", "numpy"):
        ending = ".pt" if format_ == "dm" else ".npz"
        file = out or path.with_suffix(ending)
        if file.exists():
            raise ValueError(f"{file} exists: choose another --out")
        check_writable(file)
        write = formats.export_dm if format_ == "dm" else formats.export_numpy
        write(distilled, file)
        console.print(f"written: {file}")
        return
    folder = out or path.with_name("export" if format_ == "png" else format_)
    if format_ == "huggingface":
        formats.export_huggingface(distilled, folder)
        console.print(f"written: {len(distilled)} images below {folder}, and its card {folder / 'README.md'}")
        console.print("the card leaves the licence to you")
        return
    if (folder / SHEET_NAME).exists():
        raise ValueError(f"{folder} holds {SHEET_NAME} already: choose another --out")
    if distilled.soft_labels is not None:
        note("PNG files have no room for the set's soft labels: their folders tell the classes alone")
    distilled.export_folder(folder / "images")
    distilled.contact_sheet(folder / SHEET_NAME)
    console.print(f"written: {len(distilled)} images below {folder / 'images'}, {folder / SHEET_NAME}")
