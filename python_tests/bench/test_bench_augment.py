"""The benchmark of the augmentation: what it measures, what it counts, and what it refuses to time."""

import dataclasses
import json
import sys
from pathlib import Path

import bench_augment
import pytest
import torch
from bench_augment import Case
from timing import Effort

from dgdd_fast import ops

SMALL = Case("synthetic", 20, 8)
QUICK = Effort(turns=5, turn_ms=0, row_ms=0)


def test_cases_and_necessary_bytes() -> None:
    cases = list(bench_augment.cases(quick=False))
    assert len(set(cases)) == len(cases) == 20
    assert SMALL.essential_bytes == 20 * 3 * 8 * 8 * 4 * 4
    assert dataclasses.replace(SMALL, images="real").essential_bytes == 20 * 3 * 8 * 8 * 5
    operation = SMALL.arguments(torch.device("cpu"))[2]
    assert operation.unique().tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("images", ["real", "synthetic"])
def test_a_row_compares_equals(images: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_augment, "POOL", 50)
    case = dataclasses.replace(SMALL, images=images)
    rows = list(bench_augment.measure(case, device, 10.0, compiled=False, effort=QUICK))
    assert [row.cache for row in rows] == (["warm", "flushed"] if device.type == "cuda" else ["warm"])
    row = rows[0]
    assert {"dgdd_fast", "eager"} <= row.times.keys()
    assert max(row.error.values()) < 1e-6
    assert row.speedup["eager"] == row.times["eager"].median / row.times["dgdd_fast"].median
    assert row.share_of_copy == pytest.approx(row.gigabytes_per_second / 10)


@pytest.mark.parametrize("images", ["real", "synthetic"])
def test_what_is_compiled_is_the_operator(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_augment, "POOL", 50)
    arguments = dataclasses.replace(SMALL, images=images).arguments(torch.device("cpu"))
    torch.testing.assert_close(
        bench_augment.whole(*arguments), ops.sample_augment(*arguments), rtol=1e-4, atol=1e-5
    )


def test_a_peer_that_does_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(images, *others):
        return images * 1

    monkeypatch.setattr(bench_augment.reference, "sample_augment", ops.sample_augment)
    monkeypatch.setattr(ops, "sample_augment", nothing)
    with pytest.raises(ArithmeticError, match="its relative error is"):
        next(bench_augment.measure(SMALL, torch.device("cpu"), 10.0, compiled=False, effort=QUICK))


def test_the_table_on_paper_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [SMALL, dataclasses.replace(SMALL, operation="flip")]
    monkeypatch.setattr(bench_augment, "cases", lambda quick: iter(cases))
    monkeypatch.setattr(bench_augment, "copy_bandwidth", lambda device: 10.0)
    path = tmp_path / "table.json"
    words = ["--threads", str(torch.get_num_threads()), "--json", str(path), "--resume", "--quick"]

    def run(*more: str) -> tuple[list[dict[str, object]], str]:
        monkeypatch.setattr(sys, "argv", ["bench_augment.py", *words, *more])
        bench_augment.main()
        return json.loads(path.read_text())["rows"], capsys.readouterr().out

    rows, shown = run("--first", "1")
    assert [row["case"] for row in rows] == [dataclasses.asdict(SMALL)]
    assert "20x3x8x8 siamese" in shown
    both, shown = run()
    assert both[0] == rows[0]
    assert [row["case"] for row in both] == [dataclasses.asdict(case) for case in cases]
    assert shown.count("20x3x8x8") == 1
