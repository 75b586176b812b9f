"""Damaged files in the folder of a grid: what is computed again, and what the table and the report say."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from toy_data import toy_domains, write_npz
from typer.testing import CliRunner

from dgdd_fast.commands import cli
from dgdd_fast.distillation import CHECKPOINT_NAME
from dgdd_fast.experiments.grid import GridOutcome, Workers, read_index, run_grid
from dgdd_fast.experiments.job import JobProgress, read_evaluation
from dgdd_fast.experiments.study import MethodEntry, Study
from dgdd_fast.experiments.workers import _run_ray_task
from dgdd_fast.synthetic.distilled_set import DistilledSet

STUDY = Study(
    methods=(MethodEntry("dm"), MethodEntry("dm+sgs")),
    targets=("domain0",),
    ipc=(1,),
    seeds=(0,),
    distill={"iterations": 2, "batch_real": 2, "network": {"width": 2}},
    evaluate={"epochs": 1},
)


@pytest.fixture(autouse=True)
def _no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # it takes seconds to be imported


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_npz(toy_domains(per_cell=4), folder)
    return folder


@pytest.fixture(scope="module")
def finished(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    assert run(data_folder, folder)[0].failures == {}
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished grid, to damage."""
    return Path(shutil.copytree(finished, tmp_path / "grid"))


def run(data_folder: Path, folder: Path) -> tuple[GridOutcome, list[JobProgress]]:
    told: list[JobProgress] = []
    study = dataclasses.replace(STUDY, data=str(data_folder))
    return run_grid(study, folder, Workers(), told.append), told


def dgdd(*arguments: object) -> tuple[int, str]:
    """Exit code, and the output without the breaks of its lines."""
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, "".join(result.output.split("\n"))


def without(*path: str) -> Callable[[bytes], bytes]:
    """Leaves out what lies at `path`."""

    def damage(content: bytes) -> bytes:
        report = json.loads(content)
        del report["sha256"]  # as earlier versions wrote it
        place = report
        for name in path[:-1]:
            place = place[name]
        del place[path[-1]]
        return json.dumps(report).encode()

    return damage


def changed(**values: Any) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        report = json.loads(content)
        del report["sha256"]
        return json.dumps({**report, **values}).encode()

    return damage


DAMAGES = {
    "cut off": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "not text": lambda content: b"\xff" + content,
    "no keys": lambda content: b"{}",
    "another type": lambda content: b"[1]",
    "no accuracies": changed(accuracies={}),
    "no runs": changed(accuracies={"domain0": {"runs": []}}),
    "no accuracy": changed(accuracies={"domain0": {"runs": [None]}}),
    "not a number": changed(accuracies={"domain0": {"runs": [float("nan")]}}),
    "beyond 100 %": changed(accuracies={"domain0": {"runs": [101.0]}}),
    "runs missing": changed(
        accuracies={"domain0": {"runs": [1.0, 2.0]}, "domain1": {"runs": [1.0]}},
        images={"domain0": 1, "domain1": 1},
    ),
    "no images": without("images", "domain0"),
    "no time": without("seconds"),
    "no description": without("description"),
    "no settings": without("config"),
    "settings missing": without("config", "generalize"),
    "another digit": lambda content: content.replace(b'"seconds": ', b'"seconds": 1'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_evaluation_is_known_and_named(
    finished: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = next(finished.glob("jobs/*/evaluation-*"))
    report = read_evaluation(path)
    assert {**report, "sha256": None} == {**json.loads(path.read_text()), "sha256": None}
    (tmp_path / "evaluation.json").write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"evaluation\.json is damaged; run dgdd grid again"):
        read_evaluation(tmp_path / "evaluation.json")
    assert read_evaluation(tmp_path / "none.json") is None


@pytest.mark.parametrize("name", ["cut off", "no keys"])
def test_a_damaged_evaluation_is_computed_again_and_told(folder: Path, data_folder: Path, name: str) -> None:
    index = read_index(folder)
    (file,) = (entry.file for entry in index.entries if entry.row == "dm")
    expected = index.evaluation(file)["accuracies"]
    path = folder / file
    path.write_bytes(DAMAGES[name](path.read_bytes()))
    for command in ("table", "report"):
        code, output = dgdd(command, folder)
        assert code == 2
        assert f"{path} is damaged; run dgdd grid again" in output
    outcome, told = run(data_folder, folder)
    assert outcome.failures == {}
    assert outcome.computed == [path.parent.name]
    assert {(report.stage, report.detail) for report in told if report.stage == "damaged"} == {
        ("damaged", f"{path.name}, computed again")
    }
    assert "distilling" not in {report.stage for report in told}
    assert index.evaluation(file)["accuracies"] == expected
    assert dgdd("table", folder)[0] == 0


def test_the_command_says_what_was_damaged(folder: Path) -> None:
    path = next(folder.glob("jobs/*-dm-*/evaluation-*"))
    path.write_text("{}")
    code, output = dgdd("grid", folder / "grid.yaml", "--out", folder)
    assert code == 0
    assert f"{path.parent.name}: damaged {path.name}, computed again" in output
    assert "3 sets: 1 computed now, 2 there before" in output


@pytest.mark.parametrize("keep_checkpoint", [True, False])
def test_a_damaged_set_is_distilled_again_where_an_evaluation_needs_it(
    folder: Path, finished: Path, data_folder: Path, keep_checkpoint: bool
) -> None:
    job = next(folder.glob("jobs/*-dm+sgs-*"))
    path = job / "distilled.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    next(job.glob("evaluation-*")).unlink()
    if not keep_checkpoint:
        (job / CHECKPOINT_NAME).unlink()
    outcome, told = run(data_folder, folder)
    assert outcome.failures == {}
    assert "distilled.safetensors, distilled again" in {
        report.detail for report in told if report.stage == "damaged"
    }
    # A checkpoint of the last iteration holds the images: nothing is left to do but to write them.
    assert ("distilling" in {report.stage for report in told}) != keep_checkpoint
    assert path.read_bytes() == content
    for old in finished.glob("jobs/*/evaluation-*"):
        report = read_evaluation(folder / old.relative_to(finished))
        assert report is not None
        assert report["accuracies"] == read_evaluation(old)["accuracies"]


def test_a_set_that_was_deleted_is_made_again_and_not_evaluated_again(
    folder: Path, data_folder: Path
) -> None:
    path = next(folder.glob("jobs/*-dm-*")) / "distilled.safetensors"
    content = path.read_bytes()
    path.unlink()
    outcome, told = run(data_folder, folder)
    assert outcome.computed == [path.parent.name]
    assert "training" not in {report.stage for report in told}
    assert path.read_bytes() == content


def test_a_set_of_a_later_version_is_left_as_it_is(folder: Path, data_folder: Path) -> None:
    job = next(folder.glob("jobs/*-dm-*"))
    path = job / "distilled.safetensors"
    later = path.read_bytes().replace(rb"{\"version\": 2", rb"{\"version\": 9")
    assert later != path.read_bytes()
    path.write_bytes(later)
    next(job.glob("evaluation-*")).unlink()
    outcome, _ = run(data_folder, folder)
    assert "upgrade dgdd-fast" in outcome.failures[job.name]
    assert path.read_bytes() == later


def test_what_was_damaged_is_told_through_ray(
    folder: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task's own function, in this process: what Ray hands back is all that a user sees."""
    from dgdd_fast.experiments import grid

    path = next(folder.glob("jobs/*-dm-*/evaluation-*"))
    path.write_text("{}")

    def run_on_ray(jobs: Any, root: Path, tell: Any, *rest: object) -> None:
        for job in jobs:
            for report in _run_ray_task(job, str(root), 1, []):
                tell(report)

    monkeypatch.setattr(grid, "run_on_ray", run_on_ray)
    told: list[JobProgress] = []
    run_grid(dataclasses.replace(STUDY, data=str(data_folder)), folder, Workers(ray="local"), told.append)
    assert [report.stage for report in told if report.stage != "done so far"] == ["damaged", "done"]


def test_a_damaged_set_is_left_out_of_the_page_and_named(folder: Path) -> None:
    for path in folder.glob("jobs/*/contact_sheet.png"):
        path.unlink()  # the page draws its own
    path = next(folder.glob("jobs/*-dm-*")) / "distilled.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    code, output = dgdd("report", folder)
    assert code == 0
    page = (folder / "report.html").read_text()
    for text in (output, page):
        assert f"Left out: DM, {path}: damaged" in text
        assert "or delete the file and run dgdd grid again" in text
    assert page.count('<img alt="Random: domain0') == 1
    assert page.count('<img alt="DM+SGS: domain0') == 1
    assert '<img alt="DM: domain0' not in page
    for path in folder.glob("jobs/*/distilled.safetensors"):
        path.write_bytes(b"")
    assert dgdd("report", folder)[0] == 0
    assert (folder / "report.html").read_text().count("Left out: ") == 3


def test_the_sheet_of_a_set_is_that_of_its_file_with_the_images_before(finished: Path) -> None:
    for method, has_before in (("random", False), ("dm", True)):
        job = next(finished.glob(f"jobs/*-{method}-*"))
        alone = DistilledSet.load(job / "distilled.safetensors").contact_sheet_png()
        kept = (job / "contact_sheet.png").read_bytes()
        heights = [Image.open(io.BytesIO(png)).height for png in (alone, kept)]
        assert (kept == alone, heights[0] < heights[1]) == (not has_before, has_before)


def test_a_section_whose_file_is_missing_says_so(folder: Path) -> None:
    for path in folder.glob("jobs/*/config.yaml"):
        path.unlink()
    code, output = dgdd("report", folder)
    assert code == 0
    assert "Stability of channel scores: Not drawn: " in output
    assert "config.yaml" in output


def test_jobs_that_can_write_nothing_say_why(data_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("in the way")  # as a full disk, not even the error can be written
    outcome, told = run(data_folder, tmp_path)
    assert outcome.computed == []
    assert len(outcome.failures) == outcome.jobs == 3
    assert all(str(tmp_path / "jobs") in reason for reason in outcome.failures.values())
    assert [report.stage for report in told].count("failed") == 3
