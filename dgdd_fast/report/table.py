"""The table of a grid in the papers' shape: methods in rows, target domains in columns, and their average."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..analysis.paired import Difference, paired_difference
from ..evaluation import SOFT_LABELS
from ..experiments.grid import GridIndex
from ..experiments.plan import TableEntry
from ..experiments.published import AVERAGE, Figure, published_table
from ..experiments.study import WHOLE

OVER_RANDOM = "over Random"
OVERHEAD = "overhead"
DESCRIPTIONS = {
    "leave-one-out": "distilled from training images of all domains but the column's, tested on every image "
    "of the column's",
    "single-source": "distilled from training images of the column's domain, tested on every image of each "
    "other, averaged",
    "in-distribution": "distilled from training images of all domains but the column's, tested on their "
    "test images",
    "in-domain": "distilled from training images of all domains, tested on their test images",
    "validation": "distilled from training images of all domains but the column's, tested on training images "
    "of the column's",
}


# What a row has at each seed, by column: the mean over the trainings on a set.
BySeed = dict[str, dict[int, float]]


class Number(NamedTuple):
    """An accuracy in percent, a difference or a ratio, over `samples` seeds, or runs where the study has one
    seed; `std` NaN for one."""

    mean: float
    std: float
    samples: int


@dataclass(frozen=True)
class TableRow:
    """A row of a block, by column, where there is any.

    Attributes:
        ours: what was measured.
        paper: what the paper prints.
        by_seed: what was measured at each seed, the mean over the trainings on a set.
        differences: to the row that the table is against.
        ahead: the columns in which the row is significantly better: than the row that the table is against,
            or where it is against none, than every other. That is, the 95 % interval of the paired difference
            lies above 0.
    """

    key: str
    label: str
    ours: dict[str, Number]
    paper: dict[str, Figure]
    by_seed: BySeed = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)
    ahead: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ResultTable:
    """Everything a table shows.

    Attributes:
        columns: the targets, their average where there are several, and the gain over Random.
        blocks: by images per class.
        notes: how the numbers came about, a sentence each.
        missing: evaluations that are not there yet.
        against: the label of the row that differences are to, if the table is against one.
    """

    title: str
    columns: list[str]
    blocks: dict[int, list[TableRow]]
    notes: list[str]
    missing: int
    against: str | None = None


def result_table(index: GridIndex, against: str | None = None) -> ResultTable:
    """The table of a grid with what is there; numbers that need a missing evaluation are left out.

    The average of the standard deviations is their mean over the columns, as in SGS; the difference of
    averages is a difference at each seed.

    Args:
        against: the key or label of a row, to have the paired differences of all others to it.

    Raises ValueError where there is no such row.
    """
    reference = None if against is None else _row_called(against, index)
    study = index.study
    published = [published_table(name) for name in study.published]
    reports = {
        file: index.evaluation(file) for entry in index.entries for file in (entry.file, entry.reference)
    }
    targets = list(dict.fromkeys(_column(index, entry) for entry in index.entries))
    columns = [*targets, *([AVERAGE] if len(targets) > 1 else []), OVER_RANDOM]
    if any(report and report["config"]["generalize"] != "none" for report in reports.values()):
        columns.append(OVERHEAD)
    times = _overheads(index, reports)
    blocks: dict[int, list[TableRow]] = {}
    for ipc in study.ipc:
        rows = []
        for row in index.rows:
            entries = [entry for entry in index.entries if (entry.row, entry.ipc) == (row["key"], ipc)]
            by_seed = _by_seed(index, entries, targets, reports)
            ours = _numbers(index, entries, targets, reports)
            if (row["key"], ipc) in times and OVERHEAD in columns:
                ours[OVERHEAD] = times[row["key"], ipc]
            paper = {
                column: figure
                for column in columns
                for table in published
                if (column != AVERAGE or table.covers(targets))
                and (figure := table.figure(ipc, row["key"], column)) is not None
            }
            rows.append(TableRow(row["key"], row["label"], ours, paper, by_seed))
        blocks[ipc] = [_compared(row, rows, reference) for row in rows]
    missing = sum(report is None for report in reports.values())
    title = study.title or str(index.data["name"])
    samples = {
        row.ours[target].samples
        for rows in blocks.values()
        for row in rows
        for target in targets
        if target in row.ours
    }
    label = None if reference is None else {row["key"]: row["label"] for row in index.rows}[reference]
    notes = list(_notes(index, reports, samples, missing))
    notes[2:2] = _comparison_notes(index, blocks, label)
    return ResultTable(title, columns, blocks, notes, missing, label)


def _row_called(name: str, index: GridIndex) -> str:
    for row in index.rows:
        if name in (row["key"], row["label"]):
            return str(row["key"])
    keys = ", ".join(row["key"] for row in index.rows)
    raise ValueError(f"there is no row {name!r} to compare with in {index.folder}; there are {keys}")


def _by_seed(
    index: GridIndex, entries: Sequence[TableEntry], targets: Sequence[str], reports: dict[str, Any]
) -> BySeed:
    found: BySeed = {target: {} for target in targets}
    for entry in entries:
        if reports[entry.file]:
            accuracy = statistics.fmean(_accuracies(entry, reports[entry.file]))
            found[_column(index, entry)][entry.seed] = accuracy
    whole = set.intersection(*(set(values) for values in found.values()))
    found[AVERAGE] = {seed: statistics.fmean(found[target][seed] for target in targets) for seed in whole}
    return found


def _compared(row: TableRow, rows: Sequence[TableRow], reference: str | None) -> TableRow:
    """The row with its differences to the reference, if there is one, and the columns that it is ahead in."""
    by_seed = {other.key: other.by_seed for other in rows}
    own = row.by_seed
    if reference is not None:
        differences = {
            column: found
            for column in own
            if row.key != reference and column in row.ours
            if (found := paired_difference(own[column], by_seed[reference][column])) is not None
        }
        ahead = frozenset(column for column, found in differences.items() if found.low > 0)
        return dataclasses.replace(row, differences=differences, ahead=ahead)
    others = [other for other in rows if other.key not in (row.key, WHOLE)]
    if row.key == WHOLE or not others:
        return row
    ahead = frozenset(
        column
        for column in own
        if column in row.ours
        and all(
            (found := paired_difference(own[column], by_seed[other.key][column])) and found.low > 0
            for other in others
        )
    )
    return dataclasses.replace(row, ahead=ahead)


def _comparison_notes(
    index: GridIndex, blocks: dict[int, list[TableRow]], against: str | None
) -> Iterator[str]:
    """What the differences and bold numbers are; `against` is the label of a row or None."""
    count = len(index.study.seeds)
    if against is None:
        if count > 1:
            yield (
                "Bold, or *: better than every other row of its block but that of all data, as the 95 % "
                "interval of each paired difference over the seeds is above 0."
            )
        return
    what = f"After each number: the difference to {against} at the same seed, the trainings of a set averaged"
    if count == 1:
        yield f"{what}. One seed: no interval, and nothing in bold."
        return
    yield f"{what}, and its 95 % interval (t) over the seeds. Bold, or *: the interval is above 0."
    pairs = {found.pairs for rows in blocks.values() for row in rows for found in row.differences.values()}
    if pairs and min(pairs) < count:
        yield (
            f"Some differences are over fewer than {count} seeds, those that both rows have; those over one "
            "have no interval."
        )


def _column(index: GridIndex, entry: TableEntry) -> str:
    """The column of an entry: its target, or the evaluation where that is what the study varies."""
    if not entry.evaluation:
        return entry.column
    return entry.evaluation if len(index.columns) == 1 else f"{entry.column}, {entry.evaluation}"


def _numbers(
    index: GridIndex, entries: Sequence[TableEntry], targets: Sequence[str], reports: dict[str, Any]
) -> dict[str, Number]:
    ours: dict[str, Number] = {}
    gains: dict[str, float] = {}
    for target in targets:
        there = [entry for entry in entries if _column(index, entry) == target and reports[entry.file]]
        values = [_accuracies(entry, reports[entry.file]) for entry in there]
        if not values:
            continue
        if len(index.study.seeds) > 1:
            ours[target] = _number([statistics.fmean(runs) for runs in values])
        else:
            ours[target] = _number(values[0])
        differences = [
            statistics.fmean(_accuracies(entry, reports[entry.file]))
            - statistics.fmean(_accuracies(entry, reports[entry.reference]))
            for entry in there
            if entry.set_folder is not None and reports[entry.reference]
        ]
        if differences:
            gains[target] = statistics.fmean(differences)
    if len(ours) == len(targets) > 1:
        numbers = [ours[target] for target in targets]
        ours[AVERAGE] = Number(
            statistics.fmean(number.mean for number in numbers),
            statistics.fmean(number.std for number in numbers),
            min(number.samples for number in numbers),
        )
    if len(gains) == len(targets) and any(entry.file != entry.reference for entry in entries):
        ours[OVER_RANDOM] = Number(statistics.fmean(gains.values()), math.nan, len(targets))
    return ours


def _accuracies(entry: TableEntry, report: dict[str, Any]) -> list[float]:
    """The accuracy of every run over the tests of an entry, in percent."""
    parts = [name for name in entry.tests if name in report["accuracies"]]
    if not parts:
        raise ValueError(
            f"{entry.file} has no test images of {', '.join(entry.tests)}: the data have no test part there"
        )
    weights = [report["images"][name] if entry.pooled else 1 for name in parts]
    runs = zip(*(report["accuracies"][name]["runs"] for name in parts), strict=True)
    return [statistics.fmean(run, weights) for run in runs]


def _number(values: Sequence[float]) -> Number:
    std = statistics.stdev(values) if len(values) > 1 else math.nan
    return Number(statistics.fmean(values), std, len(values))


def seconds_per_training(index: GridIndex) -> dict[tuple[str, int], list[float]]:
    """The time of a training on a distilled set and its test, by row and images per class, of every entry."""
    seconds: dict[tuple[str, int], list[float]] = {}
    for entry in index.entries:
        report = index.evaluation(entry.file)
        if report is not None and entry.set_folder is not None:
            seconds.setdefault((entry.row, entry.ipc), []).append(
                report["seconds"] / report["config"]["runs"]
            )
    return seconds


def _overheads(index: GridIndex, reports: dict[str, Any]) -> dict[tuple[str, int], Number]:
    """The time of a training by row and budget, as a multiple of that of the first row that is distilled and
    trained on without a method of generalisation."""
    plain: dict[int, str] = {}
    for entry in index.entries:
        report = reports[entry.file]
        if (
            report is not None
            and entry.set_folder is not None
            and entry.file != entry.reference
            and report["config"]["generalize"] == "none"
        ):
            plain.setdefault(entry.ipc, entry.row)
    seconds = seconds_per_training(index)
    return {
        (row, ipc): Number(
            statistics.median(values) / statistics.median(seconds[plain[ipc], ipc]), math.nan, len(values)
        )
        for (row, ipc), values in seconds.items()
        if ipc in plain
    }


def _notes(index: GridIndex, reports: dict[str, Any], samples: set[int], missing: int) -> Iterator[str]:
    """`samples`: over how many seeds, or runs of the only one, the numbers of the table are."""
    study, data = index.study, index.data
    domains = ", ".join(data["domains"])
    height, width = data["resolution"]
    yield (
        f"Accuracy in %: {data['name']} ({domains}; {height} x {width} px), {DESCRIPTIONS[study.protocol]}."
    )
    count = len(study.seeds)
    if count > 1:
        yield f"Mean ± standard deviation over {count} seeds, each a distillation and a training of its own."
        if samples and min(samples) < count:
            yield f"Some numbers are over fewer than {count} seeds so far; those over one have no ±."
    elif max(samples, default=1) > 1:
        yield f"One seed: mean ± standard deviation over {max(samples)} runs, trainings on the same set."
    else:
        yield "One seed."
    if len(index.columns) * len(index.evaluations) > 1 and max(samples, default=1) > 1:
        yield f"The ± of the {AVERAGE} is the mean of those of the columns."
    yield from _trainings(index, reports)
    if any(report and report.get("soft_labels") for report in reports.values()):
        yield SOFT_LABELS
    if study.tuned is not None:
        yield "Settings chosen for each column by leaving out one of its source domains at a time, dgdd tune."
    yield f"{OVER_RANDOM}: the gain over as many real images under the same evaluation, over all columns."
    if any(report and report["config"]["generalize"] != "none" for report in reports.values()):
        yield f"{OVERHEAD}: median time of training and testing, as a multiple of the first plain row's."
    for name in study.published:
        table = published_table(name)
        yield f"In brackets: {table.table} of {table.paper}; {table.note}."
    if missing:
        yield f"{missing} evaluations are missing; run dgdd grid again for them."


def _trainings(index: GridIndex, reports: dict[str, Any]) -> Iterator[str]:
    """How networks were trained on the distilled sets, and the rows and columns that differ from that."""
    entries = [entry for entry in index.entries if reports[entry.file]]
    if not entries:
        return
    # A whole data set and Random have settings of their own in some studies.
    usual = min(entries, key=lambda entry: (entry.set_folder is None, entry.file == entry.reference))
    rows: dict[str, dict[str, list[str]]] = {}  # by training and evaluation: who has it
    for entry in entries:
        training = reports[entry.file]["description"].rpartition(";")[0]
        found = rows.setdefault(training, {}).setdefault(entry.evaluation, [])
        if entry.row not in found:
            found.append(entry.row)
    common = reports[usual.file]["description"].rpartition(";")[0]
    yield f"Trained on a set: {common}."
    labels = {row["key"]: row["label"] for row in index.rows}
    for training, evaluations in rows.items():
        names = []
        for evaluation, keys in evaluations.items():
            everyone = {entry.row for entry in entries if entry.evaluation == evaluation}
            if evaluation and set(keys) == everyone:
                names.append(evaluation)
            else:
                names += [", ".join(filter(None, [labels[key], evaluation])) for key in keys]
        if training != common:
            yield f"{'; '.join(names)}: {training}."
