"""One picture of a whole image set: classes in rows, domains in groups of columns, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..data.names import plain_name
from ..messages import shortened

CELL_PIXELS = 64  # small images are enlarged by a whole factor until a side reaches this
GAP = 3
GROUP_GAP = 16
PAIR_GAP = 9  # between the rows of two classes, where each has two
MARGIN = 12
BACKGROUND = (255, 255, 255)
INK = (30, 30, 30)
FAINT_INK = (110, 110, 110)
RULE = (190, 190, 190)


def text_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans as matplotlib carries it: the same on every machine, with accents, Greek and Cyrillic.
    Without matplotlib it is Pillow's own font, which has fewer letters."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return ImageFont.load_default(size)
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def draw_contact_sheet(
    pixels: NDArray[np.uint8],
    labels: Sequence[int],
    domains: Sequence[int],
    class_names: Sequence[str],
    domain_names: Sequence[str],
    title: str,
    before: NDArray[np.uint8] | None = None,
) -> Image.Image:
    """The contact sheet of RGB images `pixels` [N, H, W, 3] with labels [N] and domains [N].

    A row is a class and a group of columns is a domain. A group is as wide as its fullest cell needs; cells
    with fewer images end in white. With `before` [N, H, W, 3], what the images were to begin with, a class
    has two rows: those above, and the images below them.
    """
    class_names, domain_names = ([shortened(plain_name(n)) for n in ns] for ns in (class_names, domain_names))
    title = plain_name(title)
    rows_of_images = {"": pixels} if before is None else {"before": before, "after": pixels}
    height, width = pixels.shape[1:3]
    scale = max(1, -(-CELL_PIXELS // max(height, width)))
    cell_height, cell_width = height * scale + GAP, width * scale + GAP
    cells: dict[tuple[int, int], list[int]] = {}
    for row, cell in enumerate(zip(labels, domains, strict=True)):
        cells.setdefault(cell, []).append(row)
    columns = [
        max((len(rows) for (_, domain), rows in cells.items() if domain == d), default=0)
        for d in range(len(domain_names))
    ]

    title_font, name_font, small_font = text_font(18), text_font(15), text_font(11)
    beside = max(round(small_font.getlength(name)) for name in rows_of_images)
    beside += GROUP_GAP // 2 if beside else 0
    class_height = len(rows_of_images) * cell_height + (PAIR_GAP if before is not None else 0)
    group_widths = [
        max(count * cell_width - GAP, round(name_font.getlength(name))) if count else 0
        for count, name in zip(columns, domain_names, strict=True)
    ]
    left = MARGIN + max(round(name_font.getlength(name)) for name in class_names) + GROUP_GAP + beside
    starts = [left]
    for group_width in group_widths:
        starts.append(starts[-1] + (group_width + GROUP_GAP if group_width else 0))
    top = MARGIN + 58
    sheet_width = max(starts[-1] - GROUP_GAP, round(MARGIN + title_font.getlength(title))) + MARGIN
    sheet_height = top + len(class_names) * class_height - GAP + MARGIN
    sheet = Image.new("RGB", (sheet_width, sheet_height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=title_font)
    for name, start, group_width in zip(domain_names, starts, group_widths, strict=False):
        if group_width:
            draw.text((start, top - 26), name, fill=INK, font=name_font)
            draw.line((start, top - 5, start + group_width, top - 5), fill=RULE)
    for label, name in enumerate(class_names):
        y = top + label * class_height
        middle = y + len(rows_of_images) * cell_height // 2
        draw.text((left - beside - GROUP_GAP, middle), name, fill=INK, font=name_font, anchor="rm")
        for which, images in rows_of_images.items():
            place = (left - GROUP_GAP // 2, y + cell_height // 2)
            draw.text(place, which, fill=FAINT_INK, font=small_font, anchor="rm")
            for domain, start in enumerate(starts[:-1]):
                for column, row in enumerate(cells.get((label, domain), [])):
                    image = Image.fromarray(images[row])
                    image = image.resize((width * scale, height * scale), Image.Resampling.NEAREST)
                    sheet.paste(image, (start + column * cell_width, y))
            y += cell_height
    return sheet
