"""What studies found, seed by seed: from the folder of a grid to bench/results, and from there to tables and
to differences with their intervals."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dgdd_fast.analysis.paired import Difference, paired_difference
from dgdd_fast.config import method_label, to_dict

ROOT = Path(__file__).resolve().parent.parent
RESULTS, STUDIES = ROOT / "bench" / "results", ROOT / "bench" / "studies"
SUFFIX = "_by_seed.json"
_KEPT = ("Accuracy in %", "Trained on", "Settings chosen")  # of a table's notes
DERIVED = ("average", "over Random", "overhead")  # columns that are no domain held out


class Comparison(NamedTuple):
    """A question to a study: `row` minus the best of `others` on that domain, by the rows' keys."""

    says: str
    row: str
    others: tuple[str, ...]


_RATES = ("dm", "dm, rate 1.85", "dm, rate 4")
_WHOLE = ("random", "dm", "dm+sgs", "m3d", "hdd+sgs")
COMPARISONS = (
    Comparison("DM+SGS minus DM, both at the default rate", "dm+sgs", ("dm",)),
    Comparison("DM+SGS minus DM at whichever of its rates does best there", "dm+sgs", _RATES),
    Comparison("DM+SGS minus DM at the rate that makes its steps as long", "dm+sgs", _RATES[1:2]),
    Comparison("DM+SGS with steps as long as DM's minus DM", "dm+sgs, dm's length", ("dm",)),
    Comparison("Random in mosaics minus Random", "random, mosaics", ("random",)),
    Comparison("DM in mosaics minus Random in mosaics", "dm, mosaics", ("random, mosaics",)),
    Comparison("DM in mosaics minus DM", "dm, mosaics", ("dm",)),
    Comparison("DM+SGS in mosaics minus DM in mosaics", "dm+sgs, mosaics", ("dm, mosaics",)),
    Comparison("M3D in mosaics minus DM in mosaics", "m3d, mosaics", ("dm, mosaics",)),
    Comparison("RDED minus Random in mosaics", "rded", ("random, mosaics",)),
    Comparison("RDED, as many crops of each domain, minus RDED of any", "rded", ("rded, any domain",)),
    Comparison("DM in mosaics minus RDED", "dm, mosaics", ("rded",)),
    Comparison("DM in mosaics minus the best without mosaics there", "dm, mosaics", _WHOLE),
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
    everything = dataclasses.replace(study, data=there.data, targets=None, tuned=there.tuned)
    index = planned_index(folder, everything)
    content = json.loads(format_table(result_table(index), "json"))
    found = [row for rows in content["blocks"].values() for row in rows if any(row["accuracy"].values())]
    if not found:
        raise ValueError(f"{folder} has no evaluation of {name}.yaml: is it of these settings and data?")
    path = RESULTS / f"{name}{SUFFIX}"
    path.write_text(
        json.dumps({"study": f"bench/studies/{name}.yaml", "settings": to_dict(study), **content}, indent=1)
        + "\n"
    )
    return path


def results(prefix: str) -> list[dict[str, Any]]:
    """What was taken of the studies whose name begins with `prefix`."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{prefix}*{SUFFIX}"))]


def report(content: dict[str, Any]) -> str:
    """The table of a study, a line on how it came about, and its differences with their intervals."""
    lines = []
    for ipc, rows in content["blocks"].items():
        columns = [name for name in content["columns"] if any(row["accuracy"].get(name) for row in rows)]
        columns = [name for name in columns if name not in DERIVED]
        cells = [[_label(row), *(_cell(row["accuracy"].get(name, {})) for name in columns)] for row in rows]
        head = [f"{content['title']}: {ipc} per class", *(f"held out: {name}" for name in columns)]
        lines += [
            "| " + " | ".join(line) + " |" for line in (head, ["---", *["---:"] * len(columns)], *cells)
        ]
        lines.append("")
        for name in columns:
            told = list(_told({row["key"]: _by_seed(row, name) for row in rows}))
            if told:
                lines += [
                    f"On {name}, by seed, with 95 % intervals:",
                    "",
                    *(f"* {line}" for line in told),
                    "",
                ]
    notes = [note for note in content["notes"] if note.startswith(_KEPT)]
    return "\n".join([*lines, f"{_protocol(content)} {' '.join(notes)}"])


def _protocol(content: dict[str, Any]) -> str:
    distill, evaluate = content["settings"]["distill"], content["settings"]["evaluate"]
    return (
        f"`{content['study']}`: {distill.get('iterations', 20_000)} iterations; mean and standard deviation "
        f"over the seeds done so far, their number in brackets, each a distillation and the mean of "
        f"{evaluate.get('runs', 1)} trainings."
    )


def _told(rows: dict[str, dict[int, float]]) -> Sequence[str]:
    """The answers that the rows of a column allow."""
    lines = []
    for says, row, others in COMPARISONS:
        there = [key for key in others if rows.get(key)]
        if not rows.get(row) or not there:
            continue
        shared = set(rows[row]).intersection(*(rows[key] for key in there))
        if not shared:
            continue
        other = max(there, key=lambda key: statistics.fmean(rows[key][seed] for seed in shared))
        kept = {key: {seed: rows[key][seed] for seed in shared} for key in (row, other)}
        found = paired_difference(kept[row], kept[other])
        if found is not None:
            best = f" ({other})" if len(others) > 1 else ""
            lines.append(f"{says}{best}: {_shown(found)}.")
    return lines


def _shown(found: Difference) -> str:
    if found.pairs == 1:
        return f"{found.mean:+.1f} with one seed, so no interval"
    text = f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f}, {found.pairs} seeds)"
    return text if found.low > 0 or found.high < 0 else f"{text}, which does not tell them apart"


def _label(row: dict[str, Any]) -> str:
    """A row that its study names "dm, how" as "DM, how"."""
    name, comma, how = row["key"].partition(",")
    return f"{method_label(name)}{comma}{how}" if row["label"] == row["key"] else str(row["label"])


def _by_seed(row: dict[str, Any], column: str) -> dict[int, float]:
    return {int(seed): value for seed, value in row["accuracy"].get(column, {}).items()}


def _cell(by_seed: dict[str, float]) -> str:
    values = list(by_seed.values())
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread} ({len(values)})"
