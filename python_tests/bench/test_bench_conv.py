"""The benchmark of convolutions: what it measures, what it refuses to time."""

import json
import sys
from pathlib import Path

import bench_conv
import pytest
import torch
from bench_conv import Case
from timing import Effort

QUICK = Effort(turns=5, turn_ms=0, row_ms=0)


def test_cases_are_the_layers_of_convnets() -> None:
    cases = list(bench_conv.cases(quick=False))
    assert len(set(cases)) == len(cases) == 27
    assert set(bench_conv.cases(quick=True)) < set(cases)


def test_operations() -> None:
    assert Case(2, 3, 5, 4, "convolution").gigaflops == pytest.approx(1e-9 * 2 * 9 * 3 * 5 * 2 * 16)
    assert Case(2, 3, 5, 4, "gradients").gigaflops == 3 * Case(2, 3, 5, 4, "block").gigaflops


@pytest.mark.parametrize("what", ["convolution", "gradients", "block"])
def test_a_row_compares_equals(what: str) -> None:
    row = bench_conv.measure(Case(3, 9, 8, 6, what), 10.0, compiled=False, effort=QUICK)
    assert row.times.keys() == {"dgdd_fast", "channels_last", "planes"}
    assert not row.missing
    assert row.share_of_matmul == pytest.approx(row.gigaflops_per_second / 10)
    assert max(row.errors.values()) <= bench_conv.LARGEST_ERROR[what]
    assert "9x6x6" in bench_conv.line(row)


def test_a_peer_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_conv, "plain", lambda *tensors: 2 * bench_conv.ours(*tensors))
    row = bench_conv.measure(Case(3, 9, 8, 6, "block"), 10.0, compiled=False, effort=QUICK)
    assert row.times.keys() == {"dgdd_fast"}
    assert row.missing["planes"].startswith("ArithmeticError: its relative error is 1.0e+00")


def test_quick_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = tmp_path / "table.json"
    monkeypatch.setattr(sys, "argv", ["bench_conv.py", "--quick", "--json", str(path)])
    monkeypatch.setattr(bench_conv, "cases", lambda quick: [Case(3, 9, 8, 6, "block")])
    threads = torch.get_num_threads()
    try:
        bench_conv.main()
    finally:
        torch.set_num_threads(threads)
    (row,) = json.loads(path.read_text())["rows"]
    assert row["case"]["width"] == 8
    assert "GFLOP/s" in capsys.readouterr().out
