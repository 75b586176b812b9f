"""Paired differences and their intervals, against values worked out by hand."""

import math

import pytest

from dgdd_fast.analysis.paired import paired_difference


def test_the_interval_of_three_differences_is_that_of_students_table() -> None:
    # Differences 1, 2 and 6: mean 3, deviation sqrt((4 + 1 + 9) / 2); t is 4.3027 for two degrees of freedom.
    found = paired_difference({0: 11.0, 1: 52.0, 2: 36.0}, {2: 30.0, 1: 50.0, 0: 10.0})
    reach = 4.3027 * math.sqrt(7) / math.sqrt(3)
    assert found == (3.0, pytest.approx(3 - reach, abs=1e-3), pytest.approx(3 + reach, abs=1e-3), 3)


def test_two_seeds_reach_far() -> None:
    # Differences 1 and 2: t is 12.706 for one degree of freedom, the deviation sqrt(1/2).
    found = paired_difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.0})
    assert found == (1.5, pytest.approx(1.5 - 6.353, abs=1e-3), pytest.approx(1.5 + 6.353, abs=1e-3), 2)


def test_only_seeds_that_both_have_are_compared() -> None:
    found = paired_difference({0: 5.0, 3: 7.0, 4: 99.0}, {0: 4.0, 1: 50.0, 3: 6.0})
    assert found == (1.0, 1.0, 1.0, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_a_single_pair_has_no_interval() -> None:
    mean, low, high, pairs = paired_difference({7: 3.0}, {7: 1.0})
    assert (mean, pairs) == (2.0, 1)
    assert math.isnan(low)
    assert math.isnan(high)
