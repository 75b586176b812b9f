"""The benchmark of normalisation, ReLU and pooling: what it measures, what it refuses to time."""

import dataclasses
import json
import sys
from pathlib import Path

import bench_norm_relu_pool
import pytest
import torch
from bench_norm_relu_pool import Case
from timing import Effort

from dgdd_fast import ops
from dgdd_fast.ops import reference

SMALL = Case(3, 16, 8, "both", "channels_last")
QUICK = Effort(turns=5, turn_ms=0, row_ms=0)


def test_cases_are_the_maps_of_a_convnet() -> None:
    cases = list(bench_norm_relu_pool.cases(quick=False, on_cuda=False))
    assert len(set(cases)) == len(cases) == 6 * 8
    assert {case.shape for case in cases} >= {(256, 128, side, side) for side in (32, 16, 8)}
    assert {case.direction for case in cases[:16]} == {"forward", "both"}
    quick = list(bench_norm_relu_pool.cases(quick=True, on_cuda=False))
    assert set(quick) < set(cases)
    assert {case.dtype for case in quick} == {"float32"}


def test_necessary_bytes() -> None:
    numbers = 3 * 16 * 8 * 8
    assert dataclasses.replace(SMALL, direction="forward").essential_bytes == 4 * (numbers + numbers / 4)
    # The maps in both directions, the pooled ones, their gradient, the maps' gradient.
    assert SMALL.essential_bytes == 4 * (3 * numbers + 2 * numbers / 4)
    assert dataclasses.replace(SMALL, dtype="bfloat16").essential_bytes == SMALL.essential_bytes / 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_a_row_compares_equals(direction: str, dtype: str, device: torch.device) -> None:
    case = dataclasses.replace(SMALL, direction=direction, dtype=dtype)
    rows = list(bench_norm_relu_pool.measure(case, device, 10.0, compiled=False, effort=QUICK))
    assert [row.cache for row in rows] == (["warm", "flushed"] if device.type == "cuda" else ["warm"])
    row = rows[0]
    assert {"dgdd_fast", "eager", "instance_norm", "group_norm"} <= row.times.keys()
    assert row.times["eager"] in (row.times["instance_norm"], row.times["group_norm"])
    assert row.speedup["eager"] == min(row.speedup["instance_norm"], row.speedup["group_norm"])
    assert max(row.errors.values()) <= bench_norm_relu_pool.LARGEST_ERROR[direction][dtype]
    assert row.share_of_copy == pytest.approx(row.gigabytes_per_second / 10)


def test_the_plain_formulations_are_the_specification() -> None:
    tensors = SMALL.tensors(torch.device("cpu"))
    for function in (bench_norm_relu_pool.by_instance_norm, bench_norm_relu_pool.by_group_norm):
        torch.testing.assert_close(function(*tensors), reference.norm_relu_pool(*tensors))


def test_a_peer_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(*tensors):
        return 2 * reference.norm_relu_pool(*tensors)

    monkeypatch.setattr(bench_norm_relu_pool, "by_group_norm", doubled)
    (row,) = bench_norm_relu_pool.measure(SMALL, torch.device("cpu"), 10.0, compiled=False, effort=QUICK)
    assert "group_norm" not in row.times
    assert "relative error" in row.missing["group_norm"]
    monkeypatch.setattr(ops, "norm_relu_pool", doubled)
    with pytest.raises(ArithmeticError, match="relative error"):
        next(bench_norm_relu_pool.measure(SMALL, torch.device("cpu"), 10.0, compiled=False, effort=QUICK))


def test_the_table_on_paper_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [SMALL, dataclasses.replace(SMALL, direction="forward")]
    monkeypatch.setattr(bench_norm_relu_pool, "cases", lambda quick, on_cuda: iter(cases))
    monkeypatch.setattr(bench_norm_relu_pool, "copy_bandwidth", lambda device: 10.0)
    path = tmp_path / "table.json"
    words = ["--threads", str(torch.get_num_threads()), "--json", str(path), "--resume", "--quick"]

    def run(*more: str) -> tuple[list[dict[str, object]], str]:
        monkeypatch.setattr(sys, "argv", ["bench_norm_relu_pool.py", *words, *more])
        bench_norm_relu_pool.main()
        return json.loads(path.read_text())["rows"], capsys.readouterr().out

    rows, shown = run("--first", "1")
    assert [row["case"] for row in rows] == [dataclasses.asdict(SMALL)]
    assert "3x16x8x8 channels_last" in shown
    both, shown = run()
    assert both[0] == rows[0]
    assert [row["case"] for row in both] == [dataclasses.asdict(case) for case in cases]
    assert shown.count("3x16x8x8 channels_last") == 1
