"""The two papers on a page each, run as their heads say."""

from __future__ import annotations

import re
import sys

import cadm_literal
import pytest
import sgs_literal


def test_sgs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--iterations", "2", "--ipc", "1", "--batch-real", "2", "--width", "4")
    monkeypatch.setattr(sys, "argv", ["sgs_literal.py", *options])
    sgs_literal.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["dm", "dm+sgs"]
    assert all(number(line, "largest difference of a pixel ") < 1e-3 for line in lines)


def test_cadm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["cadm_literal.py", "--iterations", "1", "--batch-real", "1"])
    cadm_literal.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["mmd", "cadm"]
    assert all(number(line, "relative difference ") < 1e-3 for line in lines)


def number(line: str, before: str) -> float:
    found = re.search(re.escape(before) + r"([\d.e+-]+)", line)
    assert found is not None, line
    return float(found[1])
