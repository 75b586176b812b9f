"""Choosing settings by leaving out one source domain at a time; the target domain is never looked at."""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..config import RANDOM, DistillConfig, merged, method_name, nested
from ..data import DomainDataset
from ..json_text import write_json
from ..seeds import derive_seed
from ..training import resolve_training
from .grid import GridOutcome, Workers, load_data, read_index, run_grid
from .job import JobData, ProgressCallback
from .plan import parts_of, resolve_before_pretraining
from .study import MethodEntry, Range, Row, Study, is_tunable, rows_of
from .tuned_settings import TUNING_NAME


class Trial(NamedTuple):
    """Settings that were tried, and the accuracy in percent on each source domain when it was left out.

    `own`: whether they are the study's own settings.
    """

    settings: dict[str, Any]
    accuracies: dict[str, float]
    own: bool = False

    @property
    def mean(self) -> float:
        """Over the source domains that were left out, in percent."""
        return statistics.fmean(self.accuracies.values())


# By column, row and images per class: the trials that did not fail, in the order in which they were tried.
Trials = dict[str, dict[str, dict[int, list[Trial]]]]


def tune(
    study: Study, folder: Path, workers: Workers, tell: ProgressCallback, data: JobData | None = None
) -> tuple[Trials, GridOutcome]:
    """Choose settings for every method of a study, for each of its columns and budgets.

    For a column with the source domains S, every trial is distilled from S without one domain and tested on
    the training images of that, for each domain of S in turn; the settings with the best mean are chosen. All
    methods get the same number of trials. The target domain and test images take no part. Resumable like a
    grid: the same sets serve several columns. Writes `tuning.json`.

    Raises ValueError for a study that cannot be tuned: fewer than two source domains, or three for surgery;
    settings that no method has, or whose own value is no number. Trials that failed are left out; a method of
    which all failed is not in the result.
    """
    if study.tune.trials < 1:
        raise ValueError(f"tune.trials must be at least 1, got {study.tune.trials}")
    if not study.tune.settings:
        raise ValueError("tune.settings must list at least one; leave it away for the usual ones")
    for name, span in study.tune.settings.items():
        if not span.low <= span.high:
            raise ValueError(f"tune.settings.{name}: low {span.low} lies above high {span.high}")
    data = data or JobData()
    dataset = load_data(study, data)
    # Trials are evaluated in one way alone.
    runs = {} if study.tune.runs is None else {"runs": study.tune.runs}
    study = dataclasses.replace(
        study, evaluations={}, sweeps={}, published=(), tuned=None, evaluate=study.evaluate | runs
    )
    rows = [row for row in rows_of(study) if _is_tuned(row, study)]
    if not rows:
        raise ValueError(f"no method has any of the settings {', '.join(study.tune.settings)}")
    found: Trials = {}
    fingerprints: dict[str, dict[str, str]] = {}
    total = GridOutcome(0, [], {})
    for part in parts_of(study, dataset.domain_names):
        if len(part.sources) < 2:
            raise ValueError(
                f"{part.column}: with the source {part.sources[0]} alone, none can be left out to choose "
                "settings or a number of pseudo-domains; tune a study with several source domains"
            )
        if len(part.sources) == 2:
            _check_surgery(part.column, rows)
        sources = dataset.select([]).only_domains(part.sources)
        trials = {
            row.key: _settings(row, row.distill, study, sources) for row in rows if row.distill is not None
        }
        inner = dataclasses.replace(
            study,
            domains=part.sources,
            protocol="validation",
            targets=None,
            methods=tuple(
                _entry(study, row, number, settings)
                for row in rows
                for number, settings in enumerate(trials[row.key])
            ),
            seeds=study.tune.seeds,
        )
        name = f"tune-{part.column.replace('/', '-')}"
        outcome = run_grid(inner, folder, workers, tell, name, data)
        total = GridOutcome(
            total.jobs + outcome.jobs,
            total.computed + outcome.computed,
            {**total.failures, **outcome.failures},
        )
        found[part.column] = _trials(folder, name, trials, study.ipc)
        fingerprints[part.column] = {
            name: dataset.only_domains([name]).fingerprint() for name in part.sources
        }
    _write(folder / TUNING_NAME, study, dataset.resolution, fingerprints, found)
    return found, total


def best(trials: list[Trial]) -> Trial:
    """The trial with the highest mean; the earlier of two alike."""
    return max(trials, key=lambda trial: trial.mean)


def _check_surgery(column: str, rows: list[Row]) -> None:
    for row in rows:
        if row.distill is not None and row.distill.surgery is not None and row.distill.pseudo_domains is None:
            raise ValueError(
                f"{column}: without one of its two sources {row.key} has no domains to compare; tune it with "
                "more sources, or give it a number of pseudo_domains"
            )


def _is_tuned(row: Row, study: Study) -> bool:
    if row.distill is None or method_name(row.distill) == RANDOM:
        return False
    return any([is_tunable(row, setting) for setting in study.tune.settings])  # each, to check its name


def _settings(row: Row, distill: DistillConfig, study: Study, sources: DomainDataset) -> list[dict[str, Any]]:
    """The settings of every trial of a row: its own, then points spread evenly over the ranges (Sobol)."""
    ranges = {name: span for name, span in study.tune.settings.items() if is_tunable(row, name)}
    evaluation = next(iter(row.evaluations.values()))
    own = {
        "distill": resolve_before_pretraining(distill, row.pretrain, sources),
        "evaluate": resolve_training(evaluation, sources.resolution, sources.flip_safe),
    }
    trials: list[dict[str, Any]] = [{name: _value(own, name) for name in ranges}]
    for name, value in trials[0].items():
        if not isinstance(value, (int, float)):
            raise ValueError(
                f"tune: {name} of {row.key} is {value!r}, but only numbers have a range; leave it out"
            )
    seed = derive_seed(0, "tune", *ranges) % 2**31
    points = torch.quasirandom.SobolEngine(len(ranges), scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    # Rounded values may repeat; where there are fewer than trials, all of them are tried.
    for _ in range(8 * study.tune.trials):
        if len(trials) == study.tune.trials:
            break
        point = points.draw(1, dtype=torch.float64)[0].tolist()
        settings = {
            name: _scaled(span, share, trials[0][name])
            for (name, span), share in zip(ranges.items(), point, strict=True)
        }
        if settings not in trials:
            trials.append(settings)
    return trials


def _value(own: dict[str, Any], setting: str) -> Any:
    section, *path = setting.split(".")
    value = own[section]
    for name in path:
        value = getattr(value, name)
    return value


def _scaled(span: Range, share: float, own: Any) -> float | int:
    """The value at `share` in [0, 1] of a range, with four significant digits."""
    if span.log:
        if span.low <= 0:
            raise ValueError(f"a logarithmic range must begin above 0, got {span.low}; or give log: false")
        value = math.exp(math.log(span.low) + share * (math.log(span.high) - math.log(span.low)))
    else:
        value = span.low + share * (span.high - span.low)
    if span.relative:
        value *= own
    return round(value) if span.integer else float(f"{value:.4g}")


def _entry(study: Study, row: Row, number: int, settings: dict[str, Any]) -> MethodEntry:
    entry = next(entry for entry in study.methods if entry.key == row.entry)
    changes = {"distill": entry.distill, "evaluate": entry.evaluate}
    for setting, value in settings.items():
        section, *path = setting.split(".")
        changes[section] = merged(changes[section], nested(path, value))
    return dataclasses.replace(
        entry,
        name=_trial_name(row.key, number),
        distill=changes["distill"],
        evaluate=changes["evaluate"],
    )


def _trial_name(key: str, number: int) -> str:
    return f"{key}, trial {number}"


def _trials(
    folder: Path, name: str, settings: dict[str, list[dict[str, Any]]], budgets: tuple[int, ...]
) -> dict[str, dict[int, list[Trial]]]:
    index = read_index(folder, name)
    values: dict[tuple[str, int], dict[str, list[float]]] = {}
    lost = set()
    for entry in index.entries:
        report = index.evaluation(entry.file)
        if report is None:
            lost.add((entry.row, entry.ipc))
        else:
            accuracy = statistics.fmean(report["accuracies"][entry.column]["runs"])
            values.setdefault((entry.row, entry.ipc), {}).setdefault(entry.column, []).append(accuracy)
    found: dict[str, dict[int, list[Trial]]] = {}
    for key, tried in settings.items():
        for ipc in budgets:
            trials = [
                Trial(
                    chosen,
                    {domain: statistics.fmean(seeds) for domain, seeds in values[place].items()},
                    own=number == 0,
                )
                for number, chosen in enumerate(tried)
                for place in [(_trial_name(key, number), ipc)]
                if place in values and place not in lost
            ]
            if trials:
                found.setdefault(key, {})[ipc] = trials
    return found


def _write(
    path: Path,
    study: Study,
    resolution: tuple[int, int],
    fingerprints: dict[str, dict[str, str]],
    found: Trials,
) -> None:
    columns = {
        column: {
            "sources": fingerprints[column],
            "rows": {
                row: {
                    str(ipc): {
                        "settings": best(trials).settings,
                        "accuracy": best(trials).mean,
                        "trials": [{**trial._asdict(), "accuracy": trial.mean} for trial in trials],
                    }
                    for ipc, trials in budgets.items()
                }
                for row, budgets in rows.items()
            },
        }
        for column, rows in found.items()
    }
    content = {
        "protocol": study.protocol,
        "resolution": list(resolution),
        "trials": study.tune.trials,
        "seeds": list(study.tune.seeds),
        "columns": columns,
    }
    write_json(path, content)
