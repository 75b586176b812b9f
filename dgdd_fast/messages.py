"""What a message shows of something wrong, which may be of any length."""

from __future__ import annotations

import re
from typing import Any

# Control characters, line ends, and marks that change the direction of the text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
SHOWN = 80  # characters


def shown(value: Any) -> str:
    """A wrong value for a message, cut where it is long."""
    try:
        return shortened(repr(value))
    except (ValueError, RecursionError):  # whole numbers of more than 4300 digits are not written out
        return f"{type(value).__name__} too large to show"


def shortened(text: str, most: int = SHOWN) -> str:
    """`text`, or its beginning and an ellipsis where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def plain(text: str) -> str:
    """`text` in one line, with characters that a terminal would obey as ``\\x1b``."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
