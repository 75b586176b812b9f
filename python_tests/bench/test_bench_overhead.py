"""The benchmark of what a call costs: its rows, and that nothing but the call is in them."""

import json
import sys
from pathlib import Path

import bench_overhead
import pytest
import torch
from torch import Tensor

from dgdd_fast import ops


def test_every_operator_is_called_without_a_sample() -> None:
    calls = bench_overhead.arguments_of(0, torch.device("cpu"))
    public = {name for name in ops.__all__ if callable(getattr(ops, name))}
    assert calls.keys() == public, "an operator is missing from bench_overhead.arguments_of"
    for name, arguments in calls.items():
        results = getattr(ops, name)(*arguments)
        for result in (results,) if isinstance(results, Tensor) else results or ():
            assert result.numel() == 0


def test_the_table_on_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = tmp_path / "table.json"
    monkeypatch.setattr(sys, "argv", ["bench_overhead.py", "--turns", "5", "--json", str(path)])
    bench_overhead.main()
    printed = capsys.readouterr().out
    rows = {row["operator"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows.keys() == bench_overhead.arguments_of(0, torch.device("cpu")).keys()
    assert rows["spectral_surgery_step_"]["arguments"] == 12
    assert rows["mask_channels"]["goal"] == 15
    for name, row in rows.items():
        assert name in printed
        assert row["times"].keys() == {"dgdd_fast", "inference", "no_op", "reference"}
        assert all(0 < time["least"] <= time["median"] for time in row["times"].values())
