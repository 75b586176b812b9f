"""Grids: that only what is missing is computed, what a job is, failures and interruptions."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from small_studies import EXPERTS, QUICK, STUDY, TINY, accuracies, run
from toy_data import toy_domains
from typer.testing import CliRunner

from dgdd_fast.commands import cli
from dgdd_fast.config import EvaluateConfig, NetworkConfig, from_dict
from dgdd_fast.config.run import read_run_config
from dgdd_fast.data import load_dataset
from dgdd_fast.data.load import LOADERS
from dgdd_fast.distillation import distill
from dgdd_fast.evaluation import evaluate
from dgdd_fast.experiments.grid import Workers, load_data, read_index, run_grid
from dgdd_fast.experiments.job import EVENTS, LOOPS, SET_NAME, JobProgress
from dgdd_fast.experiments.plan import plan
from dgdd_fast.experiments.study import MethodEntry, Study
from dgdd_fast.synthetic.distilled_set import DistilledSet


def test_a_default_that_is_written_out_means_the_same_images(data_folder: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, data=str(data_folder), seeds=(0,), targets=("domain0",))
    assert run(study, tmp_path).failures == {}
    sets = {path: path.stat().st_mtime_ns for path in tmp_path.glob("jobs/*/distilled.safetensors")}
    written_out = dataclasses.replace(study, distill={**TINY, "clamp": False}, evaluate={"epochs": 3})
    assert run(written_out, tmp_path).failures == {}
    assert {path: path.stat().st_mtime_ns for path in sets} == sets
    assert len(list(tmp_path.glob("jobs/*/evaluation-*.json"))) == 2 * len(sets)


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


def test_a_folder_that_is_called_like_a_loader_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOADERS, "toy", lambda argument, resolution: toy_domains())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").mkdir()
    assert load_data(Study(data="toy")).domain_names == ("domain0", "domain1", "domain2")


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


def test_methods_that_share_their_real_means_get_the_same_numbers(
    finished: Path, data_folder: Path, tmp_path: Path
) -> None:
    study = dataclasses.replace(STUDY, data=str(data_folder), share_real_means=True)
    sizes: list[int] = []

    def look(report: JobProgress) -> None:
        if report.stage == "done":
            sizes.append(sum(path.stat().st_size for path in tmp_path.glob("real_means/*")))

    assert run_grid(study, tmp_path, Workers(), look).failures == {}
    there, here = accuracies(finished), accuracies(tmp_path)
    assert here == {name: there[name] for name in here}
    assert len(here) >= 8
    assert max(sizes) > 0
    assert not (tmp_path / "real_means").exists()


def test_other_epochs_evaluate_again_but_distil_nothing(finished: Path, data_folder: Path) -> None:
    study = dataclasses.replace(STUDY, data=str(data_folder), evaluate={"epochs": 1})
    sets = {path: path.stat().st_mtime_ns for path in finished.glob("jobs/*/distilled.safetensors")}
    stages = set()
    run_grid(study, finished, Workers(), lambda report: stages.add(report.stage))
    assert stages & {*EVENTS, *LOOPS} == {"training", "done", "done so far"}
    assert all(path.stat().st_mtime_ns == old for path, old in sets.items())


def test_a_failing_cell_is_told_and_stops_no_other(data_folder: Path, tmp_path: Path) -> None:
    study = {
        "data": str(data_folder),
        "targets": ["domain0"],
        "methods": [
            "dm",
            {
                "method": "dm",
                "name": "wild",
                "distill": {"image_lr": 1e6, "network": {"width": 2, "norm": "none"}, "iterations": 20},
            },
        ],
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
    assert trace.read_text().splitlines()[-1].partition(": ")[2] in result.output
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


def test_a_pool_that_fails_names_its_traceback(data_folder: Path, tmp_path: Path) -> None:
    study = {
        "data": str(data_folder),
        "targets": ["domain0"],
        "methods": ["mmd"],
        "ipc": [1],
        "seeds": [0],
        "pretrain": {
            "experts": 1,
            "epochs": 4,
            "learning_rate": 1e6,
            "network": {"width": 2, "norm": "none"},
        },
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


def test_damaged_experts_are_trained_anew_once_their_folder_is_deleted(
    data_folder: Path, tmp_path: Path
) -> None:
    study = dataclasses.replace(
        EXPERTS, data=str(data_folder), methods=EXPERTS.methods[:1], evaluate={"epochs": 1, "runs": 1}
    )
    assert run(study, tmp_path).failures == {}
    (expert,) = tmp_path.glob("experts/*/expert_00.safetensors")
    before = expert.read_bytes()
    (job,) = tmp_path.glob("jobs/*-mmd-*")
    shutil.rmtree(job)
    expert.write_bytes(before[:-9])
    ((name, reason),) = run(study, tmp_path).failures.items()
    assert name == job.name
    assert f"{expert} is damaged" in reason
    assert f"delete {expert.parent}, and the same command trains them anew" in reason
    shutil.rmtree(expert.parent)
    assert run(study, tmp_path).failures == {}
    assert expert.read_bytes() == before


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
    counted = [(report.done, report.total) for report in reports if report.stage == "done so far"]
    assert counted == [(done, 6) for done in range(7)]
    last = max(place for place, stage in enumerate(stages) if stage == "pretraining")
    assert "distilling" not in stages[:last]
    assert run(study, tmp_path).computed == []
    moved = tmp_path.rename(tmp_path.with_name("moved"))  # experts are found beside the jobs
    for path in moved.glob("jobs/*/evaluation-*"):
        path.unlink()
    assert run(study, moved).failures == {}
