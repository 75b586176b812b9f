"""The benchmark of the distillation loop: what it times, and that its parts are those of the loop."""

import dataclasses
import json
import sys
import warnings
from pathlib import Path

import bench_distill
import pytest
import torch
from bench_distill import Case, Stopwatch

from dgdd_fast.matching.feature_matching import FeatureMatching

QUICK = {(case.method, case.resolution): case for case in bench_distill.cases(quick=True, on_cuda=False)}


@pytest.fixture(autouse=True)
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_distill, "ROW_SECONDS", 0)
    monkeypatch.setattr(bench_distill, "TURN_SECONDS", 0)
    monkeypatch.setattr(bench_distill, "SHAPES", {32: (2, 8), 64: (2, 8)})


def test_cases_are_the_papers_batches_first() -> None:
    cases = list(bench_distill.cases(quick=False, on_cuda=True))
    assert len(set(cases)) == len(cases)
    assert {(case.method, case.resolution) for case in cases[:6]} == set(QUICK)
    assert {case.batch_real for case in cases[:6]} == {256, 341}
    assert {case.batch_real for case in cases[6:10]} == {64}
    for others in (cases[10:16], cases[16:]):
        (precision,) = {case.precision for case in others}
        assert [dataclasses.replace(case, precision="float32") for case in others] == cases[:6]
        assert precision in ("tf32", "bfloat16")


@pytest.mark.parametrize("method", bench_distill.METHODS)
def test_a_row_has_every_part_of_the_loop(method: str, device: torch.device) -> None:
    row = bench_distill.measure(dataclasses.replace(QUICK[method, 32], ipc=3), device)
    assert 0 < row.milliseconds.p20 <= row.milliseconds.median <= row.milliseconds.p80
    assert list(row.parts) == list(bench_distill.PARTS)
    assert all(milliseconds > 0 for milliseconds in row.parts.values())
    assert sum(row.shares.values()) == pytest.approx(1)
    # What no seam takes is bookkeeping: were a part of the loop to escape its seam, it would show here.
    assert row.shares["everything else"] < 0.5
    assert (row.synchronisations is None) == (device.type == "cpu")
    assert f"{row.milliseconds.median:.2f} ms" in bench_distill.line(row)


def test_a_part_within_another_is_its_own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(bench_distill, "now", lambda device: next(moments))
    stopwatch = Stopwatch(torch.device("cpu"))
    inner = stopwatch.around("draws", lambda: None)
    outer = stopwatch.around("real forward", inner)
    outer()  # not started: nothing is timed, and no moment is taken
    stopwatch.start()
    outer()
    stopwatch.stop()
    expected = dict.fromkeys(bench_distill.PARTS, 0.0)
    expected |= {"everything else": 1e3 + 5e3, "real forward": 2e3 + 4e3, "draws": 3e3}
    assert stopwatch.milliseconds == expected


def test_taking_the_loop_apart_leaves_it_as_it_was() -> None:
    before = [getattr(owner, name) for owner, name, _ in bench_distill.seams()]
    with bench_distill.taken_apart(Stopwatch(torch.device("cpu"))):
        assert all(
            getattr(owner, name) is not function
            for (owner, name, _), function in zip(bench_distill.seams(), before, strict=True)
        )
    assert [getattr(owner, name) for owner, name, _ in bench_distill.seams()] == before


def test_synchronisations_are_those_of_one_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: the loop warns as torch would, twice an iteration, while it is told to."""
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    gradients = FeatureMatching.gradients_with

    def warning(*arguments: object, **options: object) -> object:
        if modes == ["warn"]:
            for _ in range(2):
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
        return gradients(*arguments, **options)

    monkeypatch.setattr(FeatureMatching, "gradients_with", warning)
    case = dataclasses.replace(QUICK["dm", 32], ipc=3)
    sources = case.sources()

    def run(watch) -> None:
        with pytest.raises(bench_distill.Enough):
            bench_distill.distill(sources, case.config(Path("unused"), 10), progress=watch)

    counted = bench_distill.synchronisations(run)
    assert modes == ["warn", "default"]
    assert list(counted.values()) == [2]
    assert next(iter(counted)).startswith("test_bench_distill.py:")


def test_the_table_on_paper_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.json"
    case = dataclasses.replace(QUICK["dm+sgs", 32], ipc=3)
    cases: list[Case] = [case]
    monkeypatch.setattr(bench_distill, "cases", lambda quick, on_cuda: iter(cases))
    monkeypatch.setattr(sys, "argv", ["bench_distill.py", "--quick", "--json", str(path), "--resume"])
    bench_distill.main()
    (first,) = json.loads(path.read_text())["rows"]
    assert "dm+sgs  32 px" in capsys.readouterr().out
    cases.append(dataclasses.replace(case, method="dm"))
    bench_distill.main()
    kept, second = json.loads(path.read_text())["rows"]
    assert kept == first
    assert second["case"]["method"] == "dm"
    assert "dm+sgs" not in capsys.readouterr().out
