"""The file of a study: what may stand in it, and what its rows have for settings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from small_studies import EXPERTS

from dgdd_fast.config import DistillConfig, NetworkConfig, SurgeryConfig
from dgdd_fast.experiments.study import (
    MethodEntry,
    Study,
    read_study,
    rows_of,
    study_from_dict,
    write_study,
)


def test_a_study_comes_back_as_it_was_written(tmp_path: Path) -> None:
    study = study_from_dict(
        {
            "title": "trial",
            "domains": ["a", "b"],
            "classes": ["x", "y"],
            "methods": ["dm", {"method": "dm+sgs", "name": "x", "distill": {"surgery": {"beta": 0}}}],
            "ipc": [1, 10],
            "sweeps": {"distill.surgery.alpha": [0.5, 1e-3]},
            "evaluations": {"wide": {"network": {"width": 8}}, "narrow": {}},
        }
    )
    assert study.methods[0] == MethodEntry("dm")
    write_study(tmp_path / "study.yaml", study)
    assert read_study(tmp_path / "study.yaml") == study


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metods": ["dm"]}, "unknown setting 'metods'"),
        ({}, "there is nothing in it; write what to study"),
        ({"targets": []}, "targets must list at least one; leave it away for all"),
        ({"domains": []}, "domains must list at least one"),
        ({"classes": []}, "classes must list at least one"),
        ({"sweeps": {"distill.image_lr": []}}, "sweeps: distill.image_lr must list at least one value"),
        ({"methods": ["magic"]}, "unknown method 'magic'"),
        ({"methods": [{"name": "x"}]}, "unknown method ''"),
        ({"methods": []}, "methods must list at least one"),
        ({"methods": ["dm", "dm"]}, "two rows are called 'dm'"),
        (
            {"methods": [{"method": "dm", "distill": {"ipc": 3}}]},
            "distill.ipc is set by the study's own list",
        ),
        ({"methods": [{"method": "dm", "distill": {"surgery": {}}}]}, "make it dm\\+sgs; name that method"),
        ({"methods": [{"method": "whole", "distill": {"init": "noise"}}]}, "nothing is distilled"),
        ({"methods": ["dm"], "distill": {"surgery": {"alpha": 1}}}, "distill.surgery belongs to none"),
        ({"distill": {"iteration": 3}}, "distill: unknown setting 'iteration'"),
        ({"distill": {"seed": 3}}, "distill.seed is set by the study's own list"),
        ({"evaluate": {"seed": 3}}, "evaluate.seed is set by the study's own list"),
        ({"evaluate": {"epochs": "many"}}, "evaluate: epochs must be int"),
        ({"seeds": [1, 1]}, "seeds must not repeat"),
        ({"ipc": [0]}, r"ipc\[0\] must be at least 1"),
        ({"ipc": [10**12]}, r"ipc\[0\] must be at most 1000000"),
        ({"seeds": [10**30]}, r"seeds\[0\] must be at most"),
        ({"resolution": -5}, "resolution must be at least 1"),
        ({"tune": {"trials": 10**12}}, "tune.trials must be at most 10000"),
        ({"tune": {"settings": {"distill.image_lr": {"high": float("inf")}}}}, "image_lr.high must be"),
        ({"protocol": "oracle"}, "protocol must be one of"),
        ({"sweeps": {"distill.surgery.gamma": [1]}}, "no setting distill.surgery.gamma"),
        ({"sweeps": {"alpha": [1]}}, "must begin with distill. or evaluate."),
        (
            {"methods": ["dm"], "sweeps": {"distill.surgery.alpha": [1]}},
            "sweeps: no method of the study has the setting distill.surgery.alpha",
        ),
        ({"sweeps": {"distill": [1]}}, "distill is a section; write a setting of it, such as"),
        (
            {"sweeps": {"distill.pseudo_domains": [2, 4]}},
            "no row has a number of pseudo-domains that could vary; set distill.pseudo_domains first",
        ),
        ({"published": ["sgs-table-99"]}, "no published table 'sgs-table-99'; there are .*sgs-table-2"),
    ],
)
def test_a_wrong_study_is_told_what_is_wrong(values: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as error:
        read_study(path)
    assert str(path) in str(error.value)


def test_shared_settings_reach_the_methods_that_have_them_and_own_ones_come_last() -> None:
    study = study_from_dict(
        {
            "methods": [
                "dm",
                "dm+sgs",
                {"method": "dm+sgs", "name": "own", "distill": {"surgery": {"alpha": 3}, "image_lr": 2}},
            ],
            "distill": {"surgery": {"alpha": 2, "beta": 0.1}, "image_lr": 0.5},
        }
    )
    settings = {row.key: row.distill for row in rows_of(study)}
    assert settings["dm"] == DistillConfig(image_lr=0.5)
    assert settings["dm+sgs"] == DistillConfig(image_lr=0.5, surgery=SurgeryConfig(2.0, 0.1))
    assert settings["own"] == DistillConfig(image_lr=2.0, surgery=SurgeryConfig(3.0, 0.1))


def test_the_evaluation_takes_the_network_of_the_distillation_unless_told() -> None:
    rows = rows_of(Study(distill={"network": {"width": 5}}))
    assert {row.evaluations[""].network for row in rows} == {NetworkConfig(width=5)}
    rows = rows_of(
        Study(distill={"network": {"width": 5}}, evaluations={"a": {"network": {"width": 6}}, "b": {}})
    )
    assert [config.network.width for config in rows[1].evaluations.values()] == [6, 5]


def test_a_sweep_adds_a_row_for_each_value_to_the_methods_that_have_the_setting() -> None:
    rows = rows_of(Study(sweeps={"distill.surgery.alpha": (0.5, 2), "evaluate.epochs": (7,)}))
    found = {row.key: row for row in rows}
    assert list(found) == [
        "random", "dm", "dm+sgs",
        "dm+sgs, alpha = 0.5", "dm+sgs, alpha = 2",
        "random, epochs = 7", "dm, epochs = 7", "dm+sgs, epochs = 7",
    ]  # fmt: skip
    assert found["dm+sgs, alpha = 2"].distill == DistillConfig(surgery=SurgeryConfig(2.0))
    assert found["dm, epochs = 7"].evaluations[""].epochs == 7
    assert found["dm, epochs = 7"].sweep == ("evaluate.epochs", 7)


def test_pseudo_domains_are_swept_where_a_row_has_a_number_of_them() -> None:
    methods = ["dm", {"method": "dm", "name": "styles", "distill": {"pseudo_domains": 3}}]
    sweeps = {"distill.pseudo_domains": [2, 4]}
    own = rows_of(study_from_dict({"methods": methods, "sweeps": sweeps}))
    assert [row.key for row in own if row.sweep] == [
        "styles, pseudo_domains = 2",
        "styles, pseudo_domains = 4",
    ]
    shared = study_from_dict({"methods": ["dm"], "distill": {"pseudo_domains": 4}, "sweeps": sweeps})
    assert [row.distill.pseudo_domains for row in rows_of(shared) if row.sweep and row.entry == "dm"] == [
        2,
        4,
    ]


def test_a_sweep_reaches_the_masks() -> None:
    study = dataclasses.replace(EXPERTS, sweeps={"distill.masks.share": (0.1,)})
    swept = {row.entry: row.distill.masks.share for row in rows_of(study) if row.sweep}
    assert swept == {"cadm": 0.1, "gentle": 0.1}
