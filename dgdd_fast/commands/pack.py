"""`dgdd pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..interruption import Interrupted
from .options import Classes, names_in, show_warnings
from .reading import reading
from .terminal import console


def pack(
    source: Annotated[str, typer.Argument(help="A folder of images: domain/class/*.jpg; or other data.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the packed data go.")],
    resolution: Annotated[
        int | None, typer.Option(min=1, help="Resize the images to this side in pixels.")
    ] = None,
    classes: Classes = None,
) -> None:
    """Decode a data set once: --data then names the packed folder, with the same results, bit for bit.

    Runs read the images from the file as they need them, so that a set may be
    larger than memory.

    Stop with Ctrl-C at any time: the same command goes on. Later it decodes what has
    changed since.

    \b
    dgdd pack pictures/ --resolution 64 --out pictures-64/
    dgdd distill --data pictures-64/ --target sketch
    """
    from ..data.pack import pack as pack_data
    from ..data.packed import size_of

    try:
        with reading("packing", cached=False) as show:
            dataset = pack_data(source, out, resolution, names_in(classes), progress=show)
    except Interrupted:
        console.print("to go on: the same command again")
        raise
    show_warnings(dataset)
    height, width = dataset.resolution
    console.print(f"written: {out}, {len(dataset)} images of {height} x {width} px, {size_of(out)}")
