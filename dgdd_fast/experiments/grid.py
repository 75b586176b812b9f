"""A study carried out in a folder: only what is missing is computed."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..config import from_dict, to_dict
from ..config.bounds import Size
from ..config.run import CONFIG_NAME
from ..data import DataError, DomainDataset
from ..data.load import LOADERS
from ..data.read_files import ReadProgress
from ..json_text import read_json, write_json
from ..messages import shown
from .job import JobData, JobProgress, ProgressCallback, is_complete, read_evaluation
from .plan import JOBS_FOLDER, REAL_MEANS_FOLDER, Job, Plan, PoolJob, TableEntry, plan
from .published import published_table
from .study import Study, study_from_dict, write_study
from .tuned_settings import TUNING_NAME, read_tuned_settings
from .workers import check_workers, run_here, run_in_processes, run_on_ray, run_on_slurm

INDEX_NAME = "grid"


class Workers(NamedTuple):
    """Where the jobs of a grid run.

    Attributes:
        processes: processes of this machine; 0: this process.
        ray: the address of a Ray cluster, "local" for a Ray of its own, None without Ray.
        devices: handed out to the processes in turn.
        threads: CPU threads for each; None shares them evenly.
        slurm: sbatch's options by name, `workers.LOCAL` to try it out here, None without Slurm.
    """

    processes: int = 0
    ray: str | None = None
    devices: tuple[str, ...] = ("cpu",)
    threads: int | None = None
    slurm: Mapping[str, str] | None = None


class GridOutcome(NamedTuple):
    """How a grid ended.

    Attributes:
        jobs: sets of the study, and pools of experts that they need.
        computed: the names of those that something was computed for.
        failures: what went wrong with those that failed, by name.
    """

    jobs: int
    computed: list[str]
    failures: dict[str, str]


def load_data(
    study: Study, data: JobData | None = None, progress: ReadProgress | None = None
) -> DomainDataset:
    """The data of a study; `data` keeps them for the jobs that run in this process, `progress` is called
    with the number of files decoded.

    Raises DataError where the study shows figures of a paper that are of more or fewer classes.
    """
    data = data or JobData()
    dataset = data.load(_absolute(study.data), study.resolution, study.domains, study.classes, progress)
    for name in study.published:
        benchmark = published_table(name).benchmark
        if dataset.num_classes != benchmark.num_classes:
            raise DataError(
                f"the figures of {name} are of the {benchmark.num_classes} classes of {benchmark.name}, but "
                f"{study.data} gives {dataset.num_classes}: name those to use (--classes NAME,... or "
                "classes in the study), or write a study without published to leave the figures away"
            )
    return dataset


def run_grid(
    study: Study,
    folder: Path,
    workers: Workers,
    tell: ProgressCallback,
    name: str = INDEX_NAME,
    data: JobData | None = None,
    tensorboard: bool = False,
) -> GridOutcome:
    """Carry out a study in `folder`: NAME.yaml (the study), NAME.json (its index), jobs/ and experts/.

    Rerunning computes what is missing or damaged, whether it was interrupted, failed or is new in the study:
    the folder of a job is named by a hash of its settings and data. So a changed study shares what did not
    change, finds its jobs again when it is changed back, and no number can come from settings other than its
    own.
    Damaged experts fail their jobs: they are trained anew once their folder is deleted.

    Args:
        data: keeps the data from one grid to the next, where several are carried out.
        tensorboard: whether jobs log how they go in their folders, where TensorBoard is installed.

    Raises ValueError for settings that cannot work, data that cannot be read, or a folder in use by another
    grid. Jobs that fail do not stop the others; see `GridOutcome.failures`.
    """
    tuned = None if study.tuned is None else str(Path(os.path.expanduser(study.tuned)).resolve())
    study = dataclasses.replace(study, data=_absolute(study.data), tuned=tuned)
    data = data or JobData()
    dataset = load_data(study, data)
    tuned_settings = read_tuned_settings(Path(study.tuned)) if study.tuned else None
    grid = plan(study, dataset, tuned_settings, workers.devices[0], workers.threads)
    root = folder.resolve()
    failures: dict[str, str] = {}
    computed: list[str] = []

    def record(report: JobProgress) -> None:
        if report.stage == "failed":
            failures[report.job] = report.detail
        elif report.stage == "done":
            computed.append(report.job)
        tell(report)
        if report.stage in ("done", "failed"):
            count()

    def count() -> None:
        tell(JobProgress("all jobs", "done so far", len(computed) + len(failures), len(missing)))

    with _locked(folder):
        _move_older_jobs(root)
        write_study(folder / f"{name}.yaml", study)
        write_json(folder / f"{name}.json", _index_content(study, grid, dataset))
        every: list[Job | PoolJob] = [*grid.pools, *grid.jobs]
        missing = [
            dataclasses.replace(job, tensorboard=tensorboard) for job in every if not is_complete(job, root)
        ]
        check_workers(min(workers.processes, len(missing)))
        if missing:
            count()
        # The experts first: jobs need them.
        _run([job for job in missing if isinstance(job, PoolJob)], root, workers, record, data)
        _run([job for job in missing if not isinstance(job, PoolJob)], root, workers, record, data)
        if not failures:
            shutil.rmtree(root / REAL_MEANS_FOLDER, ignore_errors=True)
    return GridOutcome(len(grid.pools) + len(grid.jobs), computed, failures)


def _run(
    jobs: Sequence[Job | PoolJob], root: Path, workers: Workers, tell: ProgressCallback, data: JobData
) -> None:
    if not jobs:
        return
    if workers.ray is not None:
        address = None if workers.ray == "local" else workers.ray
        run_on_ray(jobs, root, tell, address, workers.devices[0], workers.threads)
    elif workers.slurm is not None:
        run_on_slurm(jobs, root, tell, workers.slurm, workers.devices[0], workers.threads)
    elif workers.processes:
        run_in_processes(jobs, root, tell, workers.processes, workers.devices, workers.threads)
    else:
        run_here(jobs, root, tell, data)


@dataclass(frozen=True, kw_only=True)
class _RowFacts:
    key: str
    label: str
    entry: str
    sweep: tuple[Any, ...] | None


@dataclass(frozen=True, kw_only=True)
class _DataFacts:
    name: str
    resolution: tuple[Size, ...]
    classes: tuple[str, ...]
    domains: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What an index says beside the study and the entries, as in `GridIndex`."""

    data: _DataFacts
    rows: tuple[_RowFacts, ...]
    columns: tuple[str, ...]
    evaluations: tuple[str, ...]


class GridIndex(NamedTuple):
    """What the folder of a grid holds, without its data.

    Attributes:
        data: name, class names and domain names of the data.
        rows: key, label, entry and sweep of every row.
        evaluations: the names of the evaluation settings.
    """

    folder: Path
    study: Study
    data: dict[str, Any]
    rows: list[dict[str, Any]]
    columns: list[str]
    evaluations: list[str]
    entries: list[TableEntry]

    def evaluation(self, file: str) -> dict[str, Any] | None:
        """The content of an evaluation that an entry names, as `read_evaluation` gives it; None while it is
        missing."""
        return read_evaluation(self.folder / file)


def planned_index(folder: Path, study: Study) -> GridIndex:
    """The index of a study whose jobs lie in `folder`, some or all of them: also where the folder's own index
    is of other targets or seeds. Raises ValueError for settings that cannot work or data that cannot be read.
    """
    dataset = load_data(study)
    tuned = read_tuned_settings(Path(study.tuned)) if study.tuned else None
    content = _index_content(study, plan(study, dataset, tuned), dataset)
    return _index_of(folder, json.loads(json.dumps(content)))


def read_index(folder: Path, name: str = INDEX_NAME) -> GridIndex:
    """The index that `run_grid` wrote. Raises ValueError where there is none."""
    path = folder / f"{name}.json"
    if not path.exists():
        raise ValueError(f"{folder} is not the folder of a grid: no {path.name}; {_instead(folder)}")
    try:
        return _index_of(folder, read_json(path))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); write it again with dgdd grid") from error


def _instead(folder: Path) -> str:
    """What to do with a folder that no grid wrote."""
    if (folder / TUNING_NAME).exists():
        return (
            f"dgdd tune wrote this: what it chose is in {TUNING_NAME}, for dgdd grid STUDY --tuned {folder}"
        )
    if (folder / CONFIG_NAME).exists():
        return f"it is that of a run, which dgdd report {folder} shows"
    return "make one with dgdd grid"


def _index_of(folder: Path, content: dict[str, Any]) -> GridIndex:
    study = study_from_dict(content["study"])
    entries = [
        from_dict(TableEntry, entry, "an entry")
        for entry in (_older_entries(content["cells"], folder) if "cells" in content else content["entries"])
    ]
    facts = from_dict(_Facts, {item.name: content[item.name] for item in dataclasses.fields(_Facts)})
    if len(facts.data.resolution) != 2:
        raise ValueError(f"data.resolution must be 2 numbers, got {shown(facts.data.resolution)}")
    return GridIndex(folder, study, **to_dict(facts), entries=entries)


def _index_content(study: Study, grid: Plan, dataset: DomainDataset) -> dict[str, Any]:
    return {
        "study": to_dict(study),
        "data": {
            "name": dataset.name,
            "resolution": list(dataset.resolution),
            "classes": list(dataset.class_names),
            "domains": list(dataset.domain_names),
        },
        "rows": [
            {"key": row.key, "label": row.label, "entry": row.entry, "sweep": row.sweep} for row in grid.rows
        ],
        "columns": grid.columns,
        "evaluations": list(study.evaluations) or [""],
        "entries": [dataclasses.asdict(entry) for entry in grid.entries],
    }


# Grids once kept their jobs in cells/, and called the entries of the table cells, too.
OLDER_FOLDER = "cells"


def _move_older_jobs(root: Path) -> None:
    older = root / OLDER_FOLDER
    if not older.is_dir():
        return
    (root / JOBS_FOLDER).mkdir(exist_ok=True)
    for job in older.iterdir():
        if not (root / JOBS_FOLDER / job.name).exists():
            job.rename(root / JOBS_FOLDER / job.name)
    with suppress(OSError):  # something else may lie there
        older.rmdir()


def _older_entries(cells: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The entries of an index of an older grid, whose jobs another index of the folder may have moved."""

    def place(path: str | None) -> str | None:
        if path is None or (folder / path).exists():
            return path
        return path.replace(OLDER_FOLDER, JOBS_FOLDER, 1)

    return [
        {**cell, **{key: place(cell[key]) for key in ("file", "reference", "set_folder")}} for cell in cells
    ]


def _absolute(source: str) -> str:
    """The source of data as every worker finds it, whatever its working folder."""
    path = Path(os.path.expanduser(source))
    return source if source.partition(":")[0] in LOADERS or not path.exists() else str(path.resolve())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps a second grid out of `folder`; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another dgdd grid is at work in {folder}; wait for it or stop it") from error
        yield
