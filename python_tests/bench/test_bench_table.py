"""The table that benchmarks keep row by row."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from table import Table

FACTS = {"device": "a chip", "commit": "0123", "torch": "2.11"}


@dataclass(frozen=True)
class Case:
    size: int


@dataclass(frozen=True)
class Row:
    case: Case
    cache: str
    threads: int | None = None
    times: dict[str, float] = field(default_factory=lambda: {"eager": 1.0})
    missing: dict[str, str] = field(default_factory=dict)


def rows(path: Path) -> list[tuple[int, str]]:
    return [(row["case"]["size"], row["cache"]) for row in json.loads(path.read_text())["rows"]]


def test_a_stopped_run_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table = Table(path, FACTS, resume=False, ceilings=["copy"])
    table.content["copy"]["cuda"] = 3.0
    table.add(Row(Case(32), cache) for cache in ("warm", "flushed"))
    again = Table(path, FACTS, resume=True, ceilings=["copy"])
    assert again.content == table.content | {
        "rows": [dataclasses.asdict(Row(Case(32), "warm")), *again.content["rows"][1:]]
    }
    assert again.has(Case(32), None)
    assert not again.has(Case(64), None)
    assert not again.has(Case(32), 1)
    again.add([Row(Case(64), "warm")])
    assert rows(path) == [(32, "warm"), (32, "flushed"), (64, "warm")]
    assert Table(path, FACTS, resume=False).content["rows"] == []


def test_a_case_that_lacks_a_provider_is_measured_again_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table = Table(path, FACTS, resume=True)
    table.add([Row(Case(32), "warm"), Row(Case(32), "flushed")])
    table.add([Row(Case(64), "warm")])
    assert table.has(Case(32), None, "eager")
    assert not table.has(Case(32), None, "compiled")
    table.add([Row(Case(32), "warm", times={"compiled": 0.5})])
    assert table.has(Case(32), None, "compiled")
    assert rows(path) == [(32, "warm"), (64, "warm")]
    table.add([Row(Case(64), "warm", missing={"compiled": "no compiler"})])
    assert table.has(Case(64), None, "compiled")  # once is enough


@pytest.mark.parametrize("name", ["device", "commit", "torch"])
def test_rows_of_another_origin_are_not_mixed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "table.json"
    Table(path, FACTS, resume=False).add([Row(Case(32), "warm")])
    with pytest.raises(SystemExit, match=f"another {name}"):
        Table(path, {**FACTS, name: "4567"}, resume=True)


def test_without_a_file_nothing_is_kept() -> None:
    table = Table(None, FACTS, resume=True)
    table.add([Row(Case(32), "warm")])
    assert table.has(Case(32), None)
