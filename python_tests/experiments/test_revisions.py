"""Which earlier sets a grid takes for its own."""

from __future__ import annotations

from typing import Any

from toy_data import toy_domains

from dgdd_fast.config import DistillConfig, EvaluateConfig, NetworkConfig, PretrainConfig
from dgdd_fast.experiments.revisions import (
    LATER,
    hashed_distillation,
    hashed_evaluation,
    hashed_pretraining,
)
from dgdd_fast.experts.pretrain import resolve_pretraining
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.training import resolve_training


def test_a_setting_that_came_later_counts_only_where_it_does_something() -> None:
    for name, value in LATER.items():
        assert getattr(DistillConfig(), name) == value  # the default, so that nothing changed
        assert name not in hashed(DistillConfig())
    assert hashed(DistillConfig(union="literal"))["union"] == "literal"


def hashed(config: DistillConfig) -> dict[str, Any]:
    return hashed_distillation(resolve_distillation(config, toy_domains()), (16, 16))


def test_what_changed_under_the_same_settings_is_not_found_again() -> None:
    assert "changes" not in hashed(DistillConfig())
    assert "changes" not in hashed(DistillConfig(factor=2, init="noise"))
    for config in (DistillConfig(objective="hdd"), DistillConfig(objective="random", factor=2)):
        assert hashed(config)["changes"]
    assert hashed_distillation(DistillConfig(objective="mmd"), (32, 32))["changes"]  # mosaics by default
    for side, architecture, generalize, changed in (
        (64, "resnet18", "none", False),
        (65, "resnet18", "none", True),
        (128, "resnet50", "none", True),
        (129, "resnet18", "none", False),
        (128, "convnet", "none", False),
        (32, "convnet", "advfreq", True),
    ):
        config = EvaluateConfig(network=NetworkConfig(architecture), generalize=generalize)
        content = hashed_evaluation(resolve_training(config, (side, side), True), (side, side))
        assert ("changes" in content) == changed
    experts = resolve_pretraining(PretrainConfig(), toy_domains())
    assert "changes" not in hashed_pretraining(experts, (64, 64))
    assert "changes" in hashed_pretraining(experts, (96, 96))
