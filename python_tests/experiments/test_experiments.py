"""Studies and grids: what is planned, that only what is missing is computed, failures and interruptions."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from toy_data import toy_domains, write_npz
from typer.testing import CliRunner

from dgdd_fast.commands import cli
from dgdd_fast.config import DistillConfig, EvaluateConfig, NetworkConfig, SurgeryConfig, from_dict
from dgdd_fast.config.run import read_run_config
from dgdd_fast.data import load_dataset
from dgdd_fast.distillation import CHECKPOINT_NAME, distill
from dgdd_fast.evaluation import evaluate
from dgdd_fast.experiments.grid import GridOutcome, Workers, load_data, read_index, run_grid
from dgdd_fast.experiments.job import SET_NAME, JobProgress
from dgdd_fast.experiments.plan import Plan, plan
from dgdd_fast.experiments.study import (
    MethodEntry,
    Study,
    read_study,
    rows_of,
    study_from_dict,
    write_study,
)
from dgdd_fast.synthetic.checkpoint import Checkpoint
from dgdd_fast.synthetic.distilled_set import DistilledSet

TINY = {"iterations": 2, "batch_real": 4, "image_lr": 0.2, "network": {"width": 4}}
QUICK = {"epochs": 2}
STUDY = Study(ipc=(3,), seeds=(0, 1), distill=TINY, evaluate=QUICK, targets=("domain0", "domain1"))


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains as .npz files: 3 classes of 9 + 3 images of 16 px each."""
    folder = tmp_path_factory.mktemp("toy")
    write_npz(toy_domains(), folder)
    return folder


@pytest.fixture(scope="module")
def finished(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of STUDY on the toy data, carried out in this process."""
    folder = tmp_path_factory.mktemp("grid")
    outcome = run(dataclasses.replace(STUDY, data=str(data_folder)), folder)
    assert outcome.failures == {}
    return folder


def run(study: Study, folder: Path, workers: Workers = Workers()) -> GridOutcome:  # noqa: B008
    return run_grid(study, folder, workers, lambda report: None)


def planned(**changes: object) -> Plan:
    return plan(dataclasses.replace(STUDY, **changes), toy_domains())  # type: ignore[arg-type]


def accuracies(folder: Path) -> dict[str, dict[str, list[float]]]:
    """The accuracies of every evaluation in the folder of a grid, without what differs from run to run."""
    return {
        f"{path.parent.name}/{path.name}": json.loads(path.read_text())["accuracies"]
        for path in sorted(folder.glob("jobs/*/evaluation-*.json"))
    }


# --- the study file ---


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
        ({"tune": {"trials": 10**12}}, "tune.trials must be at most 1000000"),
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


# --- the plan ---


def test_leave_one_out_distils_without_the_target_and_tests_on_it_alone() -> None:
    grid = planned(targets=None)
    assert grid.columns == ["domain0", "domain1", "domain2"]
    entries = [entry for entry in grid.entries if entry.column == "domain1"]
    assert {entry.tests for entry in entries} == {("domain1",)}
    jobs = {job.name: job for job in grid.jobs}
    for entry in entries:
        job = jobs[entry.set_folder.removeprefix("jobs/")]
        assert job.sources == ("domain0", "domain2")
        assert job.run.target == "domain1"


def test_single_source_tests_on_every_other_domain_and_in_domain_on_all() -> None:
    grid = planned(protocol="single-source", targets=None, methods=(MethodEntry("dm"),))
    assert {(entry.column, entry.tests, entry.pooled) for entry in grid.entries} == {
        ("domain0", ("domain1", "domain2"), False),
        ("domain1", ("domain0", "domain2"), False),
        ("domain2", ("domain0", "domain1"), False),
    }
    assert {job.sources for job in grid.jobs} == {("domain0",), ("domain1",), ("domain2",)}
    grid = planned(protocol="in-domain", targets=None)
    assert grid.columns == ["all domains"]
    assert {job.sources for job in grid.jobs} == {("domain0", "domain1", "domain2")}
    with pytest.raises(ValueError, match="holds no domain out"):
        planned(protocol="in-domain")


def test_in_and_out_of_distribution_share_every_file() -> None:
    inside, outside = planned(protocol="in-distribution"), planned()
    assert {entry.file for entry in inside.entries} == {entry.file for entry in outside.entries}
    assert inside.entries[0].tests == ("domain1", "domain2")


def test_a_validation_shares_the_sets_but_no_evaluation() -> None:
    """It is tested on other images of the same domains."""
    validation, test = planned(protocol="validation"), planned()
    assert {job.name for job in validation.jobs} == {job.name for job in test.jobs}
    assert not {entry.file for entry in validation.entries} & {entry.file for entry in test.entries}


def test_the_columns_are_in_the_order_of_the_targets_and_the_cells_are_the_same() -> None:
    for protocol in ("leave-one-out", "single-source", "in-distribution"):
        common = {"protocol": protocol, "methods": (MethodEntry("dm"),)}
        forth = planned(**common, targets=("domain0", "domain1", "domain2"))
        back = planned(**common, targets=("domain2", "domain0", "domain1", "domain0"))
        assert back.columns == ["domain2", "domain0", "domain1"]
        assert list(dict.fromkeys(entry.column for entry in back.entries)) == back.columns
        assert set(back.entries) == set(forth.entries)


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(ValueError, match=r"no domain 'moon' in the data; it has domain0.*: name targets of"):
        planned(targets=("moon",))


def test_every_number_has_random_at_its_budget_under_its_evaluation() -> None:
    methods = (MethodEntry("dm"), MethodEntry("dm", "longer", evaluate={"epochs": 9}))
    grid = planned(methods=methods, ipc=(1, 3))
    jobs = {job.name: job for job in grid.jobs}
    for entry in grid.entries:
        folder, file = entry.reference.removeprefix("jobs/").split("/")
        job = jobs[folder]
        assert job.run.distill.objective == "random"
        assert job.run.distill.ipc == entry.ipc
        own = jobs[entry.file.split("/")[1]].evaluations[entry.file.split("/")[2]]
        assert job.evaluations[file] == own


def test_the_whole_data_have_no_budget_and_no_random_to_compare_with() -> None:
    methods = (MethodEntry("whole", evaluate={"epochs": 9}), MethodEntry("dm"))
    grid = planned(methods=methods)
    for entry in grid.entries:
        if entry.row == "whole":
            assert entry.reference == entry.file
            assert entry.set_folder is None
    epochs = {config.epochs for job in grid.jobs if not job.whole for config in job.evaluations.values()}
    assert epochs == {2}


def test_random_as_mosaics_is_a_row_of_its_own_beside_the_reference() -> None:
    mosaics = MethodEntry("random", "mosaics", distill={"factor": 2, "iterations": 9})
    grid = planned(methods=(MethodEntry("random"), mosaics), targets=("domain0",), seeds=(0,))
    plain, tiled = grid.entries
    assert plain.file == plain.reference == tiled.reference != tiled.file
    factors = {job.folder: job.run.distill.factor for job in grid.jobs}
    assert (factors[plain.set_folder], factors[tiled.set_folder]) == (1, 2)


def test_methods_share_seeds_and_other_sources_and_seeds_have_others() -> None:
    grid = planned()
    seeds = {(entry.column, entry.seed): set() for entry in grid.entries}
    jobs = {job.name: job for job in grid.jobs}
    for entry in grid.entries:
        folder, file = entry.file.removeprefix("jobs/").split("/")
        seeds[entry.column, entry.seed] |= {
            jobs[folder].run.distill.seed,
            jobs[folder].evaluations[file].seed,
        }
    assert all(len(values) == 1 for values in seeds.values())
    assert len(set.union(*seeds.values())) == len(seeds) == 4


def test_a_folder_is_named_by_all_that_decides_the_images_and_nothing_else() -> None:
    names = {job.name for job in planned().jobs}
    same = (
        {"distill": {**TINY, "checkpoint_every": 7}},
        {"evaluate": {"epochs": 5}},
        {"title": "other", "data": "elsewhere"},
    )
    for changes in same:
        assert {job.name for job in planned(**changes).jobs} == names
    for changes in ({"distill": {**TINY, "iterations": 3}}, {"ipc": (4,)}, {"seeds": (2, 3)}):
        other = {job.name for job in planned(**changes).jobs}
        matched = names & other
        assert all("random" in name for name in matched)
    data = toy_domains(seed=1)
    assert not names & {job.name for job in plan(STUDY, data).jobs}


def test_settings_that_cannot_work_are_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="batch_real must be at least 1, got 0"):
        planned(distill={"batch_real": 0})
    for settings, message in (
        ({"runs": 0}, "runs must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be positive and finite, got -1"),
        ({"learning_rate": math.inf}, "learning_rate must be positive and finite, got inf"),
        ({"momentum": 2.0}, "momentum must be at least 0 and less than 1, got 2"),
        ({"momentum": -0.1}, "momentum must be at least 0 and less than 1, got -0.1"),
        ({"weight_decay": math.nan}, "weight_decay must be finite and not negative, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and not negative, got -0.1"),
    ):
        with pytest.raises(ValueError, match=f"evaluate: {message}"):
            planned(evaluate=settings)


@pytest.mark.parametrize("protocol", ["in-distribution", "in-domain"])
def test_domains_without_the_images_that_are_tested_on_are_refused(protocol: str) -> None:
    data = toy_domains()
    part = data.select(~(data.is_test & (data.domains != 1)))
    study = dataclasses.replace(STUDY, protocol=protocol, targets=None)
    with pytest.raises(
        ValueError, match=f"{protocol} tests on test images of domain0, domain2, and there are none"
    ):
        plan(study, part)
    assert plan(dataclasses.replace(STUDY, targets=None), part).jobs


def test_a_default_that_is_written_out_means_the_same_images(data_folder: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, data=str(data_folder), seeds=(0,), targets=("domain0",))
    assert run(study, tmp_path).failures == {}
    sets = {path: path.stat().st_mtime_ns for path in tmp_path.glob("jobs/*/distilled.safetensors")}
    written_out = dataclasses.replace(study, distill={**TINY, "clamp": False}, evaluate={"epochs": 3})
    assert run(written_out, tmp_path).failures == {}
    assert {path: path.stat().st_mtime_ns for path in sets} == sets
    assert len(list(tmp_path.glob("jobs/*/evaluation-*.json"))) == 2 * len(sets)


def test_a_longer_study_keeps_the_jobs_of_the_shorter_one() -> None:
    shorter, longer = planned(), planned(seeds=(0, 1, 2), targets=None, ipc=(3, 5))
    assert {job.name for job in shorter.jobs} < {job.name for job in longer.jobs}
    assert {entry.file for entry in shorter.entries} < {entry.file for entry in longer.entries}


# --- carrying it out ---


def test_a_cell_is_what_the_public_functions_give(finished: Path, data_folder: Path) -> None:
    index = read_index(finished)
    entry = next(entry for entry in index.entries if (entry.row, entry.column) == ("dm+sgs", "domain1"))
    folder = finished / entry.set_folder
    settings = read_run_config(folder / "config.yaml")
    parts = load_dataset(settings.data).leave_out("domain1")
    distilled = distill(parts.sources_train, settings.distill, target="domain1")
    kept = DistilledSet.load(folder / "distilled.safetensors")
    assert torch.equal(kept.images, distilled.images)
    seed = settings.distill.seed
    config = EvaluateConfig(runs=1, epochs=2, network=NetworkConfig(width=4), seed=seed)
    tests = {"domain1": parts.target, "domain0": parts.sources_test.only_domains(["domain0"])}
    result = evaluate(distilled, tests, config)
    report = index.evaluation(entry.file)
    assert report["accuracies"]["domain1"]["runs"] == result.accuracies["domain1"]
    assert report["accuracies"]["domain0"]["runs"] == result.accuracies["domain0"]
    assert report["images"] == {"domain0": 9, "domain1": 36, "domain2": 9}
    assert report["seconds"] > 0


def test_a_study_of_some_classes_is_carried_out_on_those(data_folder: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(
        STUDY, data=str(data_folder), classes=("class2", "class0"), seeds=(0,), targets=("domain0",)
    )
    assert run(study, tmp_path).failures == {}
    index = read_index(tmp_path)
    assert index.study.classes == study.classes
    assert index.data["classes"] == ["class0", "class2"]
    assert {index.evaluation(entry.file)["images"]["domain0"] for entry in index.entries} == {24}
    for entry in index.entries:
        folder = tmp_path / entry.set_folder
        assert read_run_config(folder / "config.yaml").classes == study.classes
        assert DistilledSet.load(folder / "distilled.safetensors").class_names == ("class0", "class2")
    other_order = dataclasses.replace(study, classes=("class0", "class2"))
    assert run(other_order, tmp_path).computed == []
    names = {job.name for job in plan(study, load_data(study)).jobs}
    for classes in (None, ("class0", "class1")):
        other = dataclasses.replace(study, classes=classes)
        assert not names & {job.name for job in plan(other, load_data(other)).jobs}


def test_the_command_distils_a_cell_again_from_its_settings(finished: Path, tmp_path: Path) -> None:
    folder = next(finished.glob("jobs/*-dm-*"))
    arguments = ["distill", "--config", str(folder / "config.yaml"), "--out", str(tmp_path / "again")]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    first, again = (
        DistilledSet.load(path / "distilled.safetensors").images for path in (folder, tmp_path / "again")
    )
    assert torch.equal(first, again)


def test_a_second_run_computes_nothing_and_a_longer_study_what_is_new(
    finished: Path, data_folder: Path
) -> None:
    study = dataclasses.replace(STUDY, data=str(data_folder))
    before = {path: path.stat().st_mtime_ns for path in finished.glob("jobs/*/*")}
    assert run(study, finished).computed == []
    longer = run(dataclasses.replace(study, targets=None), finished)
    assert longer.computed
    assert all(name.startswith("from-domain0+domain1-") for name in longer.computed)
    assert all(path.stat().st_mtime_ns == old for path, old in before.items())


def test_other_epochs_evaluate_again_but_distil_nothing(finished: Path, data_folder: Path) -> None:
    study = dataclasses.replace(STUDY, data=str(data_folder), evaluate={"epochs": 1})
    sets = {path: path.stat().st_mtime_ns for path in finished.glob("jobs/*/distilled.safetensors")}
    stages = set()
    run_grid(study, finished, Workers(), lambda report: stages.add(report.stage))
    assert stages == {"training", "done"}
    assert all(path.stat().st_mtime_ns == old for path, old in sets.items())


def test_a_failing_cell_is_told_and_stops_no_other(data_folder: Path, tmp_path: Path) -> None:
    study = {
        "data": str(data_folder),
        "targets": ["domain0"],
        "methods": ["dm", {"method": "dm", "name": "wild", "distill": {"image_lr": 1e39}}],
        "ipc": [3],
        "seeds": [0],
        "distill": TINY,
        "evaluate": QUICK,
    }
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study))
    result = CliRunner().invoke(cli.app, ["grid", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1, result.output
    assert "error.txt" in result.output
    (trace,) = (tmp_path / "out").glob("jobs/*/error.txt")
    assert "Traceback" in trace.read_text()
    assert trace.read_text().splitlines()[-1] in result.output
    index = read_index(tmp_path / "out")
    assert {entry.row for entry in index.entries if index.evaluation(entry.file)} == {"random", "dm"}
    assert "2 computed now" in result.output


def test_an_edited_cell_is_refused_and_named(finished: Path, data_folder: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, data=str(data_folder), seeds=(0,), targets=("domain0",))
    run(study, tmp_path)
    config = next(tmp_path.glob("jobs/*-dm-*")) / "config.yaml"
    config.write_text(config.read_text().replace("iterations: 2", "iterations: 9"))
    for path in config.parent.glob("evaluation-*"):
        path.unlink()
    ((name, reason),) = run(study, tmp_path).failures.items()
    assert name == config.parent.name
    assert "iterations is 9, but this folder is for 2" in reason


def test_the_error_of_a_job_goes_when_it_succeeds(data_folder: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(
        STUDY, data=str(data_folder), methods=(MethodEntry("dm"),), seeds=(0,), targets=("domain0",)
    )
    job = tmp_path / next(one for one in plan(study, load_data(study)).jobs if "-dm-" in one.name).folder
    job.mkdir(parents=True)
    (job / SET_NAME).mkdir()  # in the way of the set
    assert set(run(study, tmp_path).failures) == {job.name}
    assert (job / "error.txt").exists()
    (job / SET_NAME).rmdir()
    assert run(study, tmp_path).failures == {}
    assert not (job / "error.txt").exists()


def test_ctrl_c_keeps_every_finished_cell(data_folder: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, data=str(data_folder), targets=("domain0",))
    told: list[JobProgress] = []

    def interrupt(report: JobProgress) -> None:
        told.append(report)
        if sum(one.stage == "done" for one in told) == 4 and report.stage == "distilling":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_grid(study, tmp_path, Workers(), interrupt)
    assert len(accuracies(tmp_path)) == 4
    finished = {report.job for report in told if report.stage == "done"}
    (unfinished,) = {report.job for report in told} - finished
    assert (tmp_path / "jobs" / unfinished / CHECKPOINT_NAME).exists()
    assert unfinished not in run(study, tmp_path).failures
    assert len(accuracies(tmp_path)) == 6


def test_two_grids_cannot_work_in_one_folder(data_folder: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, data=str(data_folder), seeds=(0,), targets=("domain0",))
    refused: list[str] = []

    def second(report: JobProgress) -> None:
        with pytest.raises(ValueError, match="another dgdd grid is at work") as error:
            run(study, tmp_path)
        refused.append(str(error.value))

    run_grid(study, tmp_path, Workers(), second)
    assert refused
    assert run(study, tmp_path).computed == []


def test_the_whole_data_are_trained_on_as_they_are(data_folder: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(
        STUDY,
        data=str(data_folder),
        methods=(MethodEntry("whole"),),
        ipc=(1, 3),
        seeds=(0,),
        targets=("domain2",),
    )
    assert run(study, tmp_path).failures == {}
    index = read_index(tmp_path)
    files = {entry.file for entry in index.entries if entry.row == "whole"}
    assert len(files) == 1  # whatever the budget
    report = index.evaluation(files.pop())
    sources, _, target = load_dataset(data_folder).leave_out("domain2")
    config = from_dict(EvaluateConfig, report["config"])
    result = evaluate(sources, {"domain2": target}, config)
    assert report["accuracies"]["domain2"]["runs"] == result.accuracies["domain2"]


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_dead_workers_are_replaced_and_the_results_are_those_of_one_process(
    finished: Path, data_folder: Path, tmp_path: Path, count: int
) -> None:
    study = dataclasses.replace(STUDY, data=str(data_folder), seeds=(0,))
    told: list[JobProgress] = []

    def kill_once(report: JobProgress) -> None:
        if not told:
            for victim in multiprocessing.active_children():
                victim.kill()
        told.append(report)

    devices = ("cpu", "cpu:0")[:count]  # the same by two names
    outcome = run_grid(study, tmp_path, Workers(count, None, devices, 1), kill_once)
    assert outcome.failures == {}
    assert any(report.stage == "restarted" for report in told)
    assert multiprocessing.active_children() == []
    evaluations = [json.loads(path.read_text()) for path in tmp_path.glob("jobs/*/evaluation-*.json")]
    assert {report["device"] for report in evaluations} == set(devices)
    here = accuracies(finished)
    there = accuracies(tmp_path)
    assert there
    assert all(here[name] == values for name, values in there.items())


@pytest.mark.slow
def test_a_job_whose_worker_always_dies_is_given_up(data_folder: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(
        STUDY,
        data=str(data_folder),
        methods=(MethodEntry("dm"),),
        seeds=(0,),
        targets=("domain0",),
        distill={**TINY, "iterations": 100_000},
    )

    def kill_its_worker(report: JobProgress) -> None:
        if report.stage == "distilling":
            for victim in multiprocessing.active_children():
                victim.kill()

    ((name, reason),) = run_grid(study, tmp_path, Workers(1, threads=1), kill_its_worker).failures.items()
    assert "-dm-" in name
    assert "its worker died 3 times" in reason
    assert len(accuracies(tmp_path)) == 1


@pytest.mark.slow
def test_ctrl_c_lets_the_workers_write_their_checkpoints(data_folder: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(
        STUDY, data=str(data_folder), targets=("domain0",), distill={**TINY, "iterations": 100_000}
    )

    def interrupt(report: JobProgress) -> None:
        if report.stage == "distilling":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(study, tmp_path, Workers(1, threads=1), interrupt)
    assert multiprocessing.active_children() == []
    (path,) = tmp_path.glob(f"jobs/*/{CHECKPOINT_NAME}")
    assert Checkpoint.load(path).iteration % DistillConfig.checkpoint_every != 0


def descendants(parent: int, name: bytes) -> list[int]:
    """The processes below `parent` whose command line begins with `name`."""
    parents, named = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
                if (entry / "cmdline").read_bytes().startswith(name):
                    named.append(int(entry.name))
    found = []
    for process in named:
        above = process
        while above in parents and above != parent:
            above = parents[above]
        if above == parent:
            found.append(process)
    return found


@pytest.mark.slow
def test_ray_gives_the_same_and_runs_the_job_of_a_killed_worker_again(
    finished: Path, data_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs the extra dgdd-fast[ray]")
    study = dataclasses.replace(STUDY, data=str(data_folder), seeds=(0,))
    killed: list[int] = []
    over = threading.Event()

    def kill_one() -> None:
        while not killed and not over.wait(0.02):
            for process in descendants(os.getpid(), b"ray::_run_ray_task")[:1]:
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        outcome = run_grid(study, tmp_path, Workers(ray="local", threads=1), lambda report: None)
    finally:
        over.set()
        killer.join()
    assert killed
    assert outcome.failures == {}
    there, here = accuracies(tmp_path), accuracies(finished)
    assert there
    assert all(here[name] == values for name, values in there.items())


# --- experts ---

EXPERTS = Study(
    methods=(
        MethodEntry("mmd", pretrain={"reversal_weight": 0}),
        MethodEntry("cadm"),
        MethodEntry("cadm", "gentle", distill={"masks": {"consistency_weight": 1}}),
    ),
    targets=("domain0",),
    ipc=(2,),
    seeds=(0,),
    distill={"iterations": 1, "batch_real": 3, "network": {"width": 3}},
    pretrain={"experts": 1, "epochs": 1, "network": {"width": 2}},
    evaluate={"epochs": 1},
)


def test_methods_that_match_in_experts_share_the_pools_trained_alike() -> None:
    grid = plan(EXPERTS, toy_domains())
    pools = {pool.folder: pool.config.reversal_weight for pool in grid.pools}
    assert sorted(pools.values()) == [0, 0.25]
    weights = {job.run.distill.objective: pools[job.pool] for job in grid.jobs if job.pool}
    assert weights == {"mmd": 0, "cadm": 0.25}
    assert len({job.name for job in grid.jobs}) == 4
    networks = {config.network.architecture for job in grid.jobs for config in job.evaluations.values()}
    assert networks == {"resnet18", "convnet"}  # that of the experts; and Random's own row has the default
    with pytest.raises(ValueError, match="only mmd and cadm match in experts"):
        study_from_dict({"methods": [{"method": "dm", "pretrain": {"epochs": 1}}]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masks": {"share": 1.5}}, "masks.share must lie in"),
        ({"batch_real": 0}, "batch_real must be at least 1"),
        ({"masks": {"stages": [5]}}, "masks.stages names stage 5, and a resnet18 has 4"),
        ({"experts": {"matching": False}, "surgery": {}}, "experts.matching must be plain or masked"),
        ({"network": {"width": 9}}, "leave distill.network alone"),
    ],
)
def test_settings_of_expert_methods_are_checked_before_any_expert_is_trained(
    settings: dict[str, object], message: str
) -> None:
    method = "cadm+sgs" if "surgery" in settings else "cadm"
    study = dataclasses.replace(EXPERTS, methods=(MethodEntry(method, distill=settings),))
    with pytest.raises(ValueError, match=message):
        plan(study, toy_domains())


def test_a_pool_that_fails_names_its_traceback(data_folder: Path, tmp_path: Path) -> None:
    study = {
        "data": str(data_folder),
        "targets": ["domain0"],
        "methods": ["mmd"],
        "ipc": [1],
        "seeds": [0],
        "pretrain": {"experts": 1, "epochs": 4, "learning_rate": 1e39, "network": {"width": 2}},
        "evaluate": QUICK,
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    out = tmp_path / "out"
    result = CliRunner().invoke(cli.app, ["grid", str(tmp_path / "study.yaml"), "--out", str(out)])
    assert result.exit_code == 1, result.output
    output = "".join(result.output.split())
    traces = [*out.glob("experts/*/error.txt"), *out.glob("jobs/*/error.txt")]
    assert len(traces) == 2  # the pool's, and that of the set that needs it
    assert all(f"thetracebackisin{trace}" in output for trace in traces)


def test_a_sweep_reaches_the_masks() -> None:
    study = dataclasses.replace(EXPERTS, sweeps={"distill.masks.share": (0.1,)})
    swept = {row.entry: row.distill.masks.share for row in rows_of(study) if row.sweep}
    assert swept == {"cadm": 0.1, "gentle": 0.1}


def test_experts_are_trained_first_and_once(data_folder: Path, tmp_path: Path) -> None:
    pretrain = {**EXPERTS.pretrain, "epochs": 2}
    study = dataclasses.replace(EXPERTS, data=str(data_folder), pretrain=pretrain)
    reports: list[JobProgress] = []
    outcome = run_grid(study, tmp_path, Workers(), reports.append)
    assert outcome.failures == {}
    assert outcome.jobs == 2 + 4
    stages = [report.stage for report in reports]
    training = [(report.done, report.total) for report in reports if report.stage == "pretraining"]
    assert sorted(training) == [(1, 2), (1, 2), (2, 2), (2, 2)]
    last = max(place for place, stage in enumerate(stages) if stage == "pretraining")
    assert "distilling" not in stages[:last]
    assert run(study, tmp_path).computed == []
    moved = tmp_path.rename(tmp_path.with_name("moved"))  # experts are found beside the jobs
    for path in moved.glob("jobs/*/evaluation-*"):
        path.unlink()
    assert run(study, moved).failures == {}
