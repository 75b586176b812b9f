"""The table of a grid: means, deviations, averages, the gain over Random, the paper beside it, formats."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dgdd_fast.commands import cli
from dgdd_fast.experiments.grid import GridIndex
from dgdd_fast.experiments.plan import TableEntry
from dgdd_fast.experiments.study import Study
from dgdd_fast.report.table import AVERAGE, OVER_RANDOM, OVERHEAD, result_table
from dgdd_fast.report.table_formats import format_table

PACS = ["photo", "art_painting", "cartoon", "sketch"]


def number(seed: int, row: str, column: str) -> float:
    """Made up, different for every entry."""
    base = {"random": 20, "dm": 40, "dm+sgs": 50}[row] + PACS.index(column)
    return base + (2.0 if seed else 0.0)


def index_of(
    folder: Path, *, seeds: tuple[int, ...] = (0, 1), columns: list[str] = PACS, **study: Any
) -> GridIndex:
    """A grid in which every evaluation is there, with the accuracies of `number`."""
    rows = ["random", "dm", "dm+sgs"]
    entries = []
    for seed in seeds:
        for column in columns:
            for row in rows:
                file = f"{row}-{column}-{seed}.json"
                write(folder / file, {column: [number(seed, row, column)]}, {column: 10})
                reference = f"random-{column}-{seed}.json"
                entries.append(TableEntry(row, "", 10, column, seed, (column,), True, file, reference, file))
    data = {"name": "PACS", "domains": PACS, "classes": ["dog"], "resolution": [64, 64], "images": 40}
    described = [{"key": row, "label": row.upper(), "sweep": None} for row in rows]
    return GridIndex(folder, Study(seeds=seeds, **study), data, described, columns, [""], entries)


def write(path: Path, accuracies: dict[str, list[float]], images: dict[str, int], **rest: Any) -> None:
    report = {
        "accuracies": {name: {"runs": runs} for name, runs in accuracies.items()},
        "images": images,
        "seconds": 10.0,
        "description": "ConvNet; 1 run",
        "config": {"generalize": "none", "runs": len(next(iter(accuracies.values())))},
    }
    path.write_text(json.dumps({**report, **rest}))


def test_means_deviations_average_and_gain(tmp_path: Path) -> None:
    table = result_table(index_of(tmp_path))
    assert table.columns == [*PACS, AVERAGE, OVER_RANDOM]
    row = table.blocks[10][1]
    assert row.ours["art_painting"].mean == 42.0
    assert row.ours["art_painting"].std == pytest.approx(math.sqrt(2))
    assert row.ours[AVERAGE].mean == 42.5
    assert row.ours[AVERAGE].std == pytest.approx(math.sqrt(2))
    assert row.ours[OVER_RANDOM].mean == pytest.approx(20.0)
    assert OVER_RANDOM not in table.blocks[10][0].ours
    assert table.missing == 0


def test_one_seed_with_several_runs_has_the_spread_of_its_runs(tmp_path: Path) -> None:
    index = index_of(tmp_path, seeds=(0,), columns=["photo"])
    write(tmp_path / "dm-photo-0.json", {"photo": [10.0, 14.0]}, {"photo": 10})
    table = result_table(index)
    assert table.columns == ["photo", OVER_RANDOM]
    assert table.blocks[10][1].ours["photo"] == (12.0, pytest.approx(math.sqrt(8)), 2)
    assert math.isnan(table.blocks[10][2].ours["photo"].std)


def test_test_sets_are_pooled_or_averaged_as_the_protocol_says(tmp_path: Path) -> None:
    index = index_of(tmp_path, seeds=(0,), columns=["photo"])
    for row in ("random", "dm"):
        accuracies, images = {"cartoon": [10.0], "sketch": [40.0]}, {"cartoon": 20, "sketch": 10}
        write(tmp_path / f"{row}-photo-0.json", accuracies, images)
    for pooled, mean in ((True, 20.0), (False, 25.0)):
        entries = [
            dataclasses.replace(entry, tests=("cartoon", "sketch"), pooled=pooled)
            for entry in index.entries
            if entry.row == "dm"
        ]
        row = result_table(index._replace(entries=entries)).blocks[10][1]
        assert row.ours["photo"].mean == pytest.approx(mean)


def test_missing_evaluations_are_counted_and_their_averages_left_out(tmp_path: Path) -> None:
    index = index_of(tmp_path, seeds=(0,))
    (tmp_path / "dm-sketch-0.json").unlink()
    (tmp_path / "random-sketch-0.json").unlink()
    table = result_table(index)
    assert table.missing == 2
    assert "sketch" not in table.blocks[10][1].ours
    assert AVERAGE not in table.blocks[10][1].ours
    assert OVER_RANDOM not in table.blocks[10][2].ours  # one of its references is missing
    assert any("2 evaluations are missing" in note for note in table.notes)
    assert "–" in format_table(table, "text")


def test_a_spread_is_over_seeds_alone_where_the_study_has_several(tmp_path: Path) -> None:
    index = index_of(tmp_path)
    for seed in (0, 1):
        write(tmp_path / f"dm-photo-{seed}.json", {"photo": [10.0, 14.0]}, {"photo": 10})
    complete = result_table(index)
    assert complete.blocks[10][1].ours["photo"] == (12.0, 0.0, 2)
    assert not any("fewer" in note for note in complete.notes)
    assert any("± of the average is the mean" in note for note in complete.notes)
    (tmp_path / "dm-photo-1.json").unlink()
    partial = result_table(index)
    mean, std, samples = partial.blocks[10][1].ours["photo"]
    assert (mean, samples) == (12.0, 1)
    assert math.isnan(std)
    assert any("over fewer than 2 seeds so far" in note for note in partial.notes)


def test_one_seed_says_what_its_spread_is_over(tmp_path: Path) -> None:
    index = index_of(tmp_path, seeds=(0,), columns=["photo"])
    assert "One seed." in result_table(index).notes
    write(tmp_path / "dm-photo-0.json", {"photo": [10.0, 14.0]}, {"photo": 10})
    notes = result_table(index).notes
    assert "One seed: mean ± standard deviation over 2 runs, trainings on the same set." in notes
    assert not any("± of the average" in note for note in notes)


def test_a_note_says_that_settings_were_tuned(tmp_path: Path) -> None:
    plain, tuned = (result_table(index_of(tmp_path, tuned=folder)).notes for folder in (None, "tunings/pacs"))
    (note,) = set(tuned) - set(plain)
    assert "chosen for each column by leaving out one of its source domains" in note


def test_the_note_on_training_is_that_of_the_distilled_rows_and_names_the_others(tmp_path: Path) -> None:
    index = index_of(tmp_path, seeds=(0,), columns=["photo"])
    whole = dataclasses.replace(
        index.entries[0], row="whole", file="whole.json", reference="random-photo-0.json", set_folder=None
    )
    write(tmp_path / "whole.json", {"photo": [90.0]}, {"photo": 10}, description="ConvNet, 5 epochs; 1 run")
    write(tmp_path / "random-photo-0.json", {"photo": [9.0]}, {"photo": 10}, description="ResNet; 1 run")
    rows = [{"key": "whole", "label": "Whole data", "sweep": None}, *index.rows]
    table = result_table(index._replace(entries=[whole, *index.entries], rows=rows))
    assert "Trained on a set: ConvNet." in table.notes
    assert "Whole data: ConvNet, 5 epochs." in table.notes
    assert "RANDOM: ResNet." in table.notes
    assert not any(note.startswith("DM") for note in table.notes)
    assert OVER_RANDOM not in table.blocks[10][0].ours  # nothing is distilled, so there is no budget


def test_an_architecture_of_all_rows_is_named_once(tmp_path: Path) -> None:
    index = index_of(tmp_path, seeds=(0,), columns=["photo"])
    entries = []
    for evaluation, description in (("plain", "ConvNet; 1 run"), ("other", "VGG; 1 run")):
        for entry in index.entries:
            file = f"{evaluation}-{entry.file}"
            write(tmp_path / file, {"photo": [1.0]}, {"photo": 10}, description=description)
            reference = f"{evaluation}-{entry.reference}"
            entries.append(dataclasses.replace(entry, evaluation=evaluation, file=file, reference=reference))
    table = result_table(index._replace(entries=entries, evaluations=["plain", "other"]))
    assert table.columns[:2] == ["plain", "other"]
    assert "Trained on a set: ConvNet." in table.notes
    assert "other: VGG." in table.notes


def test_columns_of_several_domains_and_evaluations_name_both(tmp_path: Path) -> None:
    index = index_of(tmp_path, seeds=(0,), columns=PACS[:2])
    entries = [
        dataclasses.replace(entry, evaluation=name) for name in ("plain", "other") for entry in index.entries
    ]
    columns = result_table(index._replace(entries=entries, evaluations=["plain", "other"])).columns
    assert set(columns) >= {"photo, plain", "photo, other", "art_painting, plain", "art_painting, other"}


def test_the_papers_figures_stand_beside_the_same_domains(tmp_path: Path) -> None:
    table = result_table(index_of(tmp_path, published=("sgs-table-1-pacs",)))
    row = table.blocks[10][2]
    assert row.paper["photo"].mean == 53.8
    assert row.paper[AVERAGE].mean == 38.6
    assert "51.0 ± 1.4 (53.8)" in format_table(table, "text")
    part = result_table(index_of(tmp_path, columns=PACS[:2], published=("sgs-table-1-pacs",)))
    assert "photo" in part.blocks[10][2].paper
    assert AVERAGE not in part.blocks[10][2].paper  # of other columns than these


def test_a_generalising_training_shows_its_overhead(tmp_path: Path) -> None:
    index = index_of(tmp_path, seeds=(0,), columns=["photo"])
    config = {"generalize": "fact", "runs": 1}
    write(tmp_path / "dm+sgs-photo-0.json", {"photo": [1.0]}, {"photo": 10}, seconds=25.0, config=config)
    table = result_table(index)
    assert [row.ours[OVERHEAD].mean for row in table.blocks[10]] == [1.0, 1.0, 2.5]
    # Of one training: five on the same set take five times as long. The first distilled row is the measure.
    config = {"generalize": "none", "runs": 5}
    write(tmp_path / "dm-photo-0.json", {"photo": [1.0] * 5}, {"photo": 10}, seconds=100.0, config=config)
    assert [row.ours[OVERHEAD].mean for row in result_table(index).blocks[10]] == [0.5, 1.0, 1.25]


def test_all_data_are_never_the_best_and_the_best_is_marked_in_each_format(tmp_path: Path) -> None:
    index = index_of(tmp_path, columns=["photo"])
    write(tmp_path / "whole.json", {"photo": [90.0]}, {"photo": 10})
    whole = [
        TableEntry(
            "whole", "", 10, "photo", seed, ("photo",), True, "whole.json", "random-photo-0.json", None
        )
        for seed in (0, 1)
    ]
    rows = [*index.rows, {"key": "whole", "label": "Whole data", "sweep": None}]
    table = result_table(index._replace(entries=[*index.entries, *whole], rows=rows))
    for form, best, other in (
        ("markdown", "**51.0 ± 1.4**", "**90.0"),
        ("latex", r"\textbf{51.0", r"\textbf{90.0"),
        ("html", "<b>51.0 ± 1.4</b>", "<b>90.0"),
        ("text", "51.0 ± 1.4 *", "90.0 ± 0.0 *"),
    ):
        text = format_table(table, form)
        assert best in text
        assert other not in text
        assert "90.0" in text
    assert "+30.0" in format_table(table, "text")


def test_bold_is_only_what_the_interval_supports(tmp_path: Path) -> None:
    index = index_of(tmp_path, columns=["photo"], seeds=(0, 1, 2))
    for seed, gain in enumerate((1.0, 2.0, 6.0)):  # mean 3, of which the interval reaches below 0
        write(tmp_path / f"dm-photo-{seed}.json", {"photo": [40.0]}, {"photo": 10})
        write(tmp_path / f"dm+sgs-photo-{seed}.json", {"photo": [40.0 + gain]}, {"photo": 10})
    assert "**" not in format_table(result_table(index), "markdown")
    write(tmp_path / "dm+sgs-photo-2.json", {"photo": [41.5]}, {"photo": 10})  # 1, 2 and 1.5
    assert "**41.5 ± 0.5**" in format_table(result_table(index), "markdown")
    # One seed supports nothing, however many trainings there are.
    one = index_of(tmp_path, columns=["photo"], seeds=(0,))
    write(tmp_path / "dm+sgs-photo-0.json", {"photo": [80.0, 80.1, 80.2]}, {"photo": 10})
    table = result_table(one)
    assert "**" not in format_table(table, "markdown")
    assert not any("Bold" in note for note in table.notes)


def test_differences_to_a_row_are_paired_by_seed_with_the_trainings_averaged(tmp_path: Path) -> None:
    index = index_of(tmp_path, columns=PACS[:2], seeds=(0, 1, 2))
    for seed, gain in enumerate((1.0, 2.0, 6.0)):
        base = 10.0 * seed  # seeds differ far more than methods
        write(tmp_path / f"dm-photo-{seed}.json", {"photo": [base, base + 2]}, {"photo": 10})
        write(
            tmp_path / f"dm+sgs-photo-{seed}.json", {"photo": [base + gain, base + gain + 2]}, {"photo": 10}
        )
        write(tmp_path / f"dm-art_painting-{seed}.json", {"art_painting": [50.0]}, {"art_painting": 10})
        write(tmp_path / f"dm+sgs-art_painting-{seed}.json", {"art_painting": [52.0]}, {"art_painting": 10})
    for name in ("dm", "DM"):  # the key or the label
        table = result_table(index, name)
        assert table.against == "DM"
        rows = {row.key: row for row in table.blocks[10]}
        reach = 4.3027 * math.sqrt(7) / math.sqrt(3)
        differences = rows["dm+sgs"].differences
        assert differences["photo"][:3] == pytest.approx((3, 3 - reach, 3 + reach), abs=1e-3)
        assert differences["art_painting"] == (2.0, 2.0, 2.0, 3)
        # Of averages: 1.5, 2 and 4 at the three seeds.
        assert differences[AVERAGE].mean == pytest.approx(2.5)
        assert differences[AVERAGE].low == pytest.approx(2.5 - reach / 2, abs=1e-3)
        assert rows["dm"].differences == {}
        assert rows["dm+sgs"].ahead == {"art_painting"}
        assert rows["random"].ahead == frozenset()
    shown = "52.0 ± 0.0 +2.0 [+2.0, +2.0]"
    assert f"**{shown}**" in format_table(table, "markdown")
    assert rf"\textbf{{{shown}}}".replace(" ± ", r" {\scriptsize$\pm$}") in format_table(table, "latex")
    assert f"<b>{shown}</b>" in format_table(table, "html")
    assert f"{shown} *" in format_table(table, "text")
    assert any("difference to DM at the same seed" in note for note in table.notes)
    read = list(csv.DictReader(io.StringIO(format_table(table, "csv"))))
    (found,) = [one for one in read if (one["row"], one["column"]) == ("dm+sgs", "photo")]
    assert float(found["difference"]) == pytest.approx(3)
    assert float(found["difference_high"]) == pytest.approx(3 + reach, abs=1e-3)
    assert found["pairs"] == "3"
    with pytest.raises(ValueError, match=r"no row 'hdd' to compare with .* there are random, dm, dm\+sgs"):
        result_table(index, "hdd")


def test_only_common_seeds_are_compared_and_it_is_said(tmp_path: Path) -> None:
    index = index_of(tmp_path, columns=["photo"], seeds=(0, 1, 2))
    (tmp_path / "dm-photo-2.json").unlink()
    table = result_table(index, "dm")
    assert table.blocks[10][2].differences["photo"] == (10.0, 10.0, 10.0, 2)
    assert any("over fewer than 3 seeds, those that both rows have" in note for note in table.notes)
    (tmp_path / "dm+sgs-photo-1.json").unlink()
    table = result_table(index, "dm")
    assert "+10.0" in format_table(table, "text")
    assert "[" not in format_table(table, "text").splitlines()[5]
    assert table.blocks[10][2].ahead == frozenset()


def test_one_seed_has_differences_without_an_interval(tmp_path: Path) -> None:
    table = result_table(index_of(tmp_path, columns=["photo"], seeds=(0,)), "dm")
    assert "50.0 +10.0 " in format_table(table, "markdown")
    assert "**" not in format_table(table, "markdown")
    assert any("One seed: no interval, and nothing in bold." in note for note in table.notes)


def test_every_format_holds_every_number(tmp_path: Path) -> None:
    table = result_table(index_of(tmp_path, published=("sgs-table-1-pacs",)))
    for form in ("text", "markdown", "latex", "csv", "html"):
        text = format_table(table, form)
        for row in table.blocks[10]:
            assert row.label in text
            for found in row.ours.values():
                assert f"{found.mean:.1f}" in text
    markdown = format_table(table, "markdown").splitlines()
    assert sum("**51.0 ± 1.4 (53.8)**" in line for line in markdown) == 1
    assert {line.count("|") for line in markdown if line.startswith("|")} == {8}
    latex = format_table(table, "latex").splitlines()
    rows = [line for line in latex if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count("&") for line in rows} == {len(table.columns)}
    assert any("art\\_painting" in line for line in rows)
    read = list(csv.DictReader(io.StringIO(format_table(table, "csv"))))
    (found,) = [one for one in read if (one["row"], one["column"]) == ("dm", "photo")]
    assert float(found["mean"]) == 41.0
    assert float(found["paper_mean"]) == 48.0
    with pytest.raises(ValueError, match="must be one of text, markdown, latex, csv, html, json, got 'word'"):
        format_table(table, "word")


def test_the_command_reads_a_grid_and_refuses_another_folder(tmp_path: Path) -> None:
    study = {
        "targets": ["street"],
        "methods": ["dm"],
        "ipc": [1],
        "seeds": [0],
        "distill": {"iterations": 1, "batch_real": 2, "network": {"width": 2}},
        "evaluate": {"epochs": 1},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    out = tmp_path / "out"
    runner = CliRunner()
    assert runner.invoke(cli.app, ["grid", str(tmp_path / "study.yaml"), "--out", str(out)]).exit_code == 0
    shown = runner.invoke(cli.app, ["table", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "DM" in shown.output
    compared = runner.invoke(cli.app, ["table", str(out), "--against", "dm"])
    assert "difference to DM" in compared.output
    unknown = runner.invoke(cli.app, ["table", str(out), "--against", "hdd"])
    assert unknown.exit_code == 2
    assert "no row 'hdd'" in unknown.output
    assert "street" in shown.output
    file = tmp_path / "table.tex"
    assert runner.invoke(cli.app, ["table", str(out), "--format", "latex", "--out", str(file)]).exit_code == 0
    assert "tabular" in file.read_text()
    refused = runner.invoke(cli.app, ["table", str(tmp_path)])
    assert refused.exit_code == 2
    assert "is not the folder of a grid" in refused.output


@pytest.mark.parametrize("command", ["table", "report"])
@pytest.mark.parametrize(
    ("holds", "said"),
    [
        ("tuning.json", "what it chose is in tuning.json, for dgdd grid STUDY --tuned"),
        ("config.yaml", "that of a run, which dgdd report"),
        ("other", "make one with dgdd grid"),
        (None, "make one with dgdd grid"),
    ],
)
def test_another_folder_than_a_grid_s_says_what_to_do(
    tmp_path: Path, command: str, holds: str | None, said: str
) -> None:
    folder = tmp_path / "folder"
    if holds is not None:
        folder.mkdir()
        (folder / holds).write_text("data: [")
    result = CliRunner().invoke(cli.app, [command, str(folder)])
    assert result.exit_code == 2
    if (command, holds) != ("report", "config.yaml"):
        assert said in "".join(result.output.split("\n"))
    assert folder.exists() == (holds is not None)
    assert not (folder / "report.html").exists()


def test_names_that_mean_something_to_a_format_are_escaped(tmp_path: Path) -> None:
    table = result_table(index_of(tmp_path))
    names = {"photo": "a|b", "art_painting": r"c\xe9^~$"}
    table = dataclasses.replace(table, columns=[names.get(name, name) for name in table.columns])
    heads = [line for line in format_table(table, "markdown").splitlines() if "per class" in line]
    assert all(r"| a\|b |" in line for line in heads)
    assert r"c\textbackslash{}xe9\textasciicircum{}\textasciitilde{}\$" in format_table(table, "latex")
