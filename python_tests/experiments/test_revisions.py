"""Which earlier sets a grid takes for its own."""

import dataclasses

from dgdd_fast.config import DistillConfig
from dgdd_fast.experiments.revisions import LATER, hashed_distillation


def test_a_setting_that_came_later_counts_only_where_it_does_something() -> None:
    for name, value in LATER.items():
        assert getattr(DistillConfig(), name) == value  # the default, so that nothing changed
        assert name not in hashed_distillation(DistillConfig())
    assert hashed_distillation(dataclasses.replace(DistillConfig(), union="literal"))["union"] == "literal"


def test_sets_of_an_earlier_loss_are_not_found_again() -> None:
    assert "revision" in hashed_distillation(DistillConfig(objective="hdd"))
    assert "revision" not in hashed_distillation(DistillConfig(objective="dm"))
