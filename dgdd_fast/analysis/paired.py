"""Differences of what was measured at the same seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from ..extras import extra

with extra("report", "a table of results"):
    from scipy.special import stdtrit

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """The mean of paired differences, and the ends of its 95 % interval; NaN for a single pair, of which no
    spread is known."""

    mean: float
    low: float
    high: float
    pairs: int


def paired_difference(values: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """`values` minus `others`, each by seed, over the seeds that both have; None where there is none.

    The interval is Student's: mean -+ t * s / sqrt(n), with the standard deviation s of the n differences
    and n - 1 degrees of freedom. A seed counts once: its trainings are to be averaged beforehand, as they
    share what was drawn.
    """
    differences = [values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())]
    count = len(differences)
    if count == 0:
        return None
    mean = statistics.fmean(differences)
    if count == 1:
        return Difference(mean, math.nan, math.nan, 1)
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    reach = quantile * statistics.stdev(differences) / math.sqrt(count)
    return Difference(mean, mean - reach, mean + reach, count)
