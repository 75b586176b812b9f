"""Settings from nested dictionaries: lists, mappings, and what a wrong one is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from dgdd_fast.config import SurgeryConfig, from_dict, method_label, to_dict
from dgdd_fast.config.run import RunConfig, read_run_config, write_run_config
from dgdd_fast.surgery import decompose, surgery_step_


@dataclass(frozen=True)
class Settings:
    names: tuple[str, ...] = ()
    limits: tuple[float, ...] | None = None
    surgeries: dict[str, SurgeryConfig] = field(default_factory=dict)
    anything: dict[str, Any] = field(default_factory=dict)


def test_lists_and_mappings_come_back_as_they_were():
    settings = Settings(("a", "b"), (1.0, 2.5), {"x": SurgeryConfig(beta=0.1)}, {"y": [1, {"z": None}]})
    values = to_dict(settings)
    assert values["names"] == ["a", "b"]
    assert from_dict(Settings, values) == settings
    assert from_dict(Settings, {"limits": [1, 2]}).limits == (1.0, 2.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": "ab"}, "names must be a list, got 'ab'"),
        ({"names": ["a", 3]}, r"names\[1\] must be str, got 3"),
        ({"surgeries": ["x"]}, "surgeries must be a mapping"),
        ({"surgeries": {1: {}}}, "texts as keys, got 1"),
        ({"surgeries": {"x": {"gamma": 1}}}, "unknown setting 'gamma' in surgeries.x"),
    ],
)
def test_a_wrong_list_or_mapping_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(Settings, values)


def test_a_run_keeps_its_choice_of_domains(tmp_path):
    run = RunConfig(data="pictures", domains=("photo", "sketch"), target="sketch")
    write_run_config(tmp_path / "config.yaml", run)
    assert read_run_config(tmp_path / "config.yaml") == run


def test_without_the_union_a_step_goes_along_the_two_signals_alone():
    random = torch.Generator().manual_seed(0)
    grads = torch.randn(3, 4, 3, 8, 8, generator=random)
    index = torch.tensor([0, 1, 2, 0])
    config = SurgeryConfig(alpha=0.7, beta=0.4, union=False)
    parts = decompose(grads, None, index, config)
    images, momentum = torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)
    surgery_step_(images, momentum, grads, None, index, None, config, lr=1.0, momentum=0.5)
    torch.testing.assert_close(images, -(0.7 * parts.class_signal + 0.4 * parts.domain_signal))


def test_methods_have_names_for_tables():
    assert [method_label(name) for name in ("random", "dm", "dm+sgs")] == ["Random", "DM", "DM+SGS"]
