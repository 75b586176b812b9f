"""The studies that come with the package: the grids behind the tables and figures of the two papers."""

from __future__ import annotations

import dataclasses
from importlib.resources import as_file, files
from typing import Any

from ..config import merged
from ..data.embedded_digits import DOMAINS
from ..data.load import EMBEDDED_DIGITS
from .study import Study, read_study

# What `--scale small` makes of a study: every row and column, at settings that say nothing about accuracy.
SMALL_RESOLUTION = 32
SMALL_IPC = 2
SMALL_DISTILL = {"iterations": 10, "batch_real": 8, "herding_epochs": 2, "network": {"width": 16}}
SMALL_PRETRAIN = {"experts": 1, "epochs": 1, "network": {"width": 8}}
SMALL_EVALUATE = {"runs": 1, "epochs": 2, "network": {"width": 8}}


def builtin_names() -> list[str]:
    """The names of all studies of the package."""
    folder = files(__package__) / "studies"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def builtin_study(name: str) -> Study:
    """The study `name` of the package, at the papers' settings; its `data` name the benchmark.

    Raises ValueError for an unknown name.
    """
    if name not in builtin_names():
        raise ValueError(f"there is no file and no study {name}; dgdd studies lists those of the package")
    with as_file(files(__package__) / "studies" / f"{name}.yaml") as path:
        return read_study(path)


def small(study: Study, data: str | None) -> Study:
    """The study at a size meant for two CPU cores, to see that all of it works.

    Args:
        data: those to take; None takes the embedded digits, with as many targets as the study names.
    """
    used = data or EMBEDDED_DIGITS
    named = used != EMBEDDED_DIGITS  # whether the study's names are those of the data
    targets = study.targets if named else study.targets and DOMAINS[: len(study.targets)]
    return dataclasses.replace(
        study,
        title=f"{study.title or study.data}, small scale on {used}: not for comparison",
        data=used,
        domains=study.domains if named else None,
        classes=study.classes if named else None,
        resolution=SMALL_RESOLUTION,
        targets=targets,
        ipc=tuple(SMALL_IPC * (place + 1) for place in range(len(study.ipc))),
        seeds=study.seeds[:1],
        distill=merged(study.distill, SMALL_DISTILL),
        pretrain=merged(study.pretrain, SMALL_PRETRAIN),
        evaluate=merged(study.evaluate, SMALL_EVALUATE),
        sweeps={setting: _ends(values) for setting, values in study.sweeps.items()},
        published=(),
        tune=dataclasses.replace(study.tune, trials=2, seeds=study.tune.seeds[:1]),
    )


def _ends(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return values if len(values) < 3 else (values[0], values[-1])
