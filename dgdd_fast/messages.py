"""What a message shows of something wrong, which may be of any length."""

from __future__ import annotations

from typing import Any

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
