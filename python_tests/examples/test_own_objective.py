"""Objectives, networks and loaders of a user's own, in the API, the command, studies and worker processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import dgdd, failure
from run_commands import TINY
from small_runs import SMALL, WITH_SURGERY
from toy_data import toy_domains

import dgdd_fast
from dgdd_fast.config import method_label
from dgdd_fast.experiments.grid import Workers, read_index, run_grid
from dgdd_fast.experiments.study import study_from_dict
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.plugins import ENVIRONMENT, load_plugins

OWN = Path(__file__).parents[2] / "examples" / "own_objective.py"
PLUGIN = """
from dgdd_fast import DomainDataset, load_dataset, register_loader, register_network
from dgdd_fast.networks import ConvNet

def half(what, resolution):
    data = load_dataset(what, resolution)
    return data.select(range(0, len(data), 2))

register_loader("half", half)
class Short(ConvNet):
    own_width = 6

    @classmethod
    def own_depth(cls, resolution):
        return 1

register_network("short", Short, label="Short")
"""


@pytest.fixture(scope="module", autouse=True)
def own_objective() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, "")
        load_plugins([OWN])
        yield
    # The names stay registered: a file is run once a process.


def test_it_is_about_thirty_lines() -> None:
    assert len(OWN.read_text().splitlines()) <= 40


def test_an_own_objective_distils_and_takes_surgery() -> None:
    data = toy_domains()
    start = dgdd_fast.distill(data, dataclasses.replace(SMALL, iterations=0)).images
    plain, surgery = (
        dgdd_fast.distill(data, dataclasses.replace(config, objective="cosine"))
        for config in (SMALL, WITH_SURGERY)
    )
    assert not torch.equal(plain.images, start)
    assert not torch.equal(plain.images, surgery.images)
    open_rate = dataclasses.replace(SMALL, objective="cosine", image_lr=None)
    assert resolve_distillation(open_rate, data).image_lr == 10
    assert method_label("cosine+sgs") == "Cosine+SGS"


def test_an_own_objective_follows_its_gradient() -> None:
    """The loss falls along it."""
    config = dataclasses.replace(SMALL, objective="cosine", image_lr=1.0, iterations=30, batch_real=12)
    losses: list[float] = []
    dgdd_fast.distill(toy_domains(), config, progress=lambda state: losses.append(state.loss))
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


def test_the_command_takes_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--target", "street", *TINY, "--iterations", 1)
    text = dgdd("--plugin", OWN, "distill", "--method", "cosine+sgs", *options, "--out", out).output
    assert "cosine+sgs: 10 classes x 3 images" in text
    code, message = failure("--plugin", tmp_path / "none.py", "studies")
    assert code == 2
    assert "there is no plugin" in message


def test_a_study_takes_own_names_in_worker_processes_too(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    load_plugins([plugin])
    study = study_from_dict(
        {
            "data": "half:embedded-digits",
            "resolution": 16,
            "targets": ["street"],
            "methods": ["random", "cosine", "cosine+sgs"],
            "ipc": [1],
            "seeds": [0],
            "distill": {"iterations": 1, "batch_real": 2, "network": {"architecture": "short"}},
            "evaluate": {"epochs": 1},
        }
    )
    outcome = run_grid(study, tmp_path / "grid", Workers(processes=1), lambda report: None)
    assert outcome.failures == {}
    index = read_index(tmp_path / "grid")
    reports = [index.evaluation(entry.file) for entry in index.entries]
    assert all("Short (width 6, depth 1" in report["description"] for report in reports if report)
    assert len([report for report in reports if report]) == 3
    text = dgdd("table", tmp_path / "grid").output
    assert "Cosine+SGS" in text
