"""The papers' tables as data: complete, and consistent where the papers are."""

from __future__ import annotations

import dataclasses
import statistics

import pytest

from dgdd_fast.experiments.published import AVERAGE, Figure, PublishedTable, published_names, published_table

TABLES = {name: published_table(name) for name in published_names()}
# A mean of rounded values is off by half a digit at most, and so is the rounded average that is printed.
ROUNDING = 0.05 + 0.05


def inconsistencies(table: PublishedTable) -> list[tuple[int, str, str]]:
    """The budgets, rows and parts (mean or std) whose printed average cannot be that of the columns."""
    found = []
    place = table.columns.index(AVERAGE) if AVERAGE in table.columns else None
    for ipc, rows in table.blocks.items():
        for row, figures in rows.items():
            for part in ("mean", "std") if place is not None else ():
                values = [getattr(figure, part) for figure in figures]
                printed = values.pop(place)
                if abs(printed - statistics.fmean(values)) > ROUNDING + 1e-9:
                    found.append((ipc, row, part))
    return found


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_table_is_complete(name: str) -> None:
    table = TABLES[name]
    assert table.paper
    assert table.table
    assert table.note
    rows = [set(rows) for rows in table.blocks.values()]
    assert rows
    assert all(keys == rows[0] for keys in rows)
    for block in table.blocks.values():
        for figures in block.values():
            assert len(figures) == len(table.columns)
            assert all(0 < figure.mean <= 100 for figure in figures)


def test_every_printed_average_is_that_of_its_row() -> None:
    """In mean and standard deviation: the papers' average deviation is the mean of the columns'."""
    assert {name: found for name, table in TABLES.items() if (found := inconsistencies(table))} == {}
    assert sum(AVERAGE in table.columns for table in TABLES.values()) == 11


def test_a_wrong_average_would_be_found() -> None:
    table = TABLES["sgs-table-2"]
    row = table.blocks[10]["dm"]
    for part, wrong in (
        ("mean", Figure(row[-1].mean + 0.2, row[-1].std)),
        ("std", Figure(row[-1].mean, 1.1)),
    ):
        changed = dataclasses.replace(table, blocks={10: {"dm": (*row[:-1], wrong)}})
        assert inconsistencies(changed) == [(10, "dm", part)]


def test_cadm_prints_two_figures_for_the_same_experiment() -> None:
    """PACS without photo stands in its Tables 1 and 2, a little different; both are kept as printed."""
    first, second = TABLES["cadm-table-1-pacs"], TABLES["cadm-table-2"]
    pairs = {
        (row, ipc): (first.figure(ipc, row, "photo").mean, second.figure(ipc, row, "photo").mean)
        for row in ("mmd", "cadm")
        for ipc in (1, 10)
    }
    assert pairs == {
        ("mmd", 1): (16.7, 16.4),
        ("mmd", 10): (40.8, 39.9),
        ("cadm", 1): (25.4, 25.1),
        ("cadm", 10): (48.7, 48.4),
    }


def test_rows_that_the_paper_prints_twice_agree() -> None:
    """The same experiment stands in several tables of SGS."""
    assert TABLES["sgs-table-4"].blocks[10] == TABLES["sgs-table-9-digits-dg"].blocks[10]
    for data in ("digits-dg", "pacs"):
        first, last = TABLES[f"sgs-table-1-{data}"], TABLES[f"sgs-table-9-{data}"]
        inits = TABLES[f"sgs-table-8-{data}"]
        for ipc in (10, 20):
            for row in ("dm", "dm+sgs"):
                assert last.blocks[ipc][row] == first.blocks[ipc][row]
            assert inits.blocks[ipc]["dm+sgs, init uniform"] == first.blocks[ipc]["dm+sgs"]
    for row in ("dm", "dm+sgs"):
        post_hoc = TABLES["sgs-table-3"].blocks[10][row]
        assert post_hoc[:4] == TABLES["sgs-table-1-pacs"].blocks[10][row][:4]


def test_a_figure_is_found_under_any_name_of_its_domain() -> None:
    table = TABLES["sgs-table-1-digits-dg"]
    assert table.figure(10, "dm+sgs", "MNIST-M") == Figure(54.1, 0.9)
    assert table.figure(20, "dm", AVERAGE) == Figure(67.9, 0.8)
    assert TABLES["cadm-table-1-vlcs"].figure(1, "cadm", "VOC2007") == Figure(25.7, None)
    assert table.figure(10, "dm", "svhn_small") is None
    assert table.figure(50, "dm", "mnist") is None
    assert table.figure(10, "cadm", "mnist") is None


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(ValueError, match="no published table 'sgs-table-6'; there are cadm-table-1"):
        published_table("sgs-table-6")
