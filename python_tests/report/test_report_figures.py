"""What the figures of a report draw, read back from their axes: the right numbers, at the right places."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgdd_fast.analysis.channels import Stability
from dgdd_fast.experiments.grid import GridIndex
from dgdd_fast.experiments.plan import TableEntry
from dgdd_fast.experiments.published import AVERAGE
from dgdd_fast.experiments.study import Study
from dgdd_fast.experiments.tune import Trial
from dgdd_fast.report.channel_figure import SHOWN_CHANNELS, channel_figure
from dgdd_fast.report.curves import png_of, sensitivity_figure, time_figure, tuning_figure
from dgdd_fast.report.table import Number, ResultTable, TableRow

ALPHA, EPOCHS = "distill.surgery.alpha", "evaluate.epochs"


def curves(axes: Axes) -> dict[str, list[tuple[float, float, float]]]:
    """What is drawn with bars, by label: x, y and half the length of the bar at every point."""
    found = {}
    for container in axes.containers:
        line, _, (bars,) = container.lines
        points = line.get_xydata()
        for (x, y), ((left, low), (right, high)) in zip(points, bars.get_segments(), strict=True):
            assert left == right == x
            assert high + low == pytest.approx(2 * y)
        lengths = [(high - low) / 2 for (_, low), (_, high) in bars.get_segments()]
        found[container.get_label()] = [
            (float(x), float(y), pytest.approx(length))
            for (x, y), length in zip(points, lengths, strict=True)
        ]
    return found


def levels(axes: Axes) -> dict[str, float]:
    """The horizontal lines, by label."""
    drawn = {line for container in axes.containers for line in container.lines[0:1]}
    lines = [line for line in axes.lines if line not in drawn and line.get_linestyle() == "--"]
    for line in lines:
        assert len(set(line.get_ydata())) == 1
    return {line.get_label(): float(line.get_ydata()[0]) for line in lines}


def entry(key: str, of: str | None = None, sweep: tuple[str, Any] | None = None) -> dict[str, Any]:
    return {"key": key, "label": key.upper(), "entry": of or key, "sweep": sweep}


def table_of(
    entries: list[dict[str, Any]], numbers: dict[int, dict[str, tuple[float, float]]], columns: list[str]
) -> ResultTable:
    """`numbers` by budget and row: mean and deviation, in the last of `columns`; elsewhere other ones."""
    blocks = {
        ipc: [
            TableRow(
                one["key"],
                one["label"],
                {column: Number(*values[one["key"]], 3) for column in columns[-1:] if one["key"] in values}
                | {column: Number(-1.0, -1.0, 3) for column in columns[:-1]},
                {},
            )
            for one in entries
        ]
        for ipc, values in numbers.items()
    }
    return ResultTable("trial", columns, blocks, [], 0)


def index_of(folder: Path, entries: list[dict[str, Any]], cells: list[TableEntry], **study: Any) -> GridIndex:
    return GridIndex(folder, Study(**study), {}, entries, ["a", "b"], [""], cells)


# --- sensitivity ---

SWEPT = [
    entry("random"),
    entry("dm"),
    entry("dm+sgs"),
    entry("sgs, 20", "dm+sgs", (ALPHA, 20)),  # not in order
    entry("sgs, 0.5", "dm+sgs", (ALPHA, 0.5)),
    entry("sgs, 1", "dm+sgs", (ALPHA, 1)),
    entry("dm, 30", "dm", (EPOCHS, 30)),
    entry("dm, 60", "dm", (EPOCHS, 60)),
    entry("sgs, 30 epochs", "dm+sgs", (EPOCHS, 30)),
]
ACCURACIES = {
    1: {
        "random": (10.0, 1.0), "dm": (20.0, 1.1), "dm+sgs": (30.0, 1.2),
        "sgs, 20": (31.0, math.nan), "sgs, 0.5": (32.0, 0.2), "sgs, 1": (33.0, 0.3),
        "dm, 30": (21.0, 0.4), "dm, 60": (22.0, 0.5), "sgs, 30 epochs": (34.0, 0.6),
    },
    10: {"random": (40.0, 1.0), "dm+sgs": (50.0, 2.0), "sgs, 1": (51.0, 0.5)},  # not finished
}  # fmt: skip


def test_the_sensitivity_curves_are_those_of_the_table(tmp_path: Path) -> None:
    index = index_of(tmp_path, SWEPT, [], sweeps={ALPHA: (20, 0.5, 1), EPOCHS: (30, 60)}, ipc=(1, 10))
    figure = sensitivity_figure(index, table_of(SWEPT, ACCURACIES, ["a", "b", AVERAGE]))
    assert figure is not None
    first, second, third, fourth = figure.axes
    assert curves(first) == {"DM+SGS": [(0.5, 32.0, 0.2), (1.0, 33.0, 0.3), (20.0, 31.0, 0.0)]}
    assert levels(first) == {"RANDOM": 10.0, "DM": 20.0}
    assert curves(second) == {
        "DM": [(30.0, 21.0, 0.4), (60.0, 22.0, 0.5)],
        "DM+SGS": [(30.0, 34.0, 0.6)],
    }
    assert levels(second) == {"RANDOM": 10.0}
    assert curves(third) == {"DM+SGS": [(1.0, 51.0, 0.5)]}
    assert levels(third) == {"RANDOM": 40.0}
    assert curves(fourth) == {}
    assert levels(fourth) == {"RANDOM": 40.0, "DM+SGS": 50.0}
    assert [axes.get_xlabel() for axes in figure.axes] == ["surgery.alpha", "evaluate.epochs"] * 2
    assert {axes.get_ylabel() for axes in figure.axes} == {"accuracy (%)"}
    assert [axes.get_title() for axes in figure.axes] == ["1 per class"] * 2 + ["10 per class"] * 2
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "linear", "linear", "linear"]
    shown = [text.get_text() for text in first.get_legend().get_texts()]
    assert sorted(shown) == ["DM", "DM+SGS", "RANDOM"]
    without_sweep = index._replace(study=Study())
    assert sensitivity_figure(without_sweep, table_of(SWEPT, ACCURACIES, [AVERAGE])) is None


def test_settings_that_are_no_numbers_stand_in_the_order_of_the_study(tmp_path: Path) -> None:
    norm, values = "distill.network.norm", ("none", "instance", None)
    swept = [entry("dm"), *(entry(f"dm, {value}", "dm", (norm, value)) for value in values)]
    accuracies = {1: {"dm": (9.0, 1.0), "dm, instance": (20.0, 0.5), "dm, none": (30.0, 0.2)}}
    index = index_of(tmp_path, swept, [], sweeps={norm: values})
    figure = sensitivity_figure(index, table_of(swept, accuracies, ["a"]))
    assert figure is not None
    (axes,) = figure.axes
    assert curves(axes) == {"DM": [(0.0, 30.0, 0.2), (1.0, 20.0, 0.5)]}
    ticks = dict(zip(axes.get_xticks(), axes.get_xticklabels(), strict=True))
    assert {x: text.get_text() for x, text in ticks.items()} == {0: "none", 1: "instance", 2: "None"}
    assert png_of(figure).startswith(b"\x89PNG")


# --- accuracy against time ---


def test_the_times_are_medians_of_one_training_and_lie_along_x(tmp_path: Path) -> None:
    entries = [entry("whole"), entry("random"), entry("dm"), entry("dm, 2", "dm", (ALPHA, 2))]
    seconds = {
        "random": [2.0, 8.0, 4.0],
        "dm": [30.0, 10.0, 50.0],
        "dm, 2": [900.0] * 3,
        "whole": [900.0] * 3,
    }
    cells = []
    for row, times in seconds.items():
        for seed, time in enumerate(times):
            report = {
                "accuracies": {"a": {"runs": [1.0, 2.0]}},
                "images": {"a": 5},
                "seconds": time,
                "description": "ConvNet; 2 runs",
                "config": {"generalize": "none", "runs": 2},
            }
            file = f"{row}-{seed}.json"
            (tmp_path / file).write_text(json.dumps(report))
            place = None if row == "whole" else "folder"
            cells.append(TableEntry(row, "", 1, "a", seed, ("a",), True, file, file, place))
    cells.append(TableEntry("dm", "", 1, "a", 9, ("a",), True, "missing.json", "missing.json", "folder"))
    numbers = {1: {"whole": (90.0, 1.0), "random": (40.0, 1.5), "dm": (60.0, math.nan), "dm, 2": (70.0, 1.0)}}
    index = index_of(tmp_path, entries, cells)
    figure = time_figure(index, table_of(entries, numbers, ["a"]))
    assert figure is not None
    (axes,) = figure.axes
    assert curves(axes) == {"RANDOM": [(2.0, 40.0, 1.5)], "DM": [(15.0, 60.0, 0.0)]}
    assert axes.get_xlim() == (0.0, pytest.approx(1.05 * 15.0))
    assert axes.get_xlabel() == "one training and its test (s)"
    assert axes.get_ylabel() == "accuracy (%)"
    assert axes.get_title() == "1 per class"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["RANDOM", "DM"]
    assert time_figure(index, table_of(entries, {1: {}}, ["a"])) is None


# --- the stability of channels ---


def test_the_channels_are_sorted_above_and_scored_by_domain_below() -> None:
    random = torch.Generator().manual_seed(0)
    names, channels = ("photo", "sketch"), SHOWN_CHANNELS + 8
    found = {}
    for label in ("MMD", "CADM"):
        scores = torch.randn(2, len(names), channels, generator=random)  # of two experts
        found[label] = Stability(scores, scores.std(1, correction=0))
    figure = channel_figure(found, names)
    above, *below = figure.axes
    assert [line.get_label() for line in above.lines] == ["MMD", "CADM"]
    for line, stability in zip(above.lines, found.values(), strict=True):
        deviation = stability.scores[0].std(0, correction=0).numpy()
        np.testing.assert_allclose(line.get_ydata(), -np.sort(-deviation))
        np.testing.assert_array_equal(line.get_xdata(), np.arange(channels))
    assert above.get_xlabel() == "channels, the least stable first"
    assert above.get_ylabel() == "deviation of the score\nover the domains"
    for axes, (label, stability) in zip(below, found.items(), strict=True):
        assert axes.get_title() == f"{label}: scores of the first {SHOWN_CHANNELS} channels of the last stage"
        assert axes.get_ylabel() == "score"
        assert [bars.get_label() for bars in axes.containers] == list(names)
        for bars, scores in zip(axes.containers, stability.scores[0], strict=True):
            heights = [bar.get_height() for bar in bars]
            np.testing.assert_allclose(heights, scores[:SHOWN_CHANNELS].numpy(), rtol=1e-6)
            middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
            np.testing.assert_array_equal(np.round(middles), np.arange(SHOWN_CHANNELS))
        low, high = axes.get_ylim()
        drawn = [bar.get_height() for bars in axes.containers for bar in bars]
        assert low < min(drawn)
        assert high > max(drawn)


# --- a tuning ---

LEARNING_RATE = "distill.image_lr"


def test_a_tuning_shows_every_trial_and_rings_the_best() -> None:
    both = [
        Trial({LEARNING_RATE: 1.0, ALPHA: 2.0}, {"x": 30.0, "y": 50.0}),
        Trial({LEARNING_RATE: 0.1, ALPHA: 3.0}, {"x": 60.0, "y": 70.0}),
        Trial({LEARNING_RATE: 5.0, ALPHA: 1.0}, {"x": 10.0, "y": 10.0}),
    ]
    one = [Trial({LEARNING_RATE: 3.0}, {"x": 20.0}), Trial({LEARNING_RATE: 2.0}, {"x": 10.0})]
    other = [Trial({LEARNING_RATE: 1.0}, {"z": 5.0})]
    figure = tuning_figure({"photo": {"dm+sgs": {10: both}, "dm": {10: one}}, "sketch": {"dm": {10: other}}})
    panels = {(axes.get_title(), axes.get_xlabel()): axes for axes in figure.axes if axes.get_visible()}
    assert set(panels) == {
        ("dm+sgs, 10 per class", "image_lr"),
        ("dm+sgs, 10 per class", "surgery.alpha"),
        ("dm, 10 per class", "image_lr"),
    }
    assert {axes.get_ylabel() for axes in panels.values()} == {"accuracy on the sources\nleft out (%)"}
    assert drawn(panels["dm+sgs, 10 per class", "image_lr"]) == [
        ("photo", "C0", "None", [(0.1, 65.0), (1.0, 40.0), (5.0, 10.0)], [(0.1, 65.0)])
    ]
    assert drawn(panels["dm+sgs, 10 per class", "surgery.alpha"]) == [
        ("photo", "C0", "None", [(1.0, 10.0), (2.0, 40.0), (3.0, 65.0)], [(3.0, 65.0)])
    ]
    assert drawn(panels["dm, 10 per class", "image_lr"]) == [
        ("photo", "C0", "-", [(2.0, 10.0), (3.0, 20.0)], [(3.0, 20.0)]),  # a curve: nothing else varied
        ("sketch", "C1", "-", [(1.0, 5.0)], [(1.0, 5.0)]),
    ]
    assert panels["dm+sgs, 10 per class", "image_lr"].get_xscale() == "log"
    assert panels["dm+sgs, 10 per class", "surgery.alpha"].get_xscale() == "linear"
    assert figure.legends[0].get_title().get_text() == "held out for the test; no trial has seen it"


def drawn(axes: Axes) -> list[tuple[str, str, str, list[tuple[float, float]], list[tuple[float, float]]]]:
    """Label, colour, style, trials and ring, column by column."""
    found = []
    for trials, ring in zip(axes.lines[::2], axes.lines[1::2], strict=True):
        assert (ring.get_fillstyle(), ring.get_color()) == ("none", trials.get_color())
        points = [[tuple(point) for point in line.get_xydata().tolist()] for line in (trials, ring)]
        found.append((trials.get_label(), trials.get_color(), trials.get_linestyle(), *points))
    return found


def test_a_dollar_in_a_name_is_no_formula() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1, 10], [1, 2], label=r"a$x_{$b")
    axes.set(title=r"c$_{$", xlabel=r"d$^{$", ylabel=r"e$\nothing$")
    axes.legend()
    figure.legend(*axes.get_legend_handles_labels())
    assert png_of(figure).startswith(b"\x89PNG")
