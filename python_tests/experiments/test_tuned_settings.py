"""Settings that a tuning chose: who takes them, and where they are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from toy_data import toy_domains
from tuning_cases import SETTINGS

from dgdd_fast.data import DomainDataset
from dgdd_fast.experiments.grid import Workers, load_data, run_grid
from dgdd_fast.experiments.plan import plan
from dgdd_fast.experiments.study import MethodEntry, Study, TuneConfig, rows_of
from dgdd_fast.experiments.tune import Trials, tune
from dgdd_fast.experiments.tuned_settings import (
    TUNING_NAME,
    TunedColumn,
    TunedSettings,
    apply_tuned,
    read_tuned_settings,
)


def test_a_grid_takes_the_choice_for_each_column(study: Study, tuned: tuple[Path, Trials]) -> None:
    folder, _ = tuned
    choices = read_tuned_settings(folder)
    choices.columns["domain0"].rows["dm+sgs"][2]["distill.surgery.alpha"] = 1.75
    grid = plan(study, load_data(study), choices)
    alphas = {
        job.run.target: job.run.distill.surgery.alpha
        for job in grid.jobs
        if job.run.distill.surgery is not None
    }
    assert alphas["domain0"] == 1.75
    assert alphas["domain1"] == choices.columns["domain1"].rows["dm+sgs"][2]["distill.surgery.alpha"]
    assert {job.run.distill.image_lr for job in grid.jobs if "random" in job.name} == {1.0}
    taken = dataclasses.replace(study, tuned=str(folder))
    assert run_grid(taken, folder, Workers(), lambda report: None).failures == {}


def test_a_sweep_keeps_its_value_and_takes_the_rest() -> None:
    row = rows_of(Study(sweeps={"distill.surgery.alpha": (5,)}))[-1]
    settings = {"distill.surgery.alpha": 2.0, "distill.surgery.beta": 0.7}
    found = apply_tuned(row, choices_of("dm+sgs", settings), "street", 10)
    assert (found.distill.surgery.alpha, found.distill.surgery.beta) == (5, 0.7)


def test_what_an_entry_sets_itself_is_neither_tuned_nor_taken_from_a_choice(
    study: Study, tmp_path: Path
) -> None:
    alone = MethodEntry("dm+sgs", "g_cls", distill={"surgery": {"union": False, "alpha": 3.0}})
    one = dataclasses.replace(
        study, methods=(alone,), targets=("domain0",), tune=TuneConfig(2, settings=SETTINGS)
    )
    found, _ = tune(one, tmp_path, Workers(), lambda report: None)
    assert {name for trial in found["domain0"]["g_cls"][2] for name in trial.settings} == {"distill.image_lr"}
    (row,) = (row for row in rows_of(one) if row.key == "g_cls")
    taken = apply_tuned(
        row, choices_of("g_cls", {"distill.surgery.alpha": 9.0, "distill.image_lr": 4.0}), "street", 10
    )
    assert (taken.distill.surgery.alpha, taken.distill.image_lr) == (3.0, 4.0)


def test_a_choice_is_refused_where_it_was_made_for_something_else(
    study: Study, tuned: tuple[Path, Trials], tmp_path: Path
) -> None:
    folder, _ = tuned
    choices = read_tuned_settings(folder)

    def refused(message: str, data: DomainDataset, **changes: object) -> None:
        with pytest.raises(ValueError, match=message):
            plan(dataclasses.replace(study, **changes), data, choices)  # type: ignore[arg-type]

    data = load_data(study)
    for protocol in ("single-source", "in-distribution"):
        refused(f"for the protocol leave-one-out, but this study has {protocol}", data, protocol=protocol)
    fewer = data.only_domains(["domain0", "domain1", "domain2"])
    refused(
        "for domain0 on the sources domain1, domain2, domain3, but this study has domain1, domain2;", fewer
    )
    refused("for images of 16 x 16 px, but this study has 8 x 8 px", toy_domains(domains=4, side=8))
    images = data.images.clone()
    images[data.domains == 3] += 1
    refused("domain0 were tuned on other images of domain3", dataclasses.replace(data, images=images))
    images = data.images.clone()
    images[data.domains == 0] += 1  # the target took no part
    one = dataclasses.replace(study, targets=("domain0",))
    assert plan(one, dataclasses.replace(data, images=images), choices).jobs


def test_a_choice_of_an_older_version_must_be_made_anew(tmp_path: Path) -> None:
    columns = {"street": {"dm": {"10": {"settings": {}, "accuracy": 1.0, "trials": []}}}}
    (tmp_path / TUNING_NAME).write_text(json.dumps({"trials": 1, "seeds": [0], "columns": columns}))
    with pytest.raises(ValueError, match=r"an older version wrote it.*make it anew with dgdd tune"):
        read_tuned_settings(tmp_path)


def choices_of(row: str, settings: dict[str, float]) -> TunedSettings:
    """For the column street and 10 images per class."""
    return TunedSettings("leave-one-out", (16, 16), {"street": TunedColumn({}, {row: {10: settings}})})


@pytest.mark.parametrize(("column", "ipc"), [("moon", 10), ("street", 20)])
def test_a_column_or_budget_without_a_choice_is_named(column: str, ipc: int) -> None:
    row = next(row for row in rows_of(Study()) if row.key == "dm")
    with pytest.raises(ValueError, match=f"nothing was tuned for dm, {ipc} images per class, {column}"):
        apply_tuned(row, choices_of("dm", {}), column, ipc)
