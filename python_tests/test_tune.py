"""Tuning: what is tried, that the target takes no part, the choice, and a grid that takes it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_data import toy_domains, write_npz
from typer.testing import CliRunner

from dgdd_fast import cli
from dgdd_fast.distilled_set import DistilledSet
from dgdd_fast.experiments.choices import chosen, read_choices
from dgdd_fast.experiments.grid import Workers, load_data, run_grid
from dgdd_fast.experiments.plan import plan
from dgdd_fast.experiments.study import MethodEntry, Range, Study, TuneConfig, rows_of
from dgdd_fast.experiments.tune import Trials, best, tune

SETTINGS = {"distill.image_lr": Range(0.1, 10.0, relative=True), "distill.surgery.alpha": Range(0.5, 2.0)}
STUDY = Study(
    methods=(MethodEntry("dm"), MethodEntry("dm+sgs")),
    targets=("domain0", "domain1"),
    ipc=(2,),
    seeds=(0,),
    distill={"iterations": 1, "batch_real": 3, "network": {"width": 2}},
    evaluate={"epochs": 1},
    tune=TuneConfig(trials=3, settings=SETTINGS),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("toy")
    write_npz(toy_domains(domains=4), folder)
    return dataclasses.replace(STUDY, data=str(folder))


@pytest.fixture(scope="module")
def tuned(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trials]:
    folder = tmp_path_factory.mktemp("tuning")
    found, outcome = tune(study, folder, Workers(), lambda report: None)
    assert outcome.failures == {}
    return folder, found


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
        for cell in index["cells"]:
            assert target not in json.loads((folder / cell["file"]).read_text())["accuracies"]
            if cell["set_folder"]:
                distilled = DistilledSet.load(folder / cell["set_folder"] / "distilled.safetensors")
                assert target not in distilled.domain_names
                assert cell["column"] not in distilled.domain_names


def test_columns_share_the_sets_of_the_same_sources(tuned: tuple[Path, Trials]) -> None:
    """Without domain0 and domain1 both columns distil domain2 and domain3."""
    folder, _ = tuned
    sets = {
        target: {cell["set_folder"] for cell in json.loads(path.read_text())["cells"]}
        for target in ("domain0", "domain1")
        for path in [folder / f"tune-{target}.json"]
    }
    shared = sets["domain0"] & sets["domain1"]
    assert {name.split("-")[1] for name in shared} == {"domain2+domain3"}
    assert len(shared) == 1 + 3 + 3  # Random, and the trials of two methods


def test_the_best_trial_is_chosen_and_written(tuned: tuple[Path, Trials]) -> None:
    folder, found = tuned
    choices = read_choices(folder)
    for column, rows in found.items():
        for row, budgets in rows.items():
            trials = budgets[2]
            winner = max(np.mean(list(trial.accuracies.values())) for trial in trials)
            assert best(trials).mean == pytest.approx(winner)
            assert choices[column][row][2] == best(trials).settings


def test_tuning_again_computes_nothing(study: Study, tuned: tuple[Path, Trials]) -> None:
    folder, found = tuned
    again, outcome = tune(study, folder, Workers(), lambda report: None)
    assert outcome.computed == []
    assert again == found


def test_a_grid_takes_the_choice_for_each_column(study: Study, tuned: tuple[Path, Trials]) -> None:
    folder, _ = tuned
    choices = read_choices(folder)
    choices["domain0"]["dm+sgs"][2]["distill.surgery.alpha"] = 1.75
    grid = plan(study, load_data(study), choices)
    alphas = {
        job.run.target: job.run.distill.surgery.alpha
        for job in grid.jobs
        if job.run.distill.surgery is not None
    }
    assert alphas["domain0"] == 1.75
    assert alphas["domain1"] == choices["domain1"]["dm+sgs"][2]["distill.surgery.alpha"]
    assert {job.run.distill.image_lr for job in grid.jobs if "random" in job.name} == {None}
    taken = dataclasses.replace(study, tuned=str(folder))
    assert run_grid(taken, folder, Workers(), lambda report: None).failures == {}


def test_a_sweep_keeps_its_value_and_takes_the_rest() -> None:
    row = rows_of(Study(sweeps={"distill.surgery.alpha": (5,)}))[-1]
    settings = {"distill.surgery.alpha": 2.0, "distill.surgery.beta": 0.7}
    found = chosen(row, {"street": {"dm+sgs": {10: settings}}}, "street", 10)
    assert (found.distill.surgery.alpha, found.distill.surgery.beta) == (5, 0.7)


@pytest.mark.parametrize(("column", "ipc"), [("moon", 10), ("street", 20)])
def test_a_column_or_budget_without_a_choice_is_named(column: str, ipc: int) -> None:
    row = next(row for row in rows_of(Study()) if row.key == "dm")
    with pytest.raises(ValueError, match=f"nothing was tuned for dm, {ipc} images per class, {column}"):
        chosen(row, {"street": {"dm": {10: {}}}}, column, ipc)


def test_what_cannot_be_tuned_is_refused(study: Study, tmp_path: Path) -> None:
    def refused(message: str, **changes: object) -> None:
        with pytest.raises(ValueError, match=message):
            tune(dataclasses.replace(study, **changes), tmp_path, Workers(), lambda report: None)  # type: ignore[arg-type]

    refused("with the source domain0 alone", protocol="single-source")
    refused("no method has any of the settings", tune=TuneConfig(settings={"distill.surgery.alpha": Range()}),
            methods=(MethodEntry("dm"),))  # fmt: skip
    refused("no setting distill.gamma", tune=TuneConfig(settings={"distill.gamma": Range()}))
    refused("trials must be at least 1", tune=TuneConfig(trials=0))
    refused("must begin above 0", tune=TuneConfig(settings={"distill.momentum": Range(0, 0.9)}))
    with pytest.raises(ValueError, match="holds no tuning"):
        read_choices(tmp_path)


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
    assert Image.open(tmp_path / "tuning" / "tuning.png").width > 300
    arguments = ["grid", str(path), "--tuned", str(tmp_path / "tuning"), "--out", str(tmp_path / "grid")]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
