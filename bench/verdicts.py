"""What studies found, seed by seed: from the folder of a grid to bench/results, and from there to tables and
to differences with their intervals."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dgdd_fast.analysis.paired import Difference, paired_difference
from dgdd_fast.config import method_label, to_dict

if TYPE_CHECKING:
    from dgdd_fast.experiments.grid import GridIndex

ROOT = Path(__file__).resolve().parent.parent
RESULTS, STUDIES = ROOT / "bench" / "results", ROOT / "bench" / "studies"
SUFFIX = "_by_seed.json"
_KEPT = ("Accuracy in %", "Trained on", "Soft labels", "Settings chosen")  # of a table's notes
DERIVED = ("average", "over Random", "overhead")  # columns that are no domain held out
LEAST_SEEDS = 3  # of all rows of a domain, for the README to show it
PARTS = 10  # of a distillation, whose mean losses are kept

# Where no study has enough seeds yet.
BEFORE = (
    "Of three seeds at DM's default learning rate SGS was ahead in each, which its interval does not "
    "confirm; where the settings of both were tuned without the target, DM took a larger rate and came "
    "level. Not measured yet with more seeds: SGS against DM at steps of equal length "
    "(`bench/studies/verdict_sgs_digits.yaml`), and which objective, with or without mosaics, gains most in "
    "the same storage (`bench/studies/recipes_*.yaml`)."
)
NONE = "None of these studies has a seed yet."

# By row and seed.
Rows = dict[str, dict[int, float]]


class Comparison(NamedTuple):
    """A question to a study: `row` minus the best of `others` on that domain, by the rows' keys. Those that
    are `main` stand in the README."""

    says: str
    row: str
    others: tuple[str, ...]
    main: bool = True


_RATES = ("dm", "dm, rate 1.85", "dm, rate 4")
_WHOLE = ("random", "dm", "dm+sgs", "m3d")
COMPARISONS = (
    Comparison("DM+SGS minus DM, both at the default rate", "dm+sgs", ("dm",)),
    Comparison("DM+SGS minus DM at whichever of its rates does best there", "dm+sgs", _RATES),
    Comparison("DM+SGS minus DM at the rate that makes its steps as long", "dm+sgs", _RATES[1:2], main=False),
    Comparison("DM+SGS with steps as long as DM's minus DM", "dm+sgs, dm's length", ("dm",)),
    Comparison(
        "DM+SGS with steps as long as DM's minus DM at whichever of its rates does best there",
        "dm+sgs, dm's length",
        _RATES,
        main=False,
    ),
    Comparison("Random in mosaics minus Random", "random, mosaics", ("random",)),
    Comparison("DM minus Random in mosaics", "dm", ("random, mosaics",)),
    Comparison("DM+SGS minus Random in mosaics", "dm+sgs", ("random, mosaics",)),
    Comparison("DM in mosaics minus Random in mosaics", "dm, mosaics", ("random, mosaics",)),
    Comparison("DM in mosaics minus DM", "dm, mosaics", ("dm",)),
    Comparison("DM+SGS in mosaics minus DM in mosaics", "dm+sgs, mosaics", ("dm, mosaics",)),
    Comparison("M3D in mosaics minus DM in mosaics", "m3d, mosaics", ("dm, mosaics",)),
    Comparison("RDED minus Random in mosaics", "rded", ("random, mosaics",)),
    Comparison("RDED, as many crops of each domain, minus RDED of any", "rded", ("rded, any domain",)),
    Comparison("RDED with soft labels minus RDED", "rded+soft", ("rded",)),
    Comparison("DM in mosaics minus RDED", "dm, mosaics", ("rded",)),
    Comparison("DM in mosaics minus the best without mosaics there", "dm, mosaics", _WHOLE, main=False),
)


def take(name: str, folder: Path) -> Path:
    """Write what the grid in `folder` has of the study bench/studies/NAME.yaml, of all its seeds and whatever
    domain was held out, and return the file. Nothing is computed.

    Raises ValueError or OSError where there is no such grid or study.
    """
    from dgdd_fast.experiments.grid import planned_index, read_index
    from dgdd_fast.experiments.study import read_study
    from dgdd_fast.report.table import result_table
    from dgdd_fast.report.table_formats import format_table

    there = read_index(folder).study
    study = read_study(STUDIES / f"{name}.yaml")
    tuned = {} if there.tuned is None else chosen(Path(there.tuned))
    targets = tuple(tuned) or None  # of others nothing is known where settings were tuned
    everything = dataclasses.replace(study, data=there.data, targets=targets, tuned=there.tuned)
    index = planned_index(folder, everything)
    content = json.loads(format_table(result_table(index), "json"))
    found = [row for rows in content["blocks"].values() for row in rows if any(row["accuracy"].values())]
    if not found:
        raise ValueError(f"{folder} has no evaluation of {name}.yaml: is it of these settings and data?")
    path = RESULTS / f"{name}{SUFFIX}"
    told = {
        "study": f"bench/studies/{name}.yaml",
        "settings": to_dict(study),
        **content,
        "losses": losses(index),
        "chosen": tuned,
    }
    path.write_text(json.dumps(told, indent=1) + "\n")
    return path


def losses(index: GridIndex) -> dict[str, dict[str, dict[int, list[float]]]]:
    """The mean loss in each tenth of the iterations of every distillation that is done and evaluated, by
    column, row and seed."""
    from dgdd_fast.config.run import LOSSES_NAME
    from dgdd_fast.synthetic.losses_file import read_losses

    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for entry in index.entries:
        path = index.folder / (entry.set_folder or "") / LOSSES_NAME
        if entry.set_folder is None or not path.exists() or index.evaluation(entry.file) is None:
            continue
        values = read_losses(path)["loss"]
        ends = [len(values) * part // PARTS for part in range(PARTS + 1)]
        if ends[1] == 0:  # fewer iterations than parts
            continue
        means = [round(statistics.fmean(values[first:last]), 4) for first, last in itertools.pairwise(ends)]
        found.setdefault(entry.column, {}).setdefault(entry.row, {})[entry.seed] = means
    return found


def chosen(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """What `dgdd tune` chose, by column and row: the settings, and the accuracy on the sources left out."""
    from dgdd_fast.experiments.tuned_settings import TUNING_NAME
    from dgdd_fast.json_text import read_json

    return {
        column: {
            row: {
                ipc: {name: found[name] for name in ("settings", "accuracy")}
                for ipc, found in budgets.items()
            }
            for row, budgets in tuned["rows"].items()
        }
        for column, tuned in read_json(folder / TUNING_NAME)["columns"].items()
    }


def results(prefix: str) -> list[dict[str, Any]]:
    """What was taken of the studies whose name begins with `prefix`."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{prefix}*{SUFFIX}"))]


def report(content: dict[str, Any]) -> str:
    """The table of a study, a line on how it came about, and its differences with their intervals."""
    lines = []
    for ipc, rows in content["blocks"].items():
        columns = [name for name in _columns(content) if any(row["accuracy"].get(name) for row in rows)]
        cells = [[_label(row), *(_cell(row["accuracy"].get(name, {})) for name in columns)] for row in rows]
        head = [f"{content['title']}: {ipc} per class", *(f"held out: {name}" for name in columns)]
        lines += [*_table(head, cells), ""]
        for name in columns:
            told = [f"{says}: {shown(found)}." for says, found in _told(_by_seed(rows, name))]
            told += [*_of_sources(content, ipc, name), *_of_losses(content, name)]
            if told:
                lines += [
                    f"On {name}, by seed, with 95 % intervals:",
                    "",
                    *(f"* {line}" for line in told),
                    "",
                ]
    notes = [note for note in content["notes"] if note.startswith(_KEPT)]
    return "\n".join([*lines, f"{_protocol(content)} {' '.join(notes)}"])


def summary(contents: Iterable[dict[str, Any]]) -> str:
    """For the README: a table for all studies of the same rows, with the domains of which at least
    `LEAST_SEEDS` seeds of every row are done, those seeds alone, and a paragraph on what they tell apart.
    Empty where there is no such domain."""
    groups: dict[tuple[str, ...], list[tuple[dict[str, Any], str, Rows]]] = {}
    labels: dict[str, str] = {}
    for content in contents:
        for rows in content["blocks"].values():
            keys = tuple(row["key"] for row in rows)
            labels |= {row["key"]: _label(row) for row in rows}
            for column in _columns(content):
                by_seed = _by_seed(rows, column)
                seeds = set.intersection(*(set(values) for values in by_seed.values()))
                if len(seeds) >= LEAST_SEEDS:
                    whole = {key: {seed: by_seed[key][seed] for seed in sorted(seeds)} for key in keys}
                    groups.setdefault(keys, []).append((content, column, whole))
    parts = []
    for keys, there in groups.items():
        head = ["held out", *(f"{_data(content)}: {column}" for content, column, _ in there)]
        cells = [[labels[key], *(_mean_and_std(rows[key].values()) for _, _, rows in there)] for key in keys]
        parts.append("\n".join(_table(head, cells)))
        parts.append(" ".join(_verdict(content, column, rows) for content, column, rows in there))
        protocols = dict.fromkeys(_short_protocol(content) for content, _, _ in there)
        soft = [note for note in there[0][0]["notes"] if note.startswith("Soft labels")]
        parts.append(" ".join([*protocols, *soft]))
    return "\n\n".join(parts)


def demo(content: dict[str, Any]) -> str:
    """What `dgdd demo` found, and its differences seed by seed."""
    from dgdd_fast.commands.demo import QUESTIONS

    accuracies = {name: found["accuracies"] for name, found in content["results"].items()}
    tests = list(next(iter(accuracies.values())))
    labels = {name: row_label(name) for name in accuracies}
    cells = [
        [labels[name], *(_mean_and_std(found[test]["runs"]) for test in tests)]
        for name, found in accuracies.items()
    ]
    distill, seeds = content["config"]["distill"], content["config"]["seeds"]
    lines = [
        *_table(["%", *tests], cells),
        "",
        f"{distill['ipc']} images per class, {distill['iterations']} iterations; mean and standard deviation "
        f"over {len(seeds)} seeds, each a distillation and a training. On {tests[0]}, by seed, with 95 % "
        "intervals:",
        "",
    ]
    by_seed = {name: dict(enumerate(found[tests[0]]["runs"])) for name, found in accuracies.items()}
    for name, other in QUESTIONS:
        if name in by_seed and other in by_seed:
            found = paired_difference(by_seed[name], by_seed[other])
            lines.append(f"* {labels[name]} minus {labels[other]}: {shown(found)}.")
    return "\n".join(lines)


def _verdict(content: dict[str, Any], column: str, rows: Rows) -> str:
    """What the differences of a domain say, in sentences: what is ahead, behind, not told apart."""
    kinds: dict[str, list[str]] = {"Ahead": [], "Behind": [], "Not told apart": []}
    for says, found in _told(rows, main=True):
        kind = "Ahead" if found.low > 0 else "Behind" if found.high < 0 else "Not told apart"
        kinds[kind].append(f"{says} {found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})")
    seeds = len(next(iter(rows.values())))
    told = [f"{kind}: {'; '.join(texts)}." for kind, texts in kinds.items() if texts]
    told += _of_losses(content, column, whole=False)
    return " ".join([f"**{_data(content)}, {column}**, differences over {seeds} paired seeds.", *told])


def _columns(content: dict[str, Any]) -> list[str]:
    """The domains that were held out."""
    return [name for name in content["columns"] if name not in DERIVED]


def _data(content: dict[str, Any]) -> str:
    return str(content["settings"].get("data", content["title"]))


def _short_protocol(content: dict[str, Any]) -> str:
    settings = content["settings"]
    distill, evaluate = settings["distill"], settings["evaluate"]
    tuned = ", image learning rates chosen on the source domains" if content.get("chosen") else ""
    return (
        f"`{content['study']}`: {settings['resolution']} px, {', '.join(content['blocks'])} images per "
        f"class, {distill.get('iterations', 20_000):,} iterations (the papers: 20,000){tuned}; mean and "
        f"standard deviation over seeds, each a distillation and the mean of {evaluate.get('runs', 1)} "
        "trainings."
    )


def _protocol(content: dict[str, Any]) -> str:
    distill, evaluate = content["settings"]["distill"], content["settings"]["evaluate"]
    return (
        f"`{content['study']}`: {distill.get('iterations', 20_000)} iterations; mean and standard deviation "
        f"over the seeds done so far, their number in brackets, each a distillation and the mean of "
        f"{evaluate.get('runs', 1)} trainings."
    )


def _told(rows: Rows, main: bool = False) -> Iterator[tuple[str, Difference]]:
    """The answers that the rows of a column allow; with `main`, to the questions of the README."""
    for comparison in COMPARISONS:
        row, others = comparison.row, [key for key in comparison.others if rows.get(key)]
        if not rows.get(row) or not others or (main and not comparison.main):
            continue
        shared = set(rows[row]).intersection(*(rows[key] for key in others))
        if not shared:
            continue
        other = max(others, key=lambda key: statistics.fmean(rows[key][seed] for seed in shared))
        kept = {key: {seed: rows[key][seed] for seed in shared} for key in (row, other)}
        found = paired_difference(kept[row], kept[other])
        if found is not None:
            yield comparison.says + (f" ({other})" if len(comparison.others) > 1 else ""), found


def _of_sources(content: dict[str, Any], ipc: str, column: str) -> Iterator[str]:
    """Which row the sources chose, and its settings: those with the highest accuracy on sources left out."""
    rows = {row: budgets[ipc] for row, budgets in content.get("chosen", {}).get(column, {}).items()}
    if not rows:
        return
    best = max(rows, key=lambda row: rows[row]["accuracy"])
    settings = ", ".join(f"{name} {value:g}" for name, value in rows[best]["settings"].items())
    others = ", ".join(f"{row} {rows[row]['accuracy']:.1f}" for row in rows)
    yield f"Of the distillations the sources, one left out at a time, choose {best} ({settings}): {others}."


def _of_losses(content: dict[str, Any], column: str, whole: bool = True) -> Iterator[str]:
    """How far DM's loss was from its end: in every tenth, or unless `whole` in the first and the last two."""
    by_seed = content.get("losses", {}).get(column, {}).get("dm")
    if not by_seed:
        return
    parts = [statistics.fmean(part) for part in zip(*by_seed.values(), strict=True)]
    change = 100 * (parts[-1] / parts[-2] - 1)
    which = "each" if whole else "the first and the last two"
    means = ", ".join(f"{part:.2f}" for part in (parts if whole else (parts[0], *parts[-2:])))
    count = f"{len(by_seed)} seed{'' if len(by_seed) == 1 else 's'}"
    yield (
        f"DM's loss, mean in {which} tenth{'' if whole else 's'} of the iterations, {count}: {means}; "
        f"{change:+.1f} % from the last tenth but one to the last."
    )


def shown(found: Difference) -> str:
    """With its interval, and whether that tells the two apart."""
    if found.pairs == 1:
        return f"{found.mean:+.1f} with one seed, so no interval"
    text = f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f}, {found.pairs} seeds)"
    return text if found.low > 0 or found.high < 0 else f"{text}, which does not tell them apart"


def _label(row: dict[str, Any]) -> str:
    """A row that its study names "dm, how" as "DM, how"."""
    return row_label(row["key"]) if row["label"] == row["key"] else str(row["label"])


def row_label(key: str) -> str:
    """The row "dm, how" as "DM, how"."""
    name, comma, how = key.partition(",")
    return f"{method_label(name)}{comma}{how}"


def _by_seed(rows: Iterable[dict[str, Any]], column: str) -> Rows:
    return {
        row["key"]: {int(seed): value for seed, value in row["accuracy"].get(column, {}).items()}
        for row in rows
    }


def _cell(by_seed: dict[str, float]) -> str:
    return f"{_mean_and_std(by_seed.values())} ({len(by_seed)})" if by_seed else "–"


def _mean_and_std(values: Iterable[float]) -> str:
    values = list(values)
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def _table(head: list[str], cells: list[list[str]]) -> list[str]:
    """The lines of a Markdown table whose first column is text."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *cells]
    return ["| " + " | ".join(row) + " |" for row in rows]
