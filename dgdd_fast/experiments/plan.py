"""From a study to its jobs: what is distilled and evaluated, and in which folder it lies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..config import (
    RANDOM,
    DistillConfig,
    EvaluateConfig,
    ExpertConfig,
    NetworkConfig,
    PretrainConfig,
    method_name,
    to_dict,
)
from ..config.run import NO_TARGET, RunConfig
from ..data import DomainDataset
from ..data.benchmarks import domain_key
from ..experts.pretrain import resolve_pretraining
from ..matching.expert_settings import check_stages
from ..matching.resolve import resolve_distillation
from ..seeds import derive_seed
from ..training import resolve_training
from .revisions import hashed_distillation, hashed_evaluation, hashed_pretraining
from .study import WHOLE, Row, Study, rows_of
from .tuned_settings import TunedSettings, apply_tuned, check_tuned_settings

# The folders of jobs and of pools of experts, in that of the grid.
JOBS_FOLDER = "jobs"
REAL_MEANS_FOLDER = "real_means"  # while a grid that shares them is not complete
POOLS_FOLDER = "experts"
MOST_BYTES_OF_SOURCES = 180  # in the name of a folder
# What Random at the same budget is distilled with: real images, evenly from the domains.
REAL_IMAGES = DistillConfig(objective="random")


class Part(NamedTuple):
    """A column of the table: what is distilled for it and what it is tested on. `target` is the domain held
    out, if there is one."""

    column: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]
    target: str | None


@dataclass(frozen=True)
class PoolJob:
    """A pool of experts, which all distillations from the same sources share.

    Attributes:
        name: of its folder, ending in a hash of all that decides the experts.
        run, domains, sources: as in `Job`.
        config: how they are trained.
        tensorboard: whether how it goes is logged for TensorBoard, too.
    """

    name: str
    run: RunConfig
    domains: tuple[str, ...] | None
    sources: tuple[str, ...]
    config: PretrainConfig
    tensorboard: bool = False

    @property
    def folder(self) -> str:
        """Relative to the folder of the grid."""
        return f"{POOLS_FOLDER}/{self.name}"


@dataclass(frozen=True)
class Job:
    """One distilled set and all evaluations of it that the study asks for.

    Attributes:
        name: of its folder. It ends in a hash of all that decides the images, so that a job with other
            settings or data never finds this one's files.
        run: what `dgdd distill --config` takes; its `distill` is not used where `whole`.
        domains: the domains of the data that the study uses; None: all.
        sources: those of them to learn from.
        whole: train on all real images of the sources instead of distilling.
        pool: the folder of the experts to match in, if the method needs some.
        validation: test on the training images of the domains that are no sources, and on nothing else.
        evaluations: by file name, whose hash is that of the settings and the data tested on.
        shares: whether it computes the means of its real images once for all jobs that have the same.
        tensorboard: as in `PoolJob`.
    """

    name: str
    run: RunConfig
    domains: tuple[str, ...] | None
    sources: tuple[str, ...]
    whole: bool
    pool: str | None
    validation: bool
    evaluations: dict[str, EvaluateConfig]
    shares: bool = False
    tensorboard: bool = False

    @property
    def folder(self) -> str:
        """Relative to the folder of the grid."""
        return f"{JOBS_FOLDER}/{self.name}"


@dataclass(frozen=True)
class TableEntry:
    """One number of the table at one seed.

    Attributes:
        row: the key of the row.
        evaluation: the name of the evaluation settings, "" where the study has one only.
        tests: the domains whose test images it counts.
        pooled: whether the images of `tests` count alike; else the domains do.
        file: the evaluation it is read from, relative to the folder of the grid.
        reference: that of Random at the same budget under the same evaluation; its own where nothing is
            distilled.
        set_folder: the distilled set's, or None where nothing is distilled.
    """

    row: str
    evaluation: str
    ipc: int
    column: str
    seed: int
    tests: tuple[str, ...]
    pooled: bool
    file: str
    reference: str
    set_folder: str | None


class Plan(NamedTuple):
    """The table entries of a study, and its pools and jobs, each once, in the order in which to run them."""

    rows: list[Row]
    columns: list[str]
    entries: list[TableEntry]
    pools: list[PoolJob]
    jobs: list[Job]


def parts_of(study: Study, domains: tuple[str, ...]) -> list[Part]:
    """The columns of the study on data with these domains, in the order of its targets, if it names them.

    Raises ValueError for a target not among the domains.
    """
    called = {domain_key(name): name for name in domains}
    targets: dict[str, None] = {}  # in their order, each once
    for name in study.targets or domains:
        found = name if name in domains else called.get(domain_key(name))
        if found is None:
            raise ValueError(
                f"targets: no domain {name!r} in the data; it has {', '.join(domains)}: name targets of these"
            )
        targets[found] = None
    if NO_TARGET in targets:
        raise ValueError(
            f"targets: the domain {NO_TARGET!r} cannot be held out, as its name stands for holding none out: "
            "rename it, or name other targets"
        )
    if study.protocol == "in-domain":
        if study.targets is not None:
            raise ValueError("targets: the in-domain protocol holds no domain out; leave them away")
        return [Part("all domains", domains, domains, None)]
    if len(domains) < 2:
        raise ValueError(f"the protocol {study.protocol} needs two domains or more, not {domains[0]!r} alone")
    parts = []
    for name in targets:
        others = tuple(domain for domain in domains if domain != name)
        if study.protocol == "single-source":
            parts.append(Part(name, (name,), others, None))
        elif study.protocol == "in-distribution":
            parts.append(Part(name, others, others, name))
        else:
            parts.append(Part(name, others, (name,), name))
    return parts


def plan(
    study: Study,
    dataset: DomainDataset,
    tuned: TunedSettings | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Plan:
    """All that a study asks for on `dataset`, which was loaded as it says.

    For one seed and the same sources all methods share the seeds of their draws, so that they start from the
    same images and differ in the method alone; other sources have other seeds.

    Args:
        tuned: the settings that were chosen for its rows.

    Raises ValueError for settings that cannot work with these data.
    """
    rows, parts = rows_of(study), parts_of(study, dataset.domain_names)
    _check_tested(study, dataset, parts)
    planner = _Planner(study, dataset, device, threads)
    if tuned is not None:
        for part in parts:
            check_tuned_settings(
                tuned, study.protocol, dataset.resolution, part.column, planner.data_of(part)
            )
    entries = []
    for seed in study.seeds:
        for ipc in study.ipc:
            for part in parts:
                for row in (apply_tuned(row, tuned, part.column, ipc) for row in rows):
                    for evaluation, config in row.evaluations.items():
                        reference = None
                        if row.distill is not None:
                            reference = planner.place(part, seed, ipc, REAL_IMAGES, None, config)[1]
                        folder, file = planner.place(part, seed, ipc, _images(row), row.pretrain, config)
                        entries.append(
                            TableEntry(
                                row.key,
                                evaluation,
                                ipc,
                                part.column,
                                seed,
                                part.tests,
                                study.protocol != "single-source",
                                file,
                                reference or file,
                                None if row.distill is None else folder,
                            )
                        )
    columns = [part.column for part in parts]
    return Plan(rows, columns, entries, list(planner.pools.values()), list(planner.jobs.values()))


def _check_tested(study: Study, dataset: DomainDataset, parts: list[Part]) -> None:
    """Raise ValueError for domains without the images that the protocol tests on."""
    wanted = "training images" if study.protocol == "validation" else "test images"
    rows = ~dataset.is_test if study.protocol == "validation" else dataset.is_test
    there = set(dataset.domains[rows].tolist())
    tested = {
        name
        for part in parts
        for name in part.tests
        if study.protocol == "validation" or name in part.sources
    }
    without = [
        name for number, name in enumerate(dataset.domain_names) if name in tested and number not in there
    ]
    if without:
        raise ValueError(
            f"the protocol {study.protocol} tests on {wanted} of {', '.join(without)}, and there are none; "
            "give them a test part, leave them out with domains, or take another protocol"
        )


class _Planner:
    """Gives every distilled set, evaluation and pool of experts its place, once."""

    def __init__(self, study: Study, dataset: DomainDataset, device: str, threads: int | None) -> None:
        self.study = study
        self.dataset = dataset
        self.device, self.threads = device, threads
        # Settings are resolved by the data's names and size: an image a domain is enough.
        first = {domain: row for row, domain in reversed(list(enumerate(dataset.domains.tolist())))}
        self.sample = dataset.select(list(first.values()))
        self.prints = {name: dataset.only_domains([name]).fingerprint() for name in dataset.domain_names}
        self.jobs: dict[str, Job] = {}
        self.pools: dict[str, PoolJob] = {}

    def place(
        self,
        part: Part,
        seed: int,
        ipc: int,
        distill: DistillConfig | None,
        pretrain: PretrainConfig | None,
        config: EvaluateConfig,
    ) -> tuple[str, str]:
        """The folder of a distilled set and the file of an evaluation of it, relative to the grid's."""
        own_seed = derive_seed(seed, "experiments", *part.sources)
        sources = self.sample.only_domains(part.sources)
        pool = None if pretrain is None else self._pool(part, seed, pretrain, sources)
        what, content, resolved = WHOLE, None, None
        if distill is not None:
            distill = dataclasses.replace(distill, ipc=ipc, seed=own_seed)
            what = f"{method_name(distill)}-ipc{ipc}-seed{seed}"
            resolved = resolve_before_pretraining(distill, pretrain, sources)
            if pool is not None:  # its name says how the experts will be
                resolved = distill
            content = {**hashed_distillation(resolved, self.dataset.resolution), "pool": pool}
        name = f"{_where(part.sources)}-{what}-{_hash([self.data_of(part), content])}"
        config = dataclasses.replace(config, seed=own_seed)
        training = resolve_training(config, self.dataset.resolution, self.dataset.flip_safe)
        tested = hashed_evaluation(training, self.dataset.resolution)
        validation = self.study.protocol == "validation"
        file = f"evaluation-{_hash([self.prints, tested, *(['validation'] if validation else [])])}.json"
        if name not in self.jobs:
            run, domains = self._run(part, resolved), self.study.domains
            shares = self.study.share_real_means
            whole = distill is None
            self.jobs[name] = Job(name, run, domains, part.sources, whole, pool, validation, {}, shares)
        job = self.jobs[name]
        job.evaluations[file] = config
        return job.folder, f"{job.folder}/{file}"

    def _pool(self, part: Part, seed: int, config: PretrainConfig, sources: DomainDataset) -> str:
        """The folder of the experts for `part`."""
        config = dataclasses.replace(config, seed=derive_seed(seed, "experiments", *part.sources))
        content = hashed_pretraining(resolve_pretraining(config, sources), self.dataset.resolution)
        name = f"{_where(part.sources)}-seed{seed}-{_hash([self.data_of(part), content])}"
        if name not in self.pools:
            run = self._run(part, None)
            self.pools[name] = PoolJob(name, run, self.study.domains, part.sources, config)
        return self.pools[name].folder

    def data_of(self, part: Part) -> dict[str, str]:
        """The fingerprint of each source of `part`."""
        return {name: self.prints[name] for name in part.sources}

    def _run(self, part: Part, distill: DistillConfig | None) -> RunConfig:
        study = self.study
        all_domains = part.target is not None or len(part.sources) == self.dataset.num_domains
        return RunConfig(
            data=study.data,
            target=part.target or NO_TARGET,
            domains=study.domains if all_domains else part.sources,
            classes=study.classes,
            resolution=study.resolution,
            device=self.device,
            threads=self.threads,
            distill=distill or DistillConfig(),
        )


def resolve_before_pretraining(
    config: DistillConfig, pretrain: PretrainConfig | None, sources: DomainDataset
) -> DistillConfig:
    """`config` resolved as far as it can be while the experts that it needs, if any, are not trained yet.

    Raises ValueError for settings that cannot work.
    """
    if pretrain is None:
        return resolve_distillation(config, sources)
    if to_dict(config.network) not in (to_dict(NetworkConfig()), to_dict(pretrain.network)):
        raise ValueError(
            f"{config.objective} compares features in its experts, whose network is set under pretrain: "
            f"leave distill.network alone, got {config.network}"
        )
    experts = dataclasses.replace(config.experts or ExpertConfig(), pool=None)
    resolved = resolve_distillation(
        dataclasses.replace(config, network=pretrain.network, experts=experts), sources
    )
    if resolved.masks is not None:
        check_stages(resolved.masks, pretrain.network, sources.resolution)
    return resolved


def _images(row: Row) -> DistillConfig | None:
    """What decides the images of a row, without budget and seed."""
    if row.distill is not None and method_name(row.distill) == RANDOM:
        # Nothing else acts on real images, so nothing else must make another set of them.
        return dataclasses.replace(REAL_IMAGES, init=row.distill.init, factor=row.distill.factor)
    return row.distill


def _where(sources: tuple[str, ...]) -> str:
    """The sources for a folder name, which has 255 bytes at most; several studies share what they distil from
    the same sources."""
    named = sources if len(sources) <= 4 else (*sources[:3], f"{len(sources) - 3} more")
    joined = "from-" + "+".join(re.sub(r"[^\w.]+", "-", name) for name in named)
    return joined.encode()[:MOST_BYTES_OF_SOURCES].decode(errors="ignore")


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
