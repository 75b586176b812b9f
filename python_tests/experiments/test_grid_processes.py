"""Grids in worker processes and under Ray: dead workers, signals, two grids in one folder."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
from processes import descendants
from small_studies import STUDY, TINY, accuracies, run

from dgdd_fast.config import DistillConfig
from dgdd_fast.distillation import CHECKPOINT_NAME
from dgdd_fast.experiments.grid import Workers, run_grid
from dgdd_fast.experiments.job import EVENTS, JobProgress
from dgdd_fast.experiments.study import (
    MethodEntry,
)
from dgdd_fast.experiments.workers import LOCAL
from dgdd_fast.synthetic.checkpoint import Checkpoint


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
    (unfinished,) = {report.job for report in told if report.stage == "distilling"} - finished
    assert (tmp_path / "jobs" / unfinished / CHECKPOINT_NAME).exists()
    assert unfinished not in run(study, tmp_path).failures
    assert len(accuracies(tmp_path)) == 6


def test_an_interrupted_evaluation_goes_on_after_its_last_network(data_folder: Path, tmp_path: Path) -> None:
    study = dataclasses.replace(
        STUDY,
        data=str(data_folder),
        methods=(MethodEntry("dm"),),
        targets=("domain0",),
        seeds=(0,),
        evaluate={"epochs": 2, "runs": 3},
    )
    epochs: list[int] = []

    def interrupt(report: JobProgress) -> None:
        if report.stage == "training":
            epochs.append(report.done)
            if report.done == 5:  # in the third network
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_grid(study, tmp_path / "interrupted", Workers(), interrupt)
    assert epochs == [1, 2, 3, 4, 5]
    (unfinished,) = (tmp_path / "interrupted").glob("jobs/*/unfinished-*")
    # Damaged, it is begun again; the other job has not begun.
    damaged = Path(shutil.copytree(tmp_path / "interrupted", tmp_path / "damaged"))
    (damaged / unfinished.relative_to(tmp_path / "interrupted")).write_bytes(unfinished.read_bytes()[:-9])
    for name, first in (("interrupted", 5), ("damaged", 1)):
        told: list[JobProgress] = []
        assert run_grid(study, tmp_path / name, Workers(), told.append).failures == {}
        assert [report.done for report in told if report.stage == "training"][:1] == [first]
        assert [report.stage for report in told].count("damaged") == (name == "damaged")
        assert not list((tmp_path / name).glob("jobs/*/unfinished-*"))
    run(study, tmp_path / "whole")
    assert len(accuracies(tmp_path / "whole")) == 2
    for name in ("interrupted", "damaged"):
        assert accuracies(tmp_path / name) == accuracies(tmp_path / "whole")


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


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_dead_workers_are_replaced_and_the_results_are_those_of_one_process(
    finished: Path, data_folder: Path, tmp_path: Path, count: int
) -> None:
    study = dataclasses.replace(STUDY, data=str(data_folder), seeds=(0,))
    told: list[JobProgress] = []

    def kill_once(report: JobProgress) -> None:
        if report.stage != "done so far":
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


def test_slurm_gives_the_same(finished: Path, data_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs the extra dgdd-fast[slurm]")
    study = dataclasses.replace(
        STUDY, data=str(data_folder), targets=("domain0",), methods=(MethodEntry("random"),), seeds=(0,)
    )
    told: list[JobProgress] = []
    outcome = run_grid(study, tmp_path, Workers(slurm=LOCAL, threads=1), told.append)
    assert outcome.failures == {}
    assert [report.stage for report in told if report.stage in EVENTS] == ["done"]
    (name, there), *more = accuracies(tmp_path).items()
    assert not more
    assert accuracies(finished)[name] == there


@pytest.mark.slow
def test_slurm_jobs_that_are_stopped_or_killed_go_on_from_their_checkpoints(
    data_folder: Path, tmp_path: Path
) -> None:
    """One is told to give way, as Slurm tells it, and then killed."""
    pytest.importorskip("submitit", reason="needs the extra dgdd-fast[slurm]")
    study = dataclasses.replace(
        STUDY,
        data=str(data_folder),
        targets=("domain0",),
        methods=(MethodEntry("dm"),),
        seeds=(0,),
        distill={**TINY, "iterations": 1500, "checkpoint_every": 10},
    )
    sent: list[int] = []
    over = threading.Event()

    def disturb() -> None:
        while len(sent) < 2 and not over.wait(0.02):
            for path in (tmp_path / "grid").glob(f"jobs/*/{CHECKPOINT_NAME}"):
                iteration = Checkpoint.load(path).iteration
                if (len(sent) + 1) * 300 < iteration < 1500:
                    for process in descendants(os.getpid()):
                        if b"submitit.core._submit" in Path(f"/proc/{process}/cmdline").read_bytes():
                            os.kill(process, signal.SIGUSR2 if not sent else signal.SIGKILL)
                    sent.append(iteration)

    told: list[JobProgress] = []
    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        outcome = run_grid(study, tmp_path / "grid", Workers(slurm=LOCAL, threads=1), told.append)
    finally:
        over.set()
        disturber.join()
    assert len(sent) == 2
    assert [report.stage for report in told if report.stage in ("restarted", "failed")] == ["restarted"]
    assert outcome.failures == {}
    run(study, tmp_path / "here")
    assert accuracies(tmp_path / "grid") == accuracies(tmp_path / "here")
