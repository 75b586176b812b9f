"""Running jobs: here, in worker processes of this machine, on a Ray cluster, or through Slurm."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from ..extras import extra
from ..interruption import Interrupted, held_back, listen_to_one_request
from ..memory import check_fits
from ..parallel import available_cores
from ..plugins import load_plugins, loaded_plugins
from .job import EVENTS, JobData, JobProgress, ProgressCallback, run_job
from .plan import Job, PoolJob

AnyJob = Job | PoolJob

# A worker that dies (out of memory, killed) may be at fault with its job: then others must go on.
ATTEMPTS = 3
SECONDS_BETWEEN_REPORTS = 1.0
SECONDS_TO_STOP = 60.0
BYTES_OF_A_WORKER = 150_000_000  # of its own, with Python and torch loaded and no job yet


def check_workers(count: int) -> None:
    """Raises ValueError for more worker processes than there is memory for, before the first one starts."""
    check_fits(f"{count} worker processes", count * BYTES_OF_A_WORKER)


def run_here(jobs: Sequence[AnyJob], root: Path, tell: ProgressCallback, data: JobData) -> None:
    """The jobs one after another in this process. Ctrl-C leaves a checkpoint and ends all."""
    for job in jobs:
        run_job(job, root, tell, data)


def run_in_processes(
    jobs: Sequence[AnyJob],
    root: Path,
    tell: ProgressCallback,
    workers: int,
    devices: Sequence[str],
    threads: int | None,
) -> None:
    """The jobs in `workers` processes of this machine, the devices handed out in turn.

    A worker that dies is replaced and its job runs again from its checkpoint, `ATTEMPTS` times in all.
    A signal (see `dgdd_fast.interruption`) lets every worker write its checkpoint, then ends; a second one
    ends all at once.

    Args:
        threads: CPU threads for each worker; None shares the machine's evenly.
    """
    threads = threads or max(1, available_cores() // workers)
    waiting = deque(jobs)
    attempts: Counter[str] = Counter()
    team: list[_Worker] = []
    try:
        for number in range(min(workers, len(jobs))):
            team.append(_Worker(root, devices[number % len(devices)], threads))
        while waiting or any(worker.job for worker in team):
            for worker in team:
                if worker.job is None and waiting:
                    attempts[waiting[0].name] += 1
                    worker.give(waiting.popleft())
            busy = [worker for worker in team if worker.job is not None]
            ready = wait([handle for worker in busy for handle in (worker.pipe, worker.process.sentinel)])
            for worker in busy:
                if worker.pipe in ready or worker.process.sentinel in ready:
                    lost = worker.listen(tell)
                    if lost is None:
                        continue
                    team[team.index(worker)] = _Worker(root, worker.device, threads)
                    if attempts[lost.name] < ATTEMPTS:
                        waiting.append(lost)
                        tell(JobProgress(lost.name, "restarted", 0, 0, "its worker died"))
                    else:
                        detail = f"its worker died {ATTEMPTS} times: is there enough memory?"
                        tell(JobProgress(lost.name, "failed", 0, 0, detail))
    finally:
        _stop(team)


def _stop(team: Sequence[_Worker]) -> None:
    """End the workers: those at work are left the time to write their checkpoints, all at the same time."""
    try:
        for worker in team:
            worker.ask_to_stop()
        deadline = time.monotonic() + SECONDS_TO_STOP
        for worker in team:
            if worker.job is not None:
                worker.process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in team:
            worker.kill()


class _Worker:
    """A process that runs the jobs it is given, and the job at hand."""

    def __init__(self, root: Path, device: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.device = device
        self.job: AnyJob | None = None
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, root, device, threads), daemon=True
        )
        resource_tracker.ensure_running()  # else `start` starts it, which lets the signals through again
        with held_back():  # for ever in the process that starts here: its parent hears them and tells it
            self.process.start()
        theirs.close()

    def give(self, job: AnyJob) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # it died idle; `listen` finds out
            self.pipe.send(job)

    def listen(self, tell: ProgressCallback) -> AnyJob | None:
        """Pass on what the worker reports. Returns its job if the worker died over it."""
        with contextlib.suppress(EOFError, OSError):
            while self.job is not None and self.pipe.poll():
                report = self.pipe.recv()
                if report.stage in ("done", "failed"):
                    self.job = None
                tell(report)
        if self.job is None or self.process.is_alive():
            return None
        self.pipe.close()
        return self.job

    def ask_to_stop(self) -> None:
        """Have the process end after its step, if it is at work."""
        if self.job is not None and self.process.is_alive():
            self.process.terminate()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, root: Path, device: str, threads: int) -> None:
    """The loop of a worker process: jobs in, reports out, until the parent ends it.

    Ctrl-C and a closed terminal are for the parent, which then asks for a checkpoint by SIGTERM; a scheduler
    that sends one to every process asks for no more than that, and so does the parent's death.
    """
    os.setsid()
    listen_to_one_request()
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    load_plugins(loaded_plugins())
    torch.set_num_threads(threads)
    told, data = 0.0, JobData()

    def tell(report: JobProgress) -> None:
        nonlocal told
        now = time.monotonic()
        if report.stage in EVENTS or now - told >= SECONDS_BETWEEN_REPORTS:
            told = now
            with contextlib.suppress(OSError):  # the parent is gone
                pipe.send(report)

    while True:
        try:
            job: AnyJob = pipe.recv()
        except EOFError:
            return
        try:
            run_job(_on_device(job, device), root, tell, data)
        except Interrupted:
            return


def _stop_without_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def run_on_ray(
    jobs: Sequence[AnyJob],
    root: Path,
    tell: ProgressCallback,
    address: str | None,
    device: str,
    threads: int | None,
) -> None:
    """The jobs as tasks of a Ray cluster whose machines see `root` and the data under the same paths.

    A task has one GPU where `device` is cuda, and `threads` CPUs. Ray runs a task again if its worker dies,
    `ATTEMPTS` times in all. Ctrl-C lets every running task write its checkpoint, then ends.

    Args:
        address: of the cluster; None starts Ray on this machine, or takes the session that is there.

    Raises MissingExtraError where Ray is not installed, and ValueError where the cluster has no GPU and
    `device` asks for one.
    """
    with extra("ray", "a Ray cluster"):
        import ray
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False)
    threads = threads or 1
    on_gpu = device.startswith("cuda")
    task = ray.remote(
        num_cpus=threads,
        num_gpus=1 if on_gpu else 0,
        max_retries=ATTEMPTS - 1,
        max_calls=1 if on_gpu else 0,  # a GPU's memory is free again after each task
    )(_run_ray_task)
    pending = {}
    try:
        there = ray.cluster_resources()
        if on_gpu and there.get("GPU", 0) < 1:  # its tasks would wait for ever
            raise ValueError("the Ray cluster has no GPU: start a machine of it with one, or give cpu")
        pending = {
            task.remote(_on_device(job, device), str(root), threads, loaded_plugins()): job for job in jobs
        }
        while pending:
            (finished,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(finished)
            try:
                for report in ray.get(finished):
                    tell(report)
            except ray.exceptions.RayError as error:
                tell(JobProgress(job.name, "failed", 0, 0, str(error)))
    finally:
        for reference in pending:
            ray.cancel(reference)
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=SECONDS_TO_STOP)
        if started:
            ray.shutdown()


def _run_ray_task(job: AnyJob, root: str, threads: int, plugins: list[str]) -> list[JobProgress]:
    """What happened to the job; the machine sees the `plugins` under the same paths."""
    load_plugins(plugins)
    torch.set_num_threads(threads)
    reports: list[JobProgress] = []

    def tell(report: JobProgress) -> None:
        if report.stage in EVENTS:
            reports.append(report)

    run_job(job, Path(root), tell, JobData())
    return reports


LOCAL = {"local": ""}  # in place of sbatch's options: submitit's processes of this machine, to try it out
SLURM_FOLDER = "slurm"  # of a grid: submitit's scripts, and what the jobs wrote on their screens
_MINUTES = 240  # of a Slurm job unless its options say otherwise; one that takes longer is queued again
_OFTEN = 1000


def run_on_slurm(
    jobs: Sequence[AnyJob],
    root: Path,
    tell: ProgressCallback,
    options: Mapping[str, str],
    device: str,
    threads: int | None,
) -> None:
    """The jobs as jobs of Slurm, on machines that see `root`, the data and this installation under the same
    paths.

    A job has one GPU where `device` is cuda, and `threads` CPUs. One that Slurm stops, at its time limit or
    for another job, is queued again and goes on from its checkpoint; one that dies runs `ATTEMPTS` times in
    all. Ctrl-C cancels those at work, which write their checkpoints.

    Args:
        options: of sbatch, by name; or `LOCAL`.

    Raises MissingExtraError where submitit is not installed, and ValueError where Slurm is not.
    """
    with extra("slurm", "Slurm"):
        import submitit
    here = options == LOCAL
    try:
        executor = submitit.AutoExecutor(root / SLURM_FOLDER, cluster="local" if here else "slurm")
    except RuntimeError as error:
        raise ValueError(f"Slurm is not to be found here ({error}): run this where sbatch is") from error
    threads = threads or 1
    gpus = int(device.startswith("cuda"))
    executor.update_parameters(name="dgdd", timeout_min=_MINUTES, cpus_per_task=threads, gpus_per_node=gpus)
    if not here:
        executor.update_parameters(slurm_max_num_timeout=_OFTEN, slurm_additional_parameters=dict(options))
    # Slurm has its queue; the processes of this machine would all begin at once.
    most = max(1, available_cores() // threads) if here else len(jobs)
    waiting, attempts = deque(jobs), Counter[str]()
    running: list[tuple[Any, AnyJob]] = []
    try:
        while waiting or running:
            while waiting and len(running) < most:
                job = waiting.popleft()
                attempts[job.name] += 1
                given = (_on_device(job, device), str(root), threads, loaded_plugins())
                running.append((executor.submit(_SlurmTask(), *given), job))
            time.sleep(SECONDS_BETWEEN_REPORTS)
            for submitted, job in [each for each in running if each[0].done()]:
                running.remove((submitted, job))
                try:
                    for report in submitted.result():
                        tell(report)
                except Exception as error:  # submitit raises what the job did, and errors of its own
                    if attempts[job.name] < ATTEMPTS:
                        waiting.append(job)
                        tell(JobProgress(job.name, "restarted", 0, 0, "its Slurm job died"))
                        continue
                    said = str(error).strip().splitlines() or [type(error).__name__]
                    detail = f"its Slurm job died {ATTEMPTS} times ({said[0]}), see {submitted.paths.stderr}"
                    tell(JobProgress(job.name, "failed", 0, 0, detail))
    finally:
        for submitted, _ in running:
            submitted.cancel(check=False)
        deadline = time.monotonic() + SECONDS_TO_STOP
        while any(not submitted.done() for submitted, _ in running) and time.monotonic() < deadline:
            time.sleep(0.1)


class _SlurmTask:
    """A job as submitit calls it, and as it is to be called again after Slurm has stopped it."""

    def __call__(self, *given: Any) -> list[JobProgress]:
        listen_to_one_request()
        return _run_ray_task(*given)

    def checkpoint(self, *given: Any) -> Any:
        with extra("slurm", "Slurm"):
            from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *given)


def _on_device(job: AnyJob, device: str) -> AnyJob:
    return dataclasses.replace(job, run=dataclasses.replace(job.run, device=device))
