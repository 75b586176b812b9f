"""An extension of griffe: where a docstring says one thing of several attributes ("mean, std: ..."), their
names stay together. Griffe takes what stands behind the first blank for a type."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SEVERAL = re.compile(r"^ *\w+(?:, \w+)+(?=:)", re.MULTILINE)
_HARD_BLANK = "\u00a0"


class SeveralNames(griffe.Extension):
    """Joins the names by blanks that griffe does not part at."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """griffe: an object of the sources has been read."""
        if obj.docstring is not None:
            obj.docstring.value = _SEVERAL.sub(
                lambda names: names[0].replace(", ", f",{_HARD_BLANK}"), obj.docstring.value
            )
