"""The benchmark of threads, and of the loop beside a busy program."""

import json
import sys
from pathlib import Path

import bench_threads
import pytest


@pytest.mark.slow
def test_quick_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = tmp_path / "table.json"
    monkeypatch.setattr(sys, "argv", ["bench_threads.py", "--quick", "--json", str(path)])
    bench_threads.main()
    (row,) = json.loads(path.read_text())["rows"]
    rates = row["rates"]
    assert list(rates) == list(bench_threads.WAYS)
    assert all(rate > 0 for rate in rates.values())
    assert row["speedup"] == rates["two threads"] / rates["one thread"]
    assert row["ceiling"] == rates["two processes"] / rates["one thread"]
    assert row["beside"] == rates["two threads beside a busy program"] / rates["two threads"]
    assert "iterations a second: one thread" in capsys.readouterr().out


def test_a_way_is_measured_beside_a_busy_program():
    way = bench_threads.Way(1, 1, beside_busy=True)
    assert bench_threads.rate(bench_threads.measuring_context(), bench_threads.Case(4, 1, 1), way, 0) > 0


def test_a_process_that_fails_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    context = bench_threads.measuring_context()
    with pytest.raises(SystemExit, match="ended before it was measured"):
        bench_threads.rate(context, bench_threads.Case(0, 1, 1), bench_threads.Way(1, 1), 0)
