"""DD-Ranking's scores, by values reckoned by hand."""

import math

import pytest

from dgdd_fast.analysis.scores import augmentation_robust_score, label_robust_score, scores_of

ZERO = 0.268941421369995  # (1 - 1/e) / (e - 1/e) = 1 / (1 + e)


def test_ends_and_middle_of_the_scale():
    # The set as good as all real images, random images worthless: alpha = 1/2 * 1 - 1/2 * 0.
    half = (math.sqrt(math.e) - 1 / math.e) / (math.e - 1 / math.e)
    assert label_robust_score(100, 0, 100, 100) == pytest.approx(half)
    assert half == pytest.approx(0.544946, abs=1e-6)
    assert label_robust_score(0, 100, 0, 100) == pytest.approx(0)  # alpha = -1
    assert label_robust_score(50, 50, 70, 70) == pytest.approx(ZERO)  # alpha = 0
    assert augmentation_robust_score(100, 0, 100, 0) == pytest.approx(1)
    assert augmentation_robust_score(0, 100, 0, 100) == pytest.approx(0)
    assert augmentation_robust_score(40, 40, 30, 30) == pytest.approx(ZERO)


def test_values_reckoned_by_hand():
    # alpha = 0.5 * (0.6 - 0.4) - 0.5 * (0.9 - 0.5) = -0.1; e^-0.1 = 0.904837, e^-1 = 0.367879, e = 2.718282
    assert label_robust_score(60, 40, 50, 90) == pytest.approx((0.904837 - 0.367879) / 2.350402, abs=1e-6)
    # beta = 0.5 * 0.2 + 0.5 * 0.4 = 0.3; e^0.3 = 1.349859
    expected = (1.349859 - 0.367879) / 2.350402
    assert augmentation_robust_score(60, 40, 70, 30) == pytest.approx(expected, abs=1e-6)
    # weight 0.25: alpha = 0.25 * 0.2 - 0.75 * 0.4 = -0.25; e^-0.25 = 0.778801
    assert label_robust_score(60, 40, 50, 90, 0.25) == pytest.approx(
        (0.778801 - 0.367879) / 2.350402, abs=1e-6
    )


def test_scores_are_of_each_network_by_itself():
    found = scores_of([60, 50], [40, 50], [80, 90], [30, 40], [20, 40])
    assert found.label_robust == (label_robust_score(60, 40, 60, 80), label_robust_score(50, 50, 50, 90))
    assert found.augmentation_robust == (augmentation_robust_score(60, 40, 30, 20), pytest.approx(ZERO))
    written = found.to_dict()["label_robust_score"]
    assert written["runs"] == list(found.label_robust)
    assert written["mean"] == pytest.approx(sum(found.label_robust) / 2)
    assert written["std"] == pytest.approx(abs(found.label_robust[0] - found.label_robust[1]) / math.sqrt(2))
    assert scores_of([60], [40], [80], [30], [20]).to_dict()["label_robust_score"]["std"] is None
    with pytest.raises(ValueError, match="argument"):
        scores_of([60, 50], [40], [80], [30], [20])
