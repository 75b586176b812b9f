"""The ranges of settings, written beside the fields that they are of: ``ipc: Count``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Bound:
    """Which numbers a setting takes.

    Attributes:
        wording: what follows "must" where a number is too small or none at all.
        low, high: the ends, which belong to it unless `open_low` or `open_high`.
    """

    wording: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def fault(self, value: float) -> str | None:
        """What a message has after "must" where `value` is outside, else None."""
        if (self.low < value if self.open_low else self.low <= value) and (
            value < self.high if self.open_high else value <= self.high
        ):
            return None
        if MOST_REPEATS <= self.high < value < math.inf:
            return f"be at most {int(self.high)}"
        if -math.inf < value < self.low <= -MOST_REPEATS:
            return f"be at least {int(self.low)}"
        return self.wording


# A value beyond these is a typing error: no run would end, no memory would suffice.
MOST_STEPS = 10**9
MOST_SIZE = 10**6
MOST_REPEATS = 10_000  # networks trained, each anew
MOST_STRENGTH = 1e6  # of rates, weights and factors, which are of the order of 1

Count = Annotated[int, Bound("be at least 1", 1, MOST_STEPS)]
CountOrNone = Annotated[int, Bound("not be negative", 0, MOST_STEPS)]
Size = Annotated[int, Bound("be at least 1", 1, MOST_SIZE)]
Seed = Annotated[int, Bound("lie in [-2^63, 2^63)", -(2**63), 2**63 - 1)]
Repeats = Annotated[int, Bound("be at least 1", 1, MOST_REPEATS)]
Finite = Annotated[float, Bound("be finite", -MOST_STRENGTH, MOST_STRENGTH)]
Positive = Annotated[float, Bound("be positive and finite", 0, MOST_STRENGTH, open_low=True)]
NotNegative = Annotated[float, Bound("be finite and not negative", 0, MOST_STRENGTH)]
Share = Annotated[float, Bound("lie in [0, 1]", 0, 1)]
Momentum = Annotated[float, Bound("be at least 0 and less than 1", 0, 1, open_high=True)]
AtLeastOne = Annotated[float, Bound("be at least 1 and finite", 1, MOST_STRENGTH)]
