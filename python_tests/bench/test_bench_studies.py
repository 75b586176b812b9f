"""The studies of the benchmarks: that each of them can be run, on domains of the names that it gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from toy_data import toy_domains

from dgdd_fast.data.benchmarks import BENCHMARKS
from dgdd_fast.experiments.plan import plan
from dgdd_fast.experiments.study import read_study, rows_of

STUDIES = sorted((Path(__file__).parents[2] / "bench" / "studies").glob("*.yaml"))
DOMAINS = {benchmark.name: benchmark.domains for benchmark in BENCHMARKS}


@pytest.mark.parametrize("path", STUDIES, ids=[path.stem for path in STUDIES])
def test_a_study_has_every_row_at_every_target_budget_and_seed(path: Path) -> None:
    study = read_study(path)
    names = study.domains or DOMAINS[study.data]
    assert study.resolution is not None
    data = toy_domains(per_cell=4, domains=len(names), side=study.resolution)
    grid = plan(study, dataclasses.replace(data, domain_names=tuple(names)))
    targets = study.targets or names
    count = len(rows_of(study)) * len(targets) * len(study.ipc) * len(study.seeds)
    assert len(grid.entries) == count
    assert len({entry.file for entry in grid.entries}) == len(grid.entries)  # no row is another's double
    assert f"dgdd grid bench/studies/{path.name} --data {study.data} --out grids/" in path.read_text()
