"""A study: which methods, on which domains, at which budgets, with which settings; one YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..config import (
    RANDOM,
    DistillConfig,
    EvaluateConfig,
    ExpertConfig,
    MaskConfig,
    PretrainConfig,
    changed,
    from_dict,
    method_label,
    method_name,
    method_spec,
    names_where,
    nested,
    to_dict,
    with_method,
)
from ..config.bounds import Finite, Repeats, Seed, Size
from ..config.yaml_text import dump_yaml, load_yaml
from ..files import write_atomically
from .published import check_published

WHOLE = "whole"


@dataclass(frozen=True)
class MethodEntry:
    """A row of the table.

    Attributes:
        method: as on the command line: dm, dm+sgs, random; or whole: train on all real images.
        name: what the row is called; None: the method. Rows must differ in it.
        distill, evaluate, pretrain: settings that this row has of its own, as in `DistillConfig`,
            `EvaluateConfig` and, for methods that match in experts, `PretrainConfig`.
    """

    method: str = ""
    name: str | None = None
    distill: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    pretrain: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells this row from the others: the name given, or the method."""
        return self.name or self.method

    @property
    def label(self) -> str:
        """How the row reads in a table."""
        return self.name or method_label(self.method)


@dataclass(frozen=True)
class Range:
    """Values to try for a setting: from `low` to `high`, evenly on a logarithmic scale unless `log` is false.

    With `relative` they are factors of the method's own value; with `integer` they are rounded.
    """

    low: Finite = 0.1
    high: Finite = 10.0
    log: bool = True
    relative: bool = False
    integer: bool = False


@dataclass(frozen=True)
class TuneConfig:
    """How `dgdd tune` chooses settings: every method gets the same number of trials.

    Attributes:
        trials: settings tried for each method, target and budget; the first is what the study says.
        seeds: as in the study; a trial is the mean over them.
        settings: what to choose, written as distill.surgery.alpha, for each method that has it, but where
            its entry sets a value of its own.
        runs: trainings on the set of a trial; None: as many as `evaluate` says.
    """

    trials: Repeats = 16
    seeds: tuple[Seed, ...] = (0,)
    settings: dict[str, Range] = field(
        default_factory=lambda: {
            "distill.image_lr": Range(0.1, 10.0, relative=True),
            "distill.surgery.alpha": Range(0.1, 10.0),
            "distill.surgery.beta": Range(0.0, 1.0, log=False),
        }
    )
    runs: Repeats | None = None


@dataclass(frozen=True)
class Study:
    """A grid of distillations and evaluations; `read_study` reads it from YAML.

    Attributes:
        title: what the tables are called; empty: the data's name.
        data, domains, classes, resolution: as in `RunConfig`.
        protocol: leave-one-out (MDG): a column is a domain held out, tested on all of it.
            single-source (SDG): a column is the only source, tested on each other domain, averaged.
            in-distribution (ID): a column is a domain held out, tested on the test parts of the sources.
            in-domain: one column; all domains are sources, tested on their test parts.
        validation: as leave-one-out, but tested on the training images of the domain held out: what
            `dgdd tune` chooses by, so that no test image takes part.
        targets: the columns wanted, in their order; None: every domain, in the order of the data.
        methods: the rows. Random real images at the same budget are always added.
        ipc: images per class; a block of columns each.
        seeds: each is a distillation and a training of its own.
        distill: settings that all rows share. A section that a method lacks (surgery) is left out there.
        evaluate: the same for the evaluation; its network is that of the distillation unless given.
        pretrain: the same for the experts of mmd and cadm.
        evaluations: names of further evaluation settings; each set is then evaluated under each of them
            (architectures, augmentation). Empty: under `evaluate` alone.
        sweeps: settings, written as distill.surgery.alpha, with the values to try one setting at a time, for
            every method that has it.
        published: tables of the papers to show beside (see `published.py`).
        tune: how `dgdd tune` chooses settings for the rows.
        tuned: the folder of such a choice, which is then taken; None: the settings as they are.
        share_real_means: compute what rows have in common, the mean features of the real images of each
            iteration, once a seed and column, and keep them in the grid's folder until all is done: four
            bytes a feature, class, domain and iteration (240 KiB an iteration for ten classes, three domains
            and a ConvNet of width 128). It changes no number.
    """

    title: str = ""
    data: str = "embedded-digits"
    domains: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    resolution: Size | None = None
    protocol: Literal["leave-one-out", "single-source", "in-distribution", "in-domain", "validation"] = (
        "leave-one-out"
    )
    targets: tuple[str, ...] | None = None
    methods: tuple[MethodEntry, ...] = (MethodEntry("dm"), MethodEntry("dm+sgs"))
    ipc: tuple[Size, ...] = (10,)
    seeds: tuple[Seed, ...] = (0, 1, 2, 3, 4)
    distill: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    pretrain: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    sweeps: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    published: tuple[str, ...] = ()
    tune: TuneConfig = field(default_factory=TuneConfig)
    tuned: str | None = None
    share_real_means: bool = False


@dataclass(frozen=True)
class Row:
    """A row of the table, resolved: an entry, or one value of a sweep of it.

    Attributes:
        key, label: what tells rows apart, and how it reads in a table.
        distill: the settings without budget and seed; None trains on all real images.
        pretrain: the experts to match in, without seed; None where the method takes none.
        evaluations: by name, without seed. One, called "", unless the study names several.
        entry: the key of the entry.
        own: the settings that the entry or the sweep sets itself, as distill.surgery.alpha.
        sweep: the setting and its value, where the row is one of a sweep.
    """

    key: str
    label: str
    entry: str
    distill: DistillConfig | None
    pretrain: PretrainConfig | None
    evaluations: dict[str, EvaluateConfig]
    own: tuple[str, ...] = ()
    sweep: tuple[str, Any] | None = None


def read_study(path: Path) -> Study:
    """The study that a YAML file describes; a method is a name or a mapping.

    Raises ValueError naming the file and the setting that is wrong, OSError for a file that cannot be read.
    """
    try:
        values = load_yaml(path)
        if not values:  # every setting has a default, but nobody asked for hours of them
            raise ValueError("there is nothing in it; write what to study, such as methods: [dm, dm+sgs]")
        return study_from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def study_from_dict(values: dict[str, Any]) -> Study:
    """The study that nested dictionaries describe, checked. Raises ValueError naming what is wrong."""
    methods = values.get("methods")
    if isinstance(methods, (list, tuple)):
        named = [{"method": entry} if isinstance(entry, str) else entry for entry in methods]
        values = {**values, "methods": named}
    study = from_dict(Study, values)
    rows_of(study)
    for name in study.published:
        check_published(name)
    return study


def write_study(path: Path, study: Study) -> None:
    """Write the YAML file that `read_study` reads back to an equal study."""
    write_atomically(path, dump_yaml(to_dict(study)))


def with_precision(study: Study, precision: str) -> Study:
    """The study with one precision for experts, distillation and evaluation; what a row sets itself stays."""
    change = {"precision": precision}
    return dataclasses.replace(
        study,
        pretrain=study.pretrain | change,
        distill=study.distill | change,
        evaluate=study.evaluate | change,
    )


def rows_of(study: Study) -> list[Row]:
    """The rows of the table with their settings; Random first where the study does not name it.

    Raises ValueError for settings that do not exist, that no method has, or that make two rows alike.
    """
    for name in ("methods", "ipc", "seeds"):
        values = getattr(study, name)
        if not values:
            raise ValueError(f"{name} must list at least one")
        if name != "methods" and len(set(values)) < len(values):
            raise ValueError(f"{name} must not repeat a value, got {list(values)}")
    if min(study.ipc) < 1:
        raise ValueError(f"ipc must be at least 1, got {min(study.ipc)}")
    for name in ("targets", "domains", "classes"):
        if getattr(study, name) == ():
            raise ValueError(f"{name} must list at least one; leave it away for all")
    entries = list(study.methods)
    if all(entry.method != RANDOM for entry in entries):
        entries.insert(0, MethodEntry(RANDOM))
    rows = [_row(study, entry) for entry in entries]
    _check_shared(study, rows)
    for setting, values in study.sweeps.items():
        if not values:
            raise ValueError(f"sweeps: {setting} must list at least one value")
        swept = [
            _swept(row, setting, value)
            for row in rows[: len(entries)]
            if has_setting(row, setting)
            for value in values
        ]
        if not swept:
            raise ValueError(f"sweeps: {without_effect(setting)}")
        rows += swept
    keys = [row.key for row in rows]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(f"two rows are called {repeated[0]!r}; give one of them a name of its own")
    return rows


def _swept(row: Row, setting: str, value: Any) -> Row:
    suffix = f", {setting.rpartition('.')[2]} = {value}"
    row = with_setting(row, setting, value)
    return dataclasses.replace(
        row,
        key=row.key + suffix,
        label=row.label + suffix,
        own=(*row.own, setting),
        sweep=(setting, value),
    )


def _row(study: Study, entry: MethodEntry) -> Row:
    where = f"methods: {entry.key}"
    start = None if entry.method == WHOLE else with_method(DistillConfig(), entry.method)
    has_experts = start is not None and method_spec(start).family == "experts"
    if start is not None and has_experts:  # so that shared settings and sweeps find the sections
        masks = MaskConfig() if method_spec(start).masks else None
        start = dataclasses.replace(start, experts=ExpertConfig(), masks=masks)
    if start is None and entry.distill:
        raise ValueError(f"{where}: nothing is distilled, so there are no settings of it")
    if entry.pretrain and not has_experts:
        raise ValueError(f"{where}: only {names_where('experts')} match in experts")
    # Experts bring their network.
    shared = {name: value for name, value in study.distill.items() if not (has_experts and name == "network")}
    distill = changed(start or DistillConfig(), shared, "distill", shared=True)
    pretrain = None
    if has_experts:
        pretrain = changed(PretrainConfig(), study.pretrain, "pretrain")
        pretrain = changed(pretrain, entry.pretrain, f"{where}: pretrain")
    network = distill.network if pretrain is None else pretrain.network
    if start is not None:
        distill = changed(distill, entry.distill, f"{where}: distill")
        network = distill.network if pretrain is None else pretrain.network
        if method_name(distill) != method_name(start):
            raise ValueError(f"{where}: these settings make it {method_name(distill)}; name that method")
        for name in ("ipc", "seed"):
            if getattr(distill, name) != getattr(start, name):
                raise ValueError(f"distill.{name} is set by the study's own list, ipc or seeds")
    evaluations = {
        name: _evaluation(study, entry.evaluate, extra, network, where)
        for name, extra in (study.evaluations or {"": {}}).items()
    }
    own = tuple(_paths({"distill": entry.distill, "evaluate": entry.evaluate}))
    return Row(entry.key, entry.label, entry.key, start and distill, pretrain, evaluations, own)


def _paths(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """What nested dictionaries set, each written as distill.surgery.alpha."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _evaluation(
    study: Study, own: dict[str, Any], extra: dict[str, Any], network: Any, where: str
) -> EvaluateConfig:
    config = EvaluateConfig(runs=1, network=network)
    config = changed(config, study.evaluate, "evaluate")
    config = changed(config, extra, "evaluations")
    config = changed(config, own, f"{where}: evaluate")
    if config.seed != EvaluateConfig.seed:
        raise ValueError("evaluate.seed is set by the study's own list, seeds")
    return config


def _check_shared(study: Study, rows: list[Row]) -> None:
    for name, value in study.distill.items():
        configs = [to_dict(row.distill) for row in rows if row.distill is not None]
        if isinstance(value, dict) and all(config.get(name, {}) is None for config in configs):
            raise ValueError(f"distill.{name} belongs to none of the methods")


def has_setting(row: Row, setting: str) -> bool:
    """Whether a setting, written as distill.surgery.alpha, acts on a row; ValueError where there is none."""
    section, *path = setting.split(".")
    if section == "distill":
        config: Any = row.distill
        if row.distill is not None and method_spec(row.distill).family == "coreset":
            acting = method_spec(row.distill).acting
            if path and hasattr(row.distill, path[0]) and path[0] not in acting:
                return False
    elif section == "evaluate":
        config = next(iter(row.evaluations.values()))
    else:
        raise ValueError(f"the setting {setting} must begin with distill. or evaluate.")
    for name in path:
        if config is None:
            return False
        if not dataclasses.is_dataclass(config) or not hasattr(config, name):
            raise ValueError(f"there is no setting {setting}")
        config = getattr(config, name)
    # Without a number of pseudo-domains a row takes the domains of the data.
    return bool(path) and (path != ["pseudo_domains"] or config is not None)


def without_effect(setting: str) -> str:
    """What to say of a setting that acts on no row of a study, and what to do."""
    if setting == "distill.pseudo_domains":
        return (
            "no row has a number of pseudo-domains that could vary; set distill.pseudo_domains first, for "
            "all rows (distill: {pseudo_domains: 4}) or in the row of a method"
        )
    if "." not in setting:
        return f"{setting} is a section; write a setting of it, such as distill.surgery.alpha"
    return f"no method of the study has the setting {setting}; name a method that has it, or leave it out"


def is_tunable(row: Row, setting: str) -> bool:
    """Whether a setting acts on a row whose entry or sweep leaves it open; ValueError where there is none."""
    return has_setting(row, setting) and setting not in row.own


def with_setting(row: Row, setting: str, value: Any) -> Row:
    """The row with another value of a setting that it has."""
    section, *path = setting.split(".")
    change = nested(path, value)
    if section == "distill" and row.distill is not None:
        return dataclasses.replace(row, distill=changed(row.distill, change, section))
    evaluations = {name: changed(config, change, section) for name, config in row.evaluations.items()}
    return dataclasses.replace(row, evaluations=evaluations)
