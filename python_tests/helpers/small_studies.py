"""Studies that take a moment, and how they are carried out."""

from __future__ import annotations

import json
from pathlib import Path

from dgdd_fast.experiments.grid import INDEX_NAME, GridOutcome, Workers, run_grid
from dgdd_fast.experiments.study import (
    MethodEntry,
    Study,
)

TINY = {"iterations": 2, "batch_real": 4, "image_lr": 0.2, "network": {"width": 4}}


QUICK = {"epochs": 2}


STUDY = Study(ipc=(3,), seeds=(0, 1), distill=TINY, evaluate=QUICK, targets=("domain0", "domain1"))


def run(
    study: Study,
    folder: Path,
    workers: Workers = Workers(),  # noqa: B008
    name: str = INDEX_NAME,
) -> GridOutcome:
    return run_grid(study, folder, workers, lambda report: None, name)


def accuracies(folder: Path) -> dict[str, dict[str, list[float]]]:
    """The accuracies of every evaluation in the folder of a grid, without what differs from run to run."""
    return {
        f"{path.parent.name}/{path.name}": json.loads(path.read_text())["accuracies"]
        for path in sorted(folder.glob("jobs/*/evaluation-*.json"))
    }


EXPERTS = Study(
    methods=(
        MethodEntry("mmd", pretrain={"reversal_weight": 0}),
        MethodEntry("cadm"),
        MethodEntry("cadm", "gentle", distill={"masks": {"consistency_weight": 1}}),
    ),
    targets=("domain0",),
    ipc=(2,),
    seeds=(0,),
    distill={"iterations": 1, "batch_real": 3, "network": {"width": 3}},
    pretrain={"experts": 1, "epochs": 1, "network": {"width": 2}},
    evaluate={"epochs": 1},
)
