"""Optional packages: an error says what a missing one is for and how to install it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtraError(ImportError):
    """A package is not installed that an extra of dgdd-fast brings."""


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Around imports of what the extra `name` of pyproject.toml brings::

        with extra("report", "drawing curves"):
            from matplotlib.figure import Figure

    Raises MissingExtraError, which says how to install it, where it is not.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{purpose} needs {str(error.name).partition('.')[0]}, which is not installed: "
            f"pip install 'dgdd-fast[{name}]'"
        ) from None
