"""Where a grid runs: the options that say so, and how devices are handed out to the workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy_data import toy_domains
from typer.testing import CliRunner

from dgdd_fast.commands import cli
from dgdd_fast.commands.grid import workers_to_use
from dgdd_fast.devices import usable_device
from dgdd_fast.experiments import grid, tune, workers
from dgdd_fast.experiments.grid import GridOutcome, Workers
from dgdd_fast.experiments.job import JobData, JobProgress, ProgressCallback
from dgdd_fast.experiments.plan import Job, plan
from dgdd_fast.experiments.study import Study


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets torch count this many GPUs; none to begin with."""

    def count(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    count(0)
    return count


# --- the options ---


def test_a_device_that_is_there_is_taken(gpus: Callable[[int], None]) -> None:
    assert usable_device("auto") == "cpu"
    assert usable_device("cpu") == "cpu"
    gpus(2)
    assert [usable_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "nonsense", "meta", "mps", ""])
def test_without_a_gpu_only_the_cpu_is_there(gpus: Callable[[int], None], name: str) -> None:
    with pytest.raises(ValueError, match=f"no device '{name}' .*torch finds no GPU.*name cpu instead"):
        usable_device(name)


@pytest.mark.parametrize("name", ["cuda:2", "gpu", "cuda:x"])
def test_a_device_that_is_not_there_is_told_those_that_are(gpus: Callable[[int], None], name: str) -> None:
    gpus(2)
    with pytest.raises(ValueError, match=f"no device '{name}' .*give one of cpu, cuda:0, cuda:1"):
        usable_device(name)


def test_the_workers_are_as_the_options_say(gpus: Callable[[int], None]) -> None:
    gpus(2)
    threads = torch.get_num_threads()
    assert workers_to_use(0, "cpu", None, None) == Workers(0, None, ("cpu",), None)
    assert workers_to_use(3, "cuda:0, cuda:1", None, 2) == Workers(3, None, ("cuda:0", "cuda:1"), 2)
    assert workers_to_use(0, "cuda", "auto", 4) == Workers(0, "auto", ("cuda",), 4)
    assert torch.get_num_threads() == threads  # those are the workers'
    try:
        workers_to_use(0, "cuda:1", None, threads + 1)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("processes", "devices", "ray", "message"),
    [
        (2, "cpu", "auto", "--ray and --workers are two ways"),
        (0, "cuda:0,cuda:1", None, "2 devices need as many workers: --workers 2"),
        (1, "cpu,cpu", None, "2 devices need as many workers: --workers 2"),
        (0, "cpu,cpu", "auto", "Ray hands out the devices by itself.* got 'cpu,cpu'"),
        (0, "cuda:1", "auto", "Ray hands out the devices by itself.* got 'cuda:1'"),
        (0, "nonsense", "auto", "Ray hands out the devices by itself.* got 'nonsense'"),
        (2, "cpu,nonsense", None, "no device 'nonsense'"),
        (1, "cpu,", None, "2 devices need"),
        (0, "cuda", None, "no device 'cuda'"),
        (0, "cuda", "local", "no device 'cuda'"),
    ],
)
def test_options_that_cannot_work_are_refused(
    gpus: Callable[[int], None], processes: int, devices: str, ray: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        workers_to_use(processes, devices, ray, None)


def test_a_cluster_may_have_gpus_that_this_machine_has_not(gpus: Callable[[int], None]) -> None:
    assert workers_to_use(0, "cuda", "10.0.0.1:6379", None).devices == ("cuda",)


OUTCOME = GridOutcome(0, [], {})


@pytest.mark.parametrize(
    ("processes", "ray", "slurm", "message"),
    [
        (2, None, "partition=gpu", "--slurm and --workers are two ways"),
        (0, "auto", "partition=gpu", "--ray and --slurm are two ways"),
        (0, None, "gpu", "--slurm takes options of sbatch, such as partition=gpu,time=240, got 'gpu'"),
        (0, None, "partition=", "got 'partition='"),
        (0, None, "time=1,--time=2", "--slurm has time twice, as 1 and as 2: choose one"),
    ],
)
def test_options_of_slurm_that_cannot_work_are_refused(
    processes: int, ray: str | None, slurm: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        workers_to_use(processes, "cpu", ray, None, slurm)


def test_options_of_slurm_are_those_of_sbatch() -> None:
    assert workers_to_use(0, "cuda", None, 4, "partition=gpu, --time=240") == Workers(
        0, None, ("cuda",), 4, {"partition": "gpu", "time": "240"}
    )


@pytest.mark.parametrize("command", ["grid", "tune"])
def test_the_commands_pass_their_options_on(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def run(study: Study, folder: Path, crew: Workers, tell: Any, *data: Any, **more: Any) -> Any:
        given.append(crew)
        return OUTCOME if command == "grid" else ({}, OUTCOME)

    monkeypatch.setattr(*((grid, "run_grid") if command == "grid" else (tune, "tune")), run)
    (tmp_path / "study.yaml").write_text("methods: [dm]")
    for options in (["--workers", "2", "--devices", "cpu,cpu", "--threads", "3"], ["--ray", "auto"]):
        arguments = [command, str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), *options]
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 0, result.output
    assert given == [Workers(2, None, ("cpu", "cpu"), 3), Workers(0, "auto", ("cpu",), None)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["grid", "study.yaml", "--devices", "nonsense"],
        ["tune", "study.yaml", "--devices", "nonsense"],
        ["distill", "--target", "street", "--device", "nonsense"],
        ["pretrain", "--data", "embedded-digits", "--target", "street", "--device", "nonsense"],
        ["evaluate", "set.safetensors", "--device", "nonsense"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_refuses_a_device_before_it_reads_or_writes(
    gpus: Callable[[int], None], arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text("data: there-is-none")
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert "there is no device 'nonsense' to compute on here" in " ".join(result.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


# --- handing out ---


class StandIn:
    """A worker that is done with a job at once, and keeps what it was given."""

    crew: list[StandIn]

    def __init__(self, root: Path, device: str, threads: int) -> None:
        self.device, self.threads = device, threads
        self.job: Job | None = None
        self.given: list[str] = []
        self.pipe, self._theirs = multiprocessing.Pipe()
        self.process = SimpleNamespace(sentinel=self._theirs)  # nothing ever comes: it does not die
        self.crew.append(self)

    def give(self, job: Job) -> None:
        self.job = job
        self.given.append(job.name)
        self._theirs.send("done")

    def listen(self, tell: ProgressCallback) -> None:
        assert self.job is not None
        tell(JobProgress(self.job.name, self.pipe.recv(), 0, 0))
        self.job = None

    def ask_to_stop(self) -> None:
        assert self.job is None

    def kill(self) -> None:
        self.pipe.close()


JOBS = plan(Study(seeds=(0, 1), ipc=(1,), distill={"network": {"width": 2}}), toy_domains()).jobs


@pytest.mark.parametrize(
    ("count", "devices", "expected"),
    [
        (4, ("cuda:0", "cuda:1"), ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        (3, ("cuda:0", "cuda:1"), ["cuda:0", "cuda:1", "cuda:0"]),
        (2, ("cpu",), ["cpu", "cpu"]),
        (99, ("cuda:0", "cuda:1", "cuda:2"), ["cuda:0", "cuda:1", "cuda:2"] * (len(JOBS) // 3)),
    ],
)
def test_devices_are_handed_out_evenly_and_every_job_runs_once(
    count: int, devices: tuple[str, ...], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_Worker", StandIn)
    monkeypatch.setattr(StandIn, "crew", [], raising=False)
    monkeypatch.setattr(workers, "available_cores", lambda: 8)
    told: list[JobProgress] = []
    workers.run_in_processes(JOBS, Path(), told.append, count, devices, None)
    assert [worker.device for worker in StandIn.crew] == expected
    assert Counter(name for worker in StandIn.crew for name in worker.given) == Counter(
        job.name for job in JOBS
    )
    loads = [len(worker.given) for worker in StandIn.crew]
    assert max(loads) - min(loads) <= 1
    assert {worker.threads for worker in StandIn.crew} == {max(1, 8 // count)}
    assert {report.stage for report in told} == {"done"}


def test_a_worker_runs_its_jobs_on_the_device_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run_job(job: Job, root: Path, tell: ProgressCallback, data: JobData) -> None:
        ran.append((job.name, job.run.device, root))
        tell(JobProgress(job.name, "distilling", 1, 2))
        tell(JobProgress(job.name, "distilling", 2, 2))  # too soon after the first to be told
        tell(JobProgress(job.name, "damaged", 0, 0))
        tell(JobProgress(job.name, "done", 0, 0))

    monkeypatch.setattr(workers, "run_job", run_job)
    monkeypatch.setattr(os, "setsid", lambda: None)  # this process keeps its session
    monkeypatch.setattr(workers, "listen_to_one_request", lambda: None)
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    ours, theirs = multiprocessing.Pipe()
    for job in JOBS[:2]:
        assert job.run.device == "cpu"
        ours.send(job)
    worker = threading.Thread(target=workers._serve, args=(theirs, tmp_path, "cuda:1", 3))
    worker.start()
    stages = [ours.recv().stage for _ in range(5)]
    ours.close()  # the parent is gone
    worker.join(60)
    assert not worker.is_alive()
    assert stages == ["distilling", "damaged", "done", "damaged", "done"]
    assert ran == [(job.name, "cuda:1", tmp_path) for job in JOBS[:2]]
    assert threads == [3]


def test_the_first_worker_too_is_spared_ctrl_c(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its start finds the resource tracker not yet at work."""
    tracker = resource_tracker.ResourceTracker()
    for name in ("ensure_running", "getfd"):
        monkeypatch.setattr(resource_tracker, name, getattr(tracker, name))
    worker = workers._Worker(tmp_path, "cpu", 1)
    try:
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
    finally:
        worker.kill()
        tracker._stop()  # type: ignore[attr-defined]
    blocked = int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)
    for number in (signal.SIGINT, signal.SIGHUP):
        assert blocked >> (number - 1) & 1, number
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_more_workers_than_there_is_memory_for_are_refused_before_the_first_starts(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgdd_fast.memory.available", lambda device: 250_000_000)
    monkeypatch.setattr(workers, "_Worker", lambda *_: pytest.fail("it starts one"))
    study = Study(data=str(data_folder), ipc=(1,), seeds=(0,), targets=("domain0",))
    with pytest.raises(ValueError, match="3 worker processes would take 450 MB of memory or more"):
        grid.run_grid(study, tmp_path, Workers(200), lambda report: None)
