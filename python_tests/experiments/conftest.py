"""A grid and a tuning on toy data, for the tests that read them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from small_studies import STUDY, run
from toy_data import toy_domains, write_npz
from tuning_cases import STUDY as TUNED

from dgdd_fast.experiments.grid import Workers
from dgdd_fast.experiments.study import Study
from dgdd_fast.experiments.tune import Trials, tune


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains as .npz files: 3 classes of 9 + 3 images of 16 px each."""
    folder = tmp_path_factory.mktemp("toy")
    write_npz(toy_domains(), folder)
    return folder


@pytest.fixture(scope="module")
def finished(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of STUDY on the toy data, carried out in this process."""
    folder = tmp_path_factory.mktemp("grid")
    outcome = run(dataclasses.replace(STUDY, data=str(data_folder)), folder)
    assert outcome.failures == {}
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("toy")
    write_npz(toy_domains(domains=4), folder)
    return dataclasses.replace(TUNED, data=str(folder))


@pytest.fixture(scope="module")
def tuned(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trials]:
    folder = tmp_path_factory.mktemp("tuning")
    found, outcome = tune(study, folder, Workers(), lambda report: None)
    assert outcome.failures == {}
    return folder, found
