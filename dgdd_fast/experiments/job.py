"""One job of a grid: distil a set, or find it, then evaluate it; each part is kept as soon as it is there."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..config import ExpertConfig, method_spec, to_dict
from ..config.run import CONFIG_NAME, SET_NAME, SHEET_NAME, read_run_config, write_run_config
from ..data import DomainDataset, load_dataset
from ..data.read_files import ReadProgress
from ..distillation import Progress, distill
from ..evaluation import Evaluation, evaluate
from ..experts import ExpertPoolError
from ..experts.pretrain import PretrainProgress, pretrain
from ..files import write_atomically
from ..json_text import read_json, write_json
from ..matching.resolve import resolve_distillation
from ..steps import listening
from ..synthetic.distilled_set import DistilledSet, DistilledSetError, NewerFormatError
from .plan import REAL_MEANS_FOLDER, Job, PoolJob
from .tensorboard import TensorBoardLog

ERROR_NAME = "error.txt"
COMPLETE_NAME = "complete"
UNFINISHED = "unfinished-"  # before the name of an evaluation

# The stages of a job: those that are reported once and must reach the user, and its loops. Others are steps
# before, between and after these (see `steps`).
EVENTS = ("damaged", "restarted", "done", "failed")
LOOPS = ("pretraining", "distilling", "training", "done so far")


class JobProgress(NamedTuple):
    """Where a job is: `done` of `total` iterations, epochs or parts of its stage. "done so far" is of all
    jobs."""

    job: str
    stage: str
    done: int
    total: int
    detail: str = ""


ProgressCallback = Callable[[JobProgress], None]


class JobData:
    """Loads the data of jobs, and keeps those loaded last: most jobs of a grid have the same."""

    def __init__(self) -> None:
        self._loaded: tuple[Any, DomainDataset] | None = None

    def load(
        self,
        source: str,
        resolution: int | None,
        domains: tuple[str, ...] | None,
        classes: tuple[str, ...] | None,
        progress: ReadProgress | None = None,
    ) -> DomainDataset:
        """As `load_dataset`."""
        wanted = (source, resolution, domains, classes)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = (wanted, load_dataset(source, resolution, domains, classes, progress=progress))
        return self._loaded[1]


class ChangedJobError(ValueError):
    """A folder whose configuration is not the one that its name stands for."""


class DamagedEvaluationError(ValueError):
    """An evaluation that cannot be read, or lacks what `run_job` writes. Says which, and what to do."""


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """An evaluation of a grid; None while it is missing.

    Its keys are those of `Evaluation.to_dict`, with the number of images of each test (images), how long it
    took (seconds), and where (device, threads).

    Raises DamagedEvaluationError for content that is not all there.
    """
    try:
        report: dict[str, Any] = read_json(path)
        if "protocol" in report:  # what older grids called the description
            report["description"] = report.pop("protocol")
        runs = [part["runs"] for part in report["accuracies"].values()]
        whole = (
            {len(values) for values in runs} == {report["config"]["runs"]} != {0}
            and all(0 <= accuracy <= 100 for values in runs for accuracy in values)
            and all(report["images"][test] > 0 for test in report["accuracies"])
            and isinstance(report["config"]["generalize"], str)
            and isinstance(report["description"], str)
            and report["seconds"] >= 0
        )
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise DamagedEvaluationError(f"{path} is damaged; run dgdd grid again, which computes it anew")
    return report


def is_complete(job: Job | PoolJob, root: Path) -> bool:
    """Whether everything that `job` makes is there, in the folder `root` of the grid."""
    folder = root / job.folder
    if isinstance(job, PoolJob):
        return (folder / COMPLETE_NAME).exists()
    return (job.whole or (folder / SET_NAME).exists()) and not _missing(job, folder)


def run_job(job: Job | PoolJob, root: Path, tell: ProgressCallback, data: JobData) -> None:
    """Compute what is missing of `job` in its folder; any error but an interruption is reported as a failure
    and, where that is possible, written to error.txt there.

    Training of experts and distillation go on from their checkpoints, evaluations with the network after the
    last that is finished.

    Args:
        root: the folder of the grid.
        data: of the process, for all of its jobs.
    """
    folder = root / job.folder
    try:
        with listening(lambda step, done, total: tell(JobProgress(job.name, step, done, total))):
            if isinstance(job, PoolJob):
                _train_experts(job, folder, tell, data)
            else:
                _distil_and_evaluate(job, root, tell, data)
    except Exception as error:
        with contextlib.suppress(OSError):  # on a full disk this cannot be written either
            write_atomically(folder / ERROR_NAME, traceback.format_exc().encode())
        tell(JobProgress(job.name, "failed", 0, 0, f"{type(error).__name__}: {error}"))
    else:
        (folder / ERROR_NAME).unlink(missing_ok=True)
        tell(JobProgress(job.name, "done", 0, 0))


def _train_experts(job: PoolJob, folder: Path, tell: ProgressCallback, data: JobData) -> None:
    config = job.config
    dataset = data.load(job.run.data, job.run.resolution, job.domains, job.run.classes)

    def progress(state: PretrainProgress) -> None:
        epochs = state.epochs * state.expert + state.epoch
        tell(JobProgress(job.name, "pretraining", epochs, state.epochs * state.experts))
        if board is not None:
            board.add_epoch(state)

    sources = dataset.only_domains(job.sources).train()
    board = TensorBoardLog(folder) if job.tensorboard else None
    with board or contextlib.nullcontext():
        pretrain(sources, config, folder, resume=True, device=job.run.device, progress=progress)
    write_atomically(folder / COMPLETE_NAME, b"")


def _missing(job: Job, folder: Path) -> list[str]:
    """The evaluations of `job` that its folder does not hold, or holds damaged."""
    missing = []
    for name in job.evaluations:
        try:
            if read_evaluation(folder / name) is None:
                missing.append(name)
        except DamagedEvaluationError:
            missing.append(name)
    return missing


def _distil_and_evaluate(job: Job, root: Path, tell: ProgressCallback, data: JobData) -> None:
    folder = root / job.folder
    if job.pool is not None:
        experts = dataclasses.replace(job.run.distill.experts or ExpertConfig(), pool=str(root / job.pool))
        distill_config = dataclasses.replace(job.run.distill, experts=experts)
        job = dataclasses.replace(job, run=dataclasses.replace(job.run, distill=distill_config))
    dataset = data.load(job.run.data, job.run.resolution, job.domains, job.run.classes)
    sources = dataset.only_domains(job.sources)
    _keep_config(job, folder, sources)
    try:
        images = sources.train() if job.whole else _distilled(job, root, sources.train(), tell)
    except ExpertPoolError as error:
        if job.pool is None or not (root / job.pool / COMPLETE_NAME).exists():
            raise  # the study names them, or they could not be trained
        raise ExpertPoolError(
            f"{error}. These experts are the grid's own: delete {root / job.pool}, and the same command "
            "trains them anew"
        ) from error
    tests = _tests(dataset, job.sources, job.validation)
    for name in _missing(job, folder):
        if (folder / name).exists():
            tell(JobProgress(job.name, "damaged", 0, 0, f"{name}, computed again"))
        _evaluate(images, tests, job, name, folder, tell)


def _evaluate(
    images: DistilledSet | DomainDataset,
    tests: dict[str, DomainDataset],
    job: Job,
    name: str,
    folder: Path,
    tell: ProgressCallback,
) -> None:
    """Write the evaluation `name` of `job`; until then a file beside it holds the networks so far."""
    config, unfinished = job.evaluations[name], folder / f"{UNFINISHED}{name}"
    began = time.perf_counter()

    def report(result: Evaluation) -> dict[str, Any]:
        return {
            **result.to_dict(),
            "images": {test: len(part) for test, part in tests.items()},
            "seconds": earlier + time.perf_counter() - began,
            "device": job.run.device,
            "threads": torch.get_num_threads(),
        }

    def keep(result: Evaluation) -> None:
        if result.runs < config.runs:
            write_json(unfinished, report(result))

    done, earlier = None, 0.0
    if unfinished.exists():
        try:
            content = read_json(unfinished)
            done, earlier = Evaluation.from_dict(content), float(content["seconds"])
        except (AttributeError, KeyError, TypeError, ValueError):
            tell(JobProgress(job.name, "damaged", 0, 0, f"{unfinished.name}, begun again"))
    result = evaluate(
        images,
        tests,
        config,
        device=job.run.device,
        progress=functools.partial(_tell_epochs, tell, job.name, config.runs * config.epochs),
        done=done,
        keep=keep,
    )
    write_json(folder / name, report(result))
    unfinished.unlink(missing_ok=True)


def _tell_epochs(tell: ProgressCallback, name: str, total: int, done: int) -> None:
    tell(JobProgress(name, "training", done, total))


def _tests(dataset: DomainDataset, sources: tuple[str, ...], validation: bool) -> dict[str, DomainDataset]:
    """What to test on by domain: the test part of a source, all of another domain; none without images. For
    `validation` the training part of another domain, as test images must not decide anything."""
    parts = {name: dataset.only_domains([name]) for name in dataset.domain_names}
    if validation:
        return {name: part.train() for name, part in parts.items() if name not in sources}
    tests = {name: part.test() if name in sources else part for name, part in parts.items()}
    return {name: part for name, part in tests.items() if len(part) > 0}


def _keep_config(job: Job, folder: Path, sources: DomainDataset) -> None:
    """Write config.yaml, or make sure that the one that is there describes the same images."""
    path = folder / CONFIG_NAME
    if path.exists():
        kept = read_run_config(path).distill
        if job.pool is None and not job.whole:  # the plan resolved these settings, too
            kept = resolve_distillation(kept, sources)
        there, wanted = to_dict(kept), to_dict(job.run.distill)
        if there["experts"] and wanted["experts"]:
            there["experts"]["pool"] = wanted["experts"]["pool"]  # the grid may have moved
        for name, value in wanted.items():
            if name != "checkpoint_every" and there[name] != value:
                raise ChangedJobError(
                    f"{path} was changed: {name} is {there[name]!r}, but this folder is for {value!r}; "
                    "change the study instead, or delete the folder"
                )
    write_run_config(path, job.run)


def _distilled(job: Job, root: Path, sources: DomainDataset, tell: ProgressCallback) -> DistilledSet:
    folder = root / job.folder
    path = folder / SET_NAME
    if path.exists():
        try:
            return DistilledSet.load(path)
        except NewerFormatError:
            raise
        except DistilledSetError:  # its settings are there, and most often the last checkpoint
            tell(JobProgress(job.name, "damaged", 0, 0, f"{SET_NAME}, distilled again"))
    config = job.run.distill

    def progress(state: Progress) -> None:
        detail = f"loss {state.loss:.4g}"
        tell(JobProgress(job.name, "distilling", state.iteration, state.iterations, detail))
        if board is not None:
            board.add(state)

    before: list[DistilledSet] = []
    board = TensorBoardLog(folder) if job.tensorboard else None
    with board or contextlib.nullcontext():
        distilled = distill(
            sources,
            config,
            run_folder=None if method_spec(config).family == "coreset" else folder,
            resume=True,
            device=job.run.device,
            target=None if job.run.target == "none" else job.run.target,
            real_means=root / REAL_MEANS_FOLDER if job.shares else None,
            started=before.append,
            progress=progress,
        )
    distilled.contact_sheet(folder / SHEET_NAME, *before)
    for other in folder.glob(f"{UNFINISHED}*"):  # of a set that was damaged since
        other.unlink()
    distilled.save(path)  # last: it says that the distillation is complete
    return distilled
