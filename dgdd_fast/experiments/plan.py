"""From a study to its jobs: what is distilled and evaluated, and in which folder it lies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..config import DistillConfig, EvaluateConfig, to_dict
from ..data import DomainDataset
from ..distill import resolve
from ..evaluate import resolve as resolve_evaluation
from ..run_config import NO_TARGET, RunConfig, method_name
from ..seeds import derive_seed
from .choices import Choices, chosen
from .study import RANDOM, WHOLE, Row, Study, rows_of

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
class Job:
    """One distilled set and all evaluations of it that the study asks for.

    Attributes:
        name: its folder. It ends in a hash of all that decides the images, so that a job with other settings
            or data never finds this one's files.
        run: what `dgdd distill --config` takes; its `distill` is not used where `whole`.
        domains: the domains of the data that the study uses; None: all.
        sources: those of them to learn from.
        whole: train on all real images of the sources instead of distilling.
        evaluations: by file name, whose hash is that of the settings and the data tested on.
    """

    name: str
    run: RunConfig
    domains: tuple[str, ...] | None
    sources: tuple[str, ...]
    whole: bool
    evaluations: dict[str, EvaluateConfig]


@dataclass(frozen=True)
class Cell:
    """One number of the table at one seed.

    Attributes:
        row: the key of the row.
        evaluation: the name of the evaluation settings, "" where the study has one only.
        tests: the domains whose test images it counts.
        pooled: whether the images of `tests` count alike; else the domains do.
        file: the evaluation it is read from, relative to the folder of the grid.
        reference: that of Random at the same budget under the same evaluation.
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
    """The cells of a study, and its jobs without repetition, in the order in which to run them."""

    rows: list[Row]
    columns: list[str]
    cells: list[Cell]
    jobs: list[Job]


def parts_of(study: Study, domains: tuple[str, ...]) -> list[Part]:
    """The columns of the study on data with these domains. Raises ValueError for a target not among them."""
    targets = study.targets or domains
    unknown = [name for name in targets if name not in domains]
    if unknown:
        raise ValueError(f"targets: no domain {unknown[0]!r} in the data; it has {', '.join(domains)}")
    if study.protocol == "in-domain":
        if study.targets is not None:
            raise ValueError("targets: the in-domain protocol holds no domain out; leave them away")
        return [Part("all domains", domains, domains, None)]
    if len(domains) < 2:
        raise ValueError(f"the protocol {study.protocol} needs two domains or more, not {domains[0]!r} alone")
    parts = []
    for name in domains:
        others = tuple(domain for domain in domains if domain != name)
        if name not in targets:
            continue
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
    choices: Choices | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Plan:
    """All cells and jobs of a study on `dataset`, loaded as it says, with the settings that were chosen.

    For one seed and the same sources all methods share the seeds of their draws, so that they start from the
    same images and differ in the method alone; other sources have other seeds.

    Raises ValueError for settings that cannot work with these data.
    """
    domains = dataset.domain_names
    prints = {name: dataset.only_domains([name]).fingerprint() for name in domains}
    no_images = dataset.select([])
    rows, parts = rows_of(study), parts_of(study, domains)
    jobs: dict[str, Job] = {}
    cells = []

    def register(
        row: Row, part: Part, ipc: int, seed: int, config: EvaluateConfig, distill: DistillConfig | None
    ) -> tuple[str, str]:
        """The job's folder and the path of its evaluation, both relative to the folder of the grid."""
        own_seed = derive_seed(seed, "experiments", *part.sources)
        if distill is not None:
            distill = dataclasses.replace(distill, ipc=ipc, seed=own_seed)
        data = {name: prints[name] for name in part.sources}
        content = None if distill is None else _content(distill, no_images.only_domains(part.sources))
        where = _where(part.sources)
        what = WHOLE if distill is None else f"{method_name(distill)}-ipc{ipc}-seed{seed}"
        name = f"{where}-{what}-{_hash([data, content])}"
        config = dataclasses.replace(config, seed=own_seed)
        tested = to_dict(resolve_evaluation(config, dataset.resolution, dataset.flip_safe))
        file = f"evaluation-{_hash([prints, tested])}.json"
        job = jobs.get(name)
        if job is None:
            run = RunConfig(
                data=study.data,
                target=part.target or NO_TARGET,
                domains=study.domains if part.target or len(part.sources) == len(domains) else part.sources,
                resolution=study.resolution,
                device=device,
                threads=threads,
                distill=distill or DistillConfig(),
            )
            job = jobs[name] = Job(name, run, study.domains, part.sources, distill is None, {})
        job.evaluations[file] = config
        return f"cells/{name}", f"cells/{name}/{file}"

    for seed in study.seeds:
        for ipc in study.ipc:
            for part in parts:
                for row in (chosen(row, choices or {}, part.column, ipc) for row in rows):
                    for evaluation, config in row.evaluations.items():
                        reference = register(row, part, ipc, seed, config, REAL_IMAGES)[1]
                        folder, file = register(row, part, ipc, seed, config, _images(row))
                        cells.append(
                            Cell(
                                row.key,
                                evaluation,
                                ipc,
                                part.column,
                                seed,
                                part.tests,
                                study.protocol != "single-source",
                                file,
                                reference,
                                None if row.distill is None else folder,
                            )
                        )
    return Plan(rows, [part.column for part in parts], cells, list(jobs.values()))


def _content(config: DistillConfig, sources: DomainDataset) -> dict[str, Any]:
    """All settings that decide the images, with what follows from the data and the objective written out."""
    # How often a checkpoint is written decides nothing.
    return {**to_dict(resolve(config, sources)), "checkpoint_every": None}


def _images(row: Row) -> DistillConfig | None:
    """What decides the images of a row, without budget and seed."""
    if row.distill is not None and row.distill.objective == RANDOM:
        # Nothing but the initialisation acts on real images: all else must not make another set of them.
        return dataclasses.replace(REAL_IMAGES, init=row.distill.init)
    return row.distill


def _where(sources: tuple[str, ...]) -> str:
    """The sources for a folder name; several studies share what they distil from the same sources."""
    named = sources if len(sources) <= 4 else (*sources[:3], f"{len(sources) - 3} more")
    return "from-" + "+".join(re.sub(r"[^\w.]+", "-", name) for name in named)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
