"""The page about one run: what it shows, what it says is missing, and how it looks in a browser."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from browser import in_browser
from command_line import dgdd, failure
from run_commands import TINY
from toy_data import toy_domains, write_npz

from dgdd_fast.report.run_page import write_run_report
from dgdd_fast.synthetic.distilled_set import DistilledSet

SCRIPT = """{
  overflow: document.documentElement.scrollWidth - window.innerWidth,
  pictures: [...document.images].map((image) => image.complete && image.naturalWidth > 100),
  scales: [...document.images].map((image) => image.clientWidth / image.naturalWidth),
  background: window.getComputedStyle(document.body).backgroundColor,
  title: document.title,
  heading: document.querySelector("h1").textContent,
  headings: [...document.querySelectorAll("h2")].map((each) => each.textContent),
}"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run page")
    data = folder / "data"
    data.mkdir()
    names = ("<b>plain", "long" * 30, "domain2")
    write_npz(dataclasses.replace(toy_domains(per_cell=6), domain_names=names), data)
    out = folder / "run <i>"
    dgdd("distill", "--data", data, "--target", "domain2", *TINY, "--out", out)
    dgdd("evaluate", out, "--runs", 2, "--epochs", 1, "--on", "target")
    return out


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "report.html"
    dgdd("report", run, "--out", out)
    return out.read_text()


def test_the_page_of_a_run_shows_all_there_is_and_loads_nothing(run: Path, page: str) -> None:
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<b>" not in page
    for text in ("DM+SGS on data, domain2 held out", "Random", "domain2 (held out)", "distill.ipc"):
        assert text in page
    provenance = page[page.index("Provenance") :]
    assert "&lt;b&gt;plain, longlong" in provenance
    assert ">cpu<" in provenance
    accuracies = json.loads((run / "evaluation.json").read_text())["results"]["dm+sgs"]["accuracies"]
    ours = accuracies["domain2 (held out)"]
    assert f"{ours['mean']:.1f} ± {ours['std']:.1f}" in page


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1200, False)])
def test_the_page_fits_phones_and_desktops_and_follows_dark_mode(
    page: str, tmp_path: Path, width: int, dark: bool
) -> None:
    found = in_browser(page, width, dark, SCRIPT, tmp_path)
    assert found["overflow"] <= 0
    assert found["pictures"] == [True, True, True]
    assert min(found["scales"]) > 0.64  # else nobody can read what stands in them
    level = sum(map(int, re.findall(r"\d+", found["background"])[:3])) / 3
    assert level < 60 if dark else level > 240
    assert found["title"] == found["heading"] == "DM+SGS on data, domain2 held out"
    assert found["headings"] == ["Images", "Accuracy", "Losses", "Gradients", "Settings", "Provenance"]


def test_what_a_run_lacks_is_said(run: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("config.yaml", "checkpoint.safetensors"):
        (begun / name).write_bytes((run / name).read_bytes())
    sections = {each.title: each for each in write_run_report(tmp_path / "a.html", begun, None)}
    assert "dgdd distill --resume" in sections["Images"].missing
    assert "dgdd evaluate" in sections["Accuracy"].missing
    assert "no losses.csv" in sections["Losses"].missing
    (begun / "distilled.safetensors").write_bytes((run / "distilled.safetensors").read_bytes())
    (begun / "contact_sheet.png").write_bytes(b"no picture")
    (begun / "evaluation.json").write_text("{}")
    (begun / "losses.csv").write_text("iteration,loss\n1,x\n2,3\n")
    sections = {each.title: each for each in write_run_report(tmp_path / "b.html", begun, None)}
    assert len(sections["Images"].pictures) == 1
    assert "evaluation.json is damaged" in sections["Accuracy"].missing
    assert "losses.csv is damaged" in sections["Losses"].missing
    assert "the data are not at hand" in sections["Gradients"].missing


def test_accuracies_of_other_images_than_those_shown_are_not_shown(run: Path, tmp_path: Path) -> None:
    """A run that went on after it was evaluated."""
    for file in run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    images = DistilledSet.load(tmp_path / "distilled.safetensors")
    dataclasses.replace(images, images=images.images + 1e-3).save(tmp_path / "distilled.safetensors")
    sections = {each.title: each for each in write_run_report(tmp_path / "page.html", tmp_path, None)}
    assert not sections["Accuracy"].rows
    assert "is of other images than these" in sections["Accuracy"].missing
    assert "dgdd evaluate --overwrite" in sections["Accuracy"].missing


def test_against_belongs_to_grids(run: Path, tmp_path: Path) -> None:
    code, text = failure("report", run, "--against", "dm", "--out", tmp_path / "report.html")
    assert (code, "is the folder of a run" in text) == (2, True)
