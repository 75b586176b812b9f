from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """Data that cannot be used as they are. The message names the item and what is expected.

    Attributes:
        problems: where many files are at fault, a line for each of them; the message has the first.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
