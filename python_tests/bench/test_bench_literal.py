"""The benchmark of the loop against the literal one."""

import json
import sys
from pathlib import Path

import bench_literal
import pytest


def test_quick_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = tmp_path / "table.json"
    arguments = ["--quick", "--turns", "2", "--iterations", "1", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["bench_literal.py", *arguments])
    bench_literal.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["case"]["method"] for row in rows] == ["dm", "dm+sgs"]
    for row in rows:
        assert row["real_images"] == 3 * 10 * 4
        assert row["largest_difference"] < 1e-3  # both compute the same
    assert "dm+sgs" in capsys.readouterr().out
