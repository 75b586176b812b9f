"""A report as one HTML file that needs no other: pictures are in it, and nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from ..extras import extra
from ..files import write_atomically

with extra("report", "the page of a report"):
    from jinja2 import Environment


LEAST_SCALE = 0.65  # of a picture: on a narrower screen it is scrolled, so that its text can be read


class Section(NamedTuple):
    """A heading with what belongs under it, and why some or all of that is missing.

    Attributes:
        pictures: captions and PNGs.
        rows: a table, its head first.
        facts: that table is of texts, not of numbers.
        text: as it stands, folded away under the caption `folded`.
    """

    title: str
    pictures: Sequence[tuple[str, bytes]] = ()
    missing: str = ""
    note: str = ""
    rows: Sequence[Sequence[str]] = ()
    folded: str = ""
    text: str = ""
    facts: bool = False


def write_page(path: Path, title: str, sections: Sequence[Section], lead: str = "", table: str = "") -> None:
    """Write the page. All that is shown is escaped, but `table`, which is HTML."""
    templates = Environment(autoescape=True, trim_blocks=True)
    templates.filters["least_width"] = lambda png: round(LEAST_SCALE * int.from_bytes(png[16:20], "big"))
    templates.filters["base64"] = lambda png: base64.b64encode(png).decode()
    page = templates.from_string((files(__package__) / "page.html").read_text("utf-8")).render(
        title=title, lead=lead, table=table, sections=sections
    )
    write_atomically(path, page.encode())
