"""`dgdd export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config.run import SHEET_NAME
from .options import SET_HELP, set_file
from .terminal import console


def export(
    distilled_set: Annotated[Path, typer.Argument(metavar="SET", help=SET_HELP)],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A new folder. Default: export/ beside the set.")
    ] = None,
) -> None:
    """Write the images of a distilled set, de-normalised: images/domain/class/NNN.png, contact_sheet.png.

    \b
    dgdd export runs/sketch --out pictures/
    """
    from ..synthetic.distilled_set import DistilledSet

    path = set_file(distilled_set)
    distilled = DistilledSet.load(path)
    out = out or path.with_name("export")
    distilled.export_folder(out / "images")
    distilled.contact_sheet(out / SHEET_NAME)
    console.print(f"written: {len(distilled)} images below {out / 'images'}, {out / SHEET_NAME}")
