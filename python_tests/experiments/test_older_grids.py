"""Grids written while the folder of the jobs was called cells/: read where they lie, and gone on with."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from small_studies import run

from dgdd_fast.experiments.grid import read_index
from dgdd_fast.experiments.study import MethodEntry, Study
from dgdd_fast.report.table import result_table

STUDY = Study(
    methods=(MethodEntry("random"), MethodEntry("dm")),
    targets=("domain0",),
    ipc=(1,),
    seeds=(0,),
    distill={"iterations": 1, "batch_real": 2, "network": {"width": 2}},
    evaluate={"epochs": 1},
)


@pytest.fixture(scope="module")
def study(data_folder: Path) -> Study:
    return dataclasses.replace(STUDY, data=str(data_folder))


@pytest.fixture(scope="module")
def newer(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    assert run(study, folder).failures == {}
    return folder


@pytest.fixture
def older(newer: Path, tmp_path: Path) -> Path:
    """The grid as it used to be written: other names of the folder and of two keys, and no checksums."""
    folder = Path(shutil.copytree(newer, tmp_path / "older"))
    (folder / "jobs").rename(folder / "cells")
    index = json.loads((folder / "grid.json").read_text().replace('"jobs/', '"cells/'))
    index["cells"] = index.pop("entries")
    del index["sha256"]
    (folder / "grid.json").write_text(json.dumps(index))
    for path in folder.glob("cells/*/evaluation-*.json"):
        report = json.loads(path.read_text())
        report["protocol"] = report.pop("description")
        del report["sha256"]
        path.write_text(json.dumps(report))
    return folder


def test_an_older_grid_is_read_where_it_lies(older: Path, newer: Path) -> None:
    before = sorted(older.rglob("*"))
    assert result_table(read_index(older)) == result_table(read_index(newer))
    assert sorted(older.rglob("*")) == before


def test_an_older_grid_goes_on(older: Path, newer: Path, study: Study) -> None:
    left = next(older.glob("cells/*-dm-*"))
    next(left.glob("evaluation-*")).unlink()
    images = (left / "distilled.safetensors").stat().st_mtime_ns
    outcome = run(study, older)
    assert outcome.computed == [left.name]
    assert not (older / "cells").exists()
    assert (older / "jobs" / left.name / "distilled.safetensors").stat().st_mtime_ns == images
    assert read_index(older).entries == read_index(newer).entries


def test_another_study_of_the_folder_keeps_its_numbers(older: Path, newer: Path, study: Study) -> None:
    run(dataclasses.replace(study, ipc=(2,)), older, name="other")
    assert (older / "jobs").exists()
    assert result_table(read_index(older)) == result_table(read_index(newer))


def test_what_an_older_version_adds_later_is_found_too(older: Path, study: Study) -> None:
    run(study, older)
    late = next(older.glob("jobs/*-dm-*"))
    (older / "cells").mkdir()
    late.rename(older / "cells" / late.name)
    assert run(study, older).computed == []
    assert not (older / "cells").exists()
