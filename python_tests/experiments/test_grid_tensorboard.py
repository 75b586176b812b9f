"""Jobs of a grid that are to be watched in TensorBoard."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from small_studies import EXPERTS

from dgdd_fast.experiments.grid import Workers, run_grid
from dgdd_fast.experiments.study import MethodEntry

Logged = list[tuple[str, str, int]]  # the folder, what, and at which step


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Logged:
    """What a stand-in for TensorBoard is given."""
    calls: Logged = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            self.folder = folder
            calls.append((folder, "begun", purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((self.folder, name, step))

        def add_image(self, name: str, pixels: Any, step: int, dataformats: str) -> None:
            calls.append((self.folder, name, step))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            calls.append((self.folder, "closed", 0))

    module: Any = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return calls


def test_jobs_are_logged_in_their_folders(data_folder: Path, tmp_path: Path, logged: Logged) -> None:
    study = dataclasses.replace(EXPERTS, data=str(data_folder), methods=(MethodEntry("mmd"),))
    outcome = run_grid(study, tmp_path, Workers(), lambda report: None, tensorboard=True)
    assert outcome.failures == {}
    (pool,) = (tmp_path / "experts").iterdir()
    (job,) = (tmp_path / "jobs").glob("*-mmd-*")
    experts, run = str(pool / "tensorboard"), str(job / "tensorboard")
    assert {folder for folder, _, _ in logged} == {experts, run}  # nothing is learnt for Random
    assert [call for call in logged if call[1] in ("begun", "closed")] == [
        (experts, "begun", 1), (experts, "closed", 0), (run, "begun", 1), (run, "closed", 0),
    ]  # fmt: skip
    assert (experts, "expert 1/class loss", 1) in logged
    assert {(run, "loss", 1), (run, "images", 1)} <= set(logged)
    again = len(logged)
    assert run_grid(study, tmp_path, Workers(), lambda report: None, tensorboard=True).computed == []
    assert len(logged) == again
