"""Tuning: what is tried, that the target takes no part, the choice, and a grid that takes it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_data import toy_domains, write_npz
from typer.testing import CliRunner

from dgdd_fast.commands import cli
from dgdd_fast.config import DistillConfig
from dgdd_fast.data import DomainDataset
from dgdd_fast.experiments import job
from dgdd_fast.experiments.grid import Workers, read_index
from dgdd_fast.experiments.study import MethodEntry, Range, Study, TuneConfig, is_tunable, rows_of
from dgdd_fast.experiments.tune import Trial, Trials, best, tune
from dgdd_fast.experiments.tuned_settings import (
    TUNING_NAME,
    read_tuned_settings,
)
from dgdd_fast.synthetic.distilled_set import DistilledSet


def test_the_earlier_of_two_trials_alike_is_the_best() -> None:
    trials = [Trial({"distill.image_lr": float(rate)}, {"x": mean}) for rate, mean in enumerate((40, 50, 50))]
    assert best(trials) is trials[1]


def test_every_method_has_the_same_number_of_trials_and_the_first_is_its_own(
    tuned: tuple[Path, Trials],
) -> None:
    _, found = tuned
    assert set(found) == {"domain0", "domain1"}
    for rows in found.values():
        assert set(rows) == {"dm", "dm+sgs"}
        for budgets in rows.values():
            assert [len(trials) for trials in budgets.values()] == [3]
        first = rows["dm+sgs"][2][0].settings
        assert first == {"distill.image_lr": 1.0, "distill.surgery.alpha": 1.0}
        values = [trial.settings["distill.image_lr"] for trial in rows["dm"][2]]
        assert len(set(values)) == 3
        assert all(0.1 <= value <= 10 for value in values)


def test_the_target_takes_no_part(tuned: tuple[Path, Trials]) -> None:
    folder, found = tuned
    for target, rows in found.items():
        for budgets in rows.values():
            for trial in budgets[2]:
                assert set(trial.accuracies) == {f"domain{number}" for number in range(4)} - {target}
        index = json.loads((folder / f"tune-{target}.json").read_text())
        assert target not in index["data"]["domains"]
        for entry in index["entries"]:
            assert target not in json.loads((folder / entry["file"]).read_text())["accuracies"]
            if entry["set_folder"]:
                distilled = DistilledSet.load(folder / entry["set_folder"] / "distilled.safetensors")
                assert target not in distilled.domain_names
                assert entry["column"] not in distilled.domain_names


def test_the_choice_knows_neither_the_target_nor_any_test_image(
    study: Study, tuned: tuple[Path, Trials], tmp_path: Path
) -> None:
    """Noise in their place, and labels at random, change no trial and no choice."""
    data = toy_domains(domains=4)
    hidden = (data.domains == data.domain_names.index("domain0")) | data.is_test
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(256, data.images.shape, generator=random).to(torch.uint8)
    labels = data.labels[torch.randperm(len(data), generator=random)]
    other = dataclasses.replace(
        data,
        images=torch.where(hidden[:, None, None, None], noise, data.images),
        labels=torch.where(hidden, labels, data.labels),
    )
    (tmp_path / "data").mkdir()
    write_npz(other, tmp_path / "data")
    elsewhere = dataclasses.replace(study, data=str(tmp_path / "data"), targets=("domain0",))
    found, _ = tune(elsewhere, tmp_path / "tuning", Workers(), lambda report: None)
    assert found["domain0"] == tuned[1]["domain0"]


def test_columns_share_the_sets_of_the_same_sources(tuned: tuple[Path, Trials]) -> None:
    """Without domain0 and domain1 both columns distil domain2 and domain3."""
    folder, _ = tuned
    sets = {
        target: {entry["set_folder"] for entry in json.loads(path.read_text())["entries"]}
        for target in ("domain0", "domain1")
        for path in [folder / f"tune-{target}.json"]
    }
    shared = sets["domain0"] & sets["domain1"]
    assert {name.split("-")[1] for name in shared} == {"domain2+domain3"}
    assert len(shared) == 1 + 3 + 3  # Random, and the trials of two methods


def test_the_best_trial_is_chosen_and_written(tuned: tuple[Path, Trials]) -> None:
    folder, found = tuned
    choices = read_tuned_settings(folder)
    for column, rows in found.items():
        for row, budgets in rows.items():
            trials = budgets[2]
            winner = max(np.mean(list(trial.accuracies.values())) for trial in trials)
            assert best(trials).mean == pytest.approx(winner)
            assert choices.columns[column].rows[row][2] == best(trials).settings


def test_tuning_again_computes_nothing(study: Study, tuned: tuple[Path, Trials]) -> None:
    folder, found = tuned
    again, outcome = tune(study, folder, Workers(), lambda report: None)
    assert outcome.computed == []
    assert again == found


def test_the_trials_are_of_the_classes_of_the_study(study: Study, tmp_path: Path) -> None:
    chosen_classes = dataclasses.replace(
        study, classes=("class0", "class2"), methods=(MethodEntry("dm"),), targets=("domain0",)
    )
    _, outcome = tune(chosen_classes, tmp_path, Workers(), lambda report: None)
    assert outcome.failures == {}
    assert read_index(tmp_path, "tune-domain0").data["classes"] == ["class0", "class2"]


def test_a_setting_of_the_evaluation_starts_from_its_resolved_value(study: Study, tmp_path: Path) -> None:
    """The trials are of the study's `evaluate` and the seeds of tuning: its other evaluations and seeds, its
    sweeps and an earlier choice take no part. Half of them are below the middle of a logarithmic range."""
    one = dataclasses.replace(
        study,
        methods=(MethodEntry("dm"),),
        targets=("domain0",),
        seeds=(3, 4),
        evaluations={"strong": {"weight_decay": 0.1}, "plain": {}},
        sweeps={"distill.image_lr": (0.5,)},
        tune=TuneConfig(5, (7,), {"evaluate.weight_decay": Range(1e-3, 1e3, relative=True)}),
        tuned=str(tmp_path / "earlier"),
    )
    found, outcome = tune(one, tmp_path, Workers(), lambda report: None)
    assert outcome.failures == {}
    assert set(found["domain0"]) == {"dm"}
    own, *others = (trial.settings["evaluate.weight_decay"] for trial in found["domain0"]["dm"][2])
    assert own == 5e-4
    assert len(others) == 4
    assert sorted(value > own for value in others) == [False, False, True, True]
    index = read_index(tmp_path, "tune-domain0")
    assert {entry.seed for entry in index.entries} == {7}
    assert index.evaluations == [""]
    assert {row["sweep"] for row in index.rows} == {None}
    assert index.study.tuned is None


def test_settings_that_do_not_act_on_a_coreset_are_not_tuned_for_it() -> None:
    (herding,) = (row for row in rows_of(Study(methods=(MethodEntry("herding"),))) if row.key == "herding")
    for name in ("image_lr", "iterations", "surgery.alpha", "optimizer", "pseudo_domains"):
        assert not is_tunable(herding, f"distill.{name}")
    for name in ("init", "factor", "herding_epochs", "network.width"):
        assert is_tunable(herding, f"distill.{name}")
    with pytest.raises(ValueError, match=r"no setting distill.gamma"):
        is_tunable(herding, "distill.gamma")


def test_a_number_of_pseudo_domains_is_tuned_where_a_row_has_one(study: Study, tmp_path: Path) -> None:
    assert not any(is_tunable(row, "distill.pseudo_domains") for row in rows_of(study))
    methods = (MethodEntry("dm", distill={"pseudo_domains": None}), MethodEntry("dm+sgs"))
    settings = {
        "distill.pseudo_domains": Range(2, 8, log=False, integer=True),
        "distill.image_lr": Range(relative=True),
    }
    styles = dataclasses.replace(
        study,
        methods=methods,
        targets=("domain0",),
        distill={**study.distill, "pseudo_domains": 3},
        tune=TuneConfig(3, settings=settings),
    )
    found, outcome = tune(styles, tmp_path, Workers(), lambda report: None)
    assert outcome.failures == {}
    tried = [trial.settings["distill.pseudo_domains"] for trial in found["domain0"]["dm+sgs"][2]]
    assert tried[0] == 3
    assert len(tried) == 3
    assert all(2 <= count <= 8 for count in tried)
    assert all(set(trial.settings) == {"distill.image_lr"} for trial in found["domain0"]["dm"][2])


@pytest.mark.parametrize("protocol", ["leave-one-out", "in-distribution", "in-domain"])
def test_trials_are_tested_on_training_images_alone(protocol: str, study: Study, tmp_path: Path) -> None:
    """Other test images, with wrong labels too, change no trial."""
    data = toy_domains(domains=4)
    (tmp_path / "plain").mkdir()
    (tmp_path / "changed").mkdir()
    images, labels = data.images.clone(), data.labels.clone()
    images[data.is_test] = 255 - images[data.is_test]
    labels[data.is_test] = 0
    write_npz(data, tmp_path / "plain")
    write_npz(dataclasses.replace(data, images=images, labels=labels), tmp_path / "changed")
    found = []
    for name in ("plain", "changed"):
        targets = None if protocol == "in-domain" else ("domain0",)
        one = dataclasses.replace(
            study,
            data=str(tmp_path / name),
            protocol=protocol,
            targets=targets,
            methods=(MethodEntry("dm"),),
            evaluate={"epochs": 3},
            tune=TuneConfig(2, settings={"distill.image_lr": Range(relative=True)}),
        )
        found.append(tune(one, tmp_path / f"tuning-{name}", Workers(), lambda report: None)[0])
    assert found[0] == found[1]
    for path in (tmp_path / "tuning-plain").glob("jobs/*/evaluation-*"):
        assert sum(json.loads(path.read_text())["images"].values()) == 27


def test_what_cannot_be_tuned_is_refused(study: Study, tmp_path: Path) -> None:
    def refused(message: str, **changes: object) -> None:
        with pytest.raises(ValueError, match=message):
            tune(dataclasses.replace(study, **changes), tmp_path, Workers(), lambda report: None)  # type: ignore[arg-type]

    refused("with the source domain0 alone.* number of pseudo-domains", protocol="single-source")
    refused("no method has any of the settings", tune=TuneConfig(settings={"distill.surgery.alpha": Range()}),
            methods=(MethodEntry("dm"),))  # fmt: skip
    three = ("domain0", "domain1", "domain2")
    refused("domain0: without one of its two sources dm.sgs has no domains", domains=three)
    refused("no setting distill.gamma", tune=TuneConfig(settings={"distill.gamma": Range()}))
    refused("settings must list at least one", tune=TuneConfig(settings={}))
    refused("trials must be at least 1", tune=TuneConfig(trials=0))
    refused("distill.optimizer of dm is 'sgd', but only numbers have a range",
            tune=TuneConfig(settings={"distill.optimizer": Range()}))  # fmt: skip
    depth = TuneConfig(1, settings={"evaluate.network.depth": Range(1, 3, relative=True)})
    refused("evaluate.network.depth of dm is None, but only numbers have a range", tune=depth,
            evaluate={"network": {"architecture": "resnet18"}})  # fmt: skip
    refused("distill.momentum: low 0.9 lies above high 0.1",
            tune=TuneConfig(settings={"distill.momentum": Range(0.9, 0.1)}))  # fmt: skip
    refused("must begin above 0", tune=TuneConfig(settings={"distill.momentum": Range(0, 0.9)}))
    with pytest.raises(ValueError, match="holds no tuning"):
        read_tuned_settings(tmp_path)


def test_whole_numbers_are_tried_once_each(study: Study, tmp_path: Path) -> None:
    settings = {"distill.iterations": Range(1, 2, log=False, integer=True)}
    one = dataclasses.replace(
        study, methods=(MethodEntry("dm"),), targets=("domain0",), tune=TuneConfig(9, settings=settings)
    )
    found, _ = tune(one, tmp_path, Workers(), lambda report: None)
    assert [trial.settings for trial in found["domain0"]["dm"][2]] == [
        {"distill.iterations": 1},
        {"distill.iterations": 2},
    ]


def test_the_command_writes_the_choice_and_its_picture(study: Study, tmp_path: Path) -> None:
    values = {
        "data": study.data,
        "targets": ["domain3"],
        "methods": ["dm"],
        "ipc": [1],
        "seeds": [0],
        "distill": study.distill,
        "evaluate": study.evaluate,
        "tune": {"trials": 2, "settings": {"distill.image_lr": {"low": 0.5, "high": 2}}},
    }
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(values))
    runner = CliRunner()
    result = runner.invoke(cli.app, ["tune", str(path), "--out", str(tmp_path / "tuning")])
    assert result.exit_code == 0, result.output
    assert "domain3, dm, 1 per class: distill.image_lr" in result.output
    assert "%withthestudy'sownsettings" in "".join(result.output.split())
    assert Image.open(tmp_path / "tuning" / "tuning.png").width > 300
    arguments = ["grid", str(path), "--tuned", str(tmp_path / "tuning"), "--out", str(tmp_path / "grid")]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output


def test_a_trial_that_failed_once_is_left_out_and_the_command_says_whose_it_was(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study's own settings fail where domain3 is left out, and there alone."""
    distil = job.distill

    def failing(sources: DomainDataset, config: DistillConfig, **rest: Any) -> DistilledSet:
        if config.image_lr == 8 and sources.domain_names == ("domain1", "domain2"):
            raise RuntimeError("no")
        return distil(sources, config, **rest)

    monkeypatch.setattr(job, "distill", failing)
    values = {
        "data": study.data,
        "targets": ["domain0"],
        "methods": ["dm"],
        "ipc": [1],
        "seeds": [0],
        "distill": {**study.distill, "image_lr": 8},
        "evaluate": study.evaluate,
        "tune": {"trials": 3, "settings": {"distill.image_lr": {"low": 0.5, "high": 2, "relative": True}}},
    }
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(values))
    result = CliRunner().invoke(cli.app, ["tune", str(path), "--out", str(tmp_path / "tuning")])
    assert result.exit_code == 1, result.output
    assert "itsownsettingsfailed" in "".join(result.output.split())
    content = json.loads((tmp_path / "tuning" / TUNING_NAME).read_text())
    trials = content["columns"]["domain0"]["rows"]["dm"]["1"]["trials"]
    assert len(trials) == 2
    for trial in trials:
        assert not trial["own"]
        assert set(trial["accuracies"]) == {"domain1", "domain2", "domain3"}
        assert 4 <= trial["settings"]["distill.image_lr"] <= 16


def test_trials_may_have_fewer_trainings_than_the_grid(study: Study, tmp_path: Path) -> None:
    fewer = dataclasses.replace(study.tune, trials=1, runs=1)
    study = dataclasses.replace(study, evaluate={"epochs": 1, "runs": 2}, tune=fewer, targets=("domain0",))
    tune(study, tmp_path, Workers(), lambda _: None)
    index = read_index(tmp_path, "tune-domain0")
    reports = [index.evaluation(entry.file) for entry in index.entries]
    assert {report and report["config"]["runs"] for report in reports} == {1}
