"""Every method, from data in files to its row of the table, in a grid of very small settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_data import toy_domains, write_npz
from typer.testing import CliRunner

from dgdd_fast.commands import cli
from dgdd_fast.experiments.grid import GridIndex, Workers, read_index, run_grid
from dgdd_fast.experiments.study import Study, study_from_dict
from dgdd_fast.synthetic.distilled_set import DistilledSet

MATCHING = [
    *("dm", "hdd", "datadam", "datadam-bn", "m3d", "dc", "dm+dam", "dm+fact"),
    *("mmd", "mmd+dam", "mmd+fact", "cadm"),
]
CORESETS = ["random", "herding", "rded", "rded+soft"]


def study(data: Path) -> Study:
    pseudo_domains = {"method": "dm+sgs", "name": "dm+sgs, styles", "distill": {"pseudo_domains": 2}}
    irm = {"method": "mmd", "name": "mmd, IRM", "pretrain": {"generalize": "irm"}}
    bandwidths = {"method": "m3d+sgs", "name": "m3d+sgs, own", "distill": {"kernel_bandwidth": "domain"}}
    own = [pseudo_domains, bandwidths, irm]
    methods = [*CORESETS, "whole", *MATCHING, *(f"{name}+sgs" for name in MATCHING), *own]
    evaluations = {name: {"generalize": name} for name in ("none", "mixstyle", "fact", "advfreq")}
    return study_from_dict(
        {
            "data": str(data),
            "methods": methods,
            "targets": ["domain0"],
            "ipc": [4],
            "seeds": [0],
            "distill": {
                **{"iterations": 2, "batch_real": 2, "herding_epochs": 1, "crops": 2},
                "network": {"width": 4},
            },
            "pretrain": {"experts": 1, "epochs": 1, "network": {"width": 4}},
            "evaluate": {"runs": 1, "epochs": 1, "network": {"architecture": "convnet", "width": 4}},
            "evaluations": evaluations,
        }
    )


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("methods")
    write_npz(toy_domains(domains=4), data)
    outcome = run_grid(study(data), folder, Workers(), lambda report: None)
    assert outcome.failures == {}
    return folder


def images(index: GridIndex, folder: Path, row: str) -> torch.Tensor:
    entry = next(entry for entry in index.entries if entry.row == row)
    return DistilledSet.load(folder / entry.set_folder / "distilled.safetensors").images


def test_every_method_moves_the_images_its_own_way(grid: Path) -> None:
    index = read_index(grid)
    rows = [entry.key for entry in index.study.methods if entry.method not in (*CORESETS, "whole")]
    found = {row: images(index, grid, row) for row in rows}
    start = images(index, grid, "random")
    for row, moved in found.items():
        assert moved.shape == (12, 3, 16, 16)
        assert moved.isfinite().all()
        assert not torch.equal(moved, start), row
    for place, row in enumerate(rows):
        assert not any(torch.equal(found[row], found[other]) for other in rows[:place]), row


def test_the_table_has_every_row_under_every_training(grid: Path) -> None:
    result = CliRunner().invoke(cli.app, ["table", str(grid), "--format", "csv"])
    assert result.exit_code == 0
    for entry in read_index(grid).study.methods:
        assert entry.label in result.output
    assert "missing" not in result.output
    assert "RDED+soft labels" in result.output
    notes = CliRunner().invoke(cli.app, ["table", str(grid), "--format", "markdown"]).output
    assert "Soft labels are what a network trained on all real training images" in " ".join(notes.split())
    assert "on soft labels" in notes
