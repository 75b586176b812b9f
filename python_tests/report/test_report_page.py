"""The page about a grid: one file, every section, or why it is empty."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy_data import toy_domains, write_npz
from typer.testing import CliRunner

from dgdd_fast.commands import cli
from dgdd_fast.config import DistillConfig
from dgdd_fast.distillation import distill
from dgdd_fast.experiments.grid import GridIndex, Workers, load_data, read_index, run_grid
from dgdd_fast.experiments.study import MethodEntry, Study
from dgdd_fast.report.features import projection
from dgdd_fast.report.page import tiles_to_show, write_report
from dgdd_fast.synthetic.mosaics import reduce

STUDY = Study(
    title="A trial <of all>",
    methods=(MethodEntry("dm"), MethodEntry("dm+sgs"), MethodEntry("cadm")),
    targets=("domain0",),
    ipc=(2,),
    seeds=(0,),
    distill={"iterations": 1, "batch_real": 3, "network": {"width": 2}},
    pretrain={"experts": 1, "epochs": 1, "network": {"width": 2}},
    evaluate={"epochs": 1, "network": {"architecture": "convnet", "width": 2}},
    sweeps={"distill.surgery.alpha": (0.5, 2)},
)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> GridIndex:
    data, folder = tmp_path_factory.mktemp("toy"), tmp_path_factory.mktemp("grid")
    write_npz(toy_domains(per_cell=6), data)
    study = dataclasses.replace(STUDY, data=str(data))
    assert run_grid(study, folder, Workers(), lambda report: None).failures == {}
    return read_index(folder)


@pytest.fixture(autouse=True)
def _no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # it takes seconds to be imported


def pictures(page: str) -> list[Image.Image]:
    coded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in coded]


def test_the_page_holds_every_section_in_one_file(grid: GridIndex, tmp_path: Path) -> None:
    sections = write_report(tmp_path / "report.html", grid, load_data(grid.study))
    assert [(section.title, len(section.pictures)) for section in sections] == [
        ("Sensitivity", 1),
        ("Accuracy against training time", 1),
        ("Distilled images", 4),  # Random and the three methods
        ("Gradient decomposition", 1),
        ("Stability of channel scores", 1),
        ("Styles of real and synthetic images", 1),
    ]
    page = (tmp_path / "report.html").read_text()
    found = pictures(page)
    assert len(found) == 9
    assert all(picture.width > 100 for picture in found)
    assert "A trial &lt;of all&gt;" in page
    assert page.count("<tr>") == 1 + len(grid.rows)
    assert not re.search(r'(src|href)="(?!data:)', page)


@pytest.mark.parametrize("factor", [1, 2])
def test_what_is_decomposed_is_named_by_its_own_class_and_domain(factor: int) -> None:
    data = toy_domains(per_cell=6)
    config = DistillConfig(objective="random", ipc=4, factor=factor)
    images = distill(data, config)
    rows, pixels, names = tiles_to_show(images)
    side = data.resolution[0] // factor
    assert pixels.shape == (len(rows), 3, side, side)
    assert {name.split(", ")[0] for name in names} == set(data.class_names)
    real = reduce(data.images[:].float(), factor)
    for tile, name in zip(pixels, names, strict=True):
        (found,) = ((real - tile).abs().flatten(1).amax(1) <= 1).nonzero(as_tuple=True)
        (row,) = found.tolist()
        assert name == f"{data.class_names[data.labels[row]]}, {data.domain_names[data.domains[row]]}"


def test_without_data_or_experts_the_page_says_what_is_missing(grid: GridIndex, tmp_path: Path) -> None:
    entries = [entry for entry in grid.entries if entry.row != "cadm"]
    sections = {
        section.title: section
        for section in write_report(tmp_path / "report.html", grid._replace(entries=entries), None)
    }
    page = (tmp_path / "report.html").read_text()
    for title, reason in (
        ("Gradient decomposition", "the data are not at hand"),
        ("Styles of real and synthetic images", "the data are not at hand"),
        ("Stability of channel scores", "no method of this grid matches in experts"),
    ):
        assert not sections[title].pictures
        assert reason in sections[title].missing
        assert reason in page


def test_the_command_writes_the_page_also_without_the_data(grid: GridIndex, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = CliRunner().invoke(cli.app, ["report", str(grid.folder), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert len(pictures(out.read_text())) == 9
    missing = CliRunner().invoke(cli.app, ["report", str(grid.folder), "--data", str(tmp_path / "none")])
    assert missing.exit_code == 2
    assert "does not exist" in missing.output


def test_without_umap_the_projection_calls_itself_pca() -> None:
    name, estimator = projection()
    assert name == "PCA"
    points = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)).numpy()
    assert estimator.fit(points).transform(points).shape == (20, 2)
