"""Curves: what a tuning tried, how the accuracy depends on a setting, and what it costs in time."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from ..experiments.grid import GridIndex
from ..experiments.published import AVERAGE
from ..experiments.tune import Trial, Trials, best
from ..extras import extra
from .table import Number, ResultTable, TableRow, seconds_per_training

with extra("report", "drawing curves"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG, the same bytes for the same figure; a $ in a name is no formula."""
    FigureCanvasAgg(figure)
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    for axes in figure.axes:
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts):
            text.set_parse_math(False)
    for text in (text for legend in legends if legend is not None for text in legend.get_texts()):
        text.set_parse_math(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def tuning_figure(trials: Trials) -> Figure:
    """A row for each method and budget and a panel for each setting that was tried: the value of every trial,
    and its accuracy on the sources left out. A colour is a column of the study; the choice is ringed.

    Args:
        trials: at least one.
    """
    lines = [(row, ipc) for rows in trials.values() for row, budgets in rows.items() for ipc in budgets]
    lines = list(dict.fromkeys(lines))
    settings = list(
        dict.fromkeys(
            name
            for rows in trials.values()
            for budgets in rows.values()
            for tried in budgets.values()
            for name in tried[0].settings
        )
    )
    size = (3.4 * len(settings) + 0.6, 2.6 * len(lines) + 0.8)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(len(lines), len(settings), squeeze=False)
    for axes_row, (row, ipc) in zip(grid, lines, strict=True):
        for axes, setting in zip(axes_row, settings, strict=True):
            tried_in = {
                column: rows[row][ipc]
                for column, rows in trials.items()
                if ipc in rows.get(row, {}) and setting in rows[row][ipc][0].settings
            }
            axes.set_visible(bool(tried_in))
            for place, (column, tried) in enumerate(tried_in.items()):
                _draw_trials(axes, setting, column, f"C{place}", tried)
            axes.set_title(f"{row}, {ipc} per class", fontsize=10)
            axes.set_xlabel(setting.removeprefix("distill."))
            axes.set_ylabel("accuracy on the sources\nleft out (%)", fontsize=9)
            axes.grid(alpha=0.3)
    handles, labels = next(axes.get_legend_handles_labels() for axes in grid.flat if axes.get_visible())
    title = "held out for the test; no trial has seen it"
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), title=title)
    return figure


def _draw_trials(axes: Axes, setting: str, column: str, colour: str, trials: list[Trial]) -> None:
    # Only where it is all that was varied does one setting make a curve.
    line = "o-" if len(trials[0].settings) == 1 else "o"
    points = sorted((trial.settings[setting], trial.mean) for trial in trials)
    values, accuracies = zip(*points, strict=True)
    axes.plot(values, accuracies, line, color=colour, markersize=4, linewidth=0.8, alpha=0.8, label=column)
    winner = best(trials)
    place = (winner.settings[setting], winner.mean)
    axes.plot(*place, "o", color=colour, markersize=11, fillstyle="none", markeredgewidth=2)
    scale_to(axes, values)


def scale_to(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis, with plain numbers at it, where positive `values` span more than a decade."""
    if min(values) > 0 and max(values) / min(values) > 10:
        axes.set_xscale("log")
        wide = max(values) / min(values) > 1000
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())


def overall(table: ResultTable, row: TableRow) -> Number | None:
    """The average of a row over the columns, or its only column; None while something is missing."""
    return row.ours.get(AVERAGE if AVERAGE in table.columns else table.columns[0])


def sensitivity_figure(index: GridIndex, table: ResultTable) -> Figure | None:
    """A panel for each setting that was swept and each budget: the accuracy of every method that has it, with
    its deviation over the seeds, and the others as dashed lines. Values that are no numbers stand in the
    order of the study. None without a sweep."""
    settings = list(index.study.sweeps)
    if not settings:
        return None
    size = (4.6 * len(settings), 3.4 * len(table.blocks))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(len(table.blocks), len(settings), squeeze=False)
    index_rows = {row["key"]: row for row in index.rows}
    for axes_row, (ipc, rows) in zip(grid, table.blocks.items(), strict=True):
        for axes, setting in zip(axes_row, settings, strict=True):
            tried = index.study.sweeps[setting]
            is_number = all(type(value) in (int, float) for value in tried)
            lines: dict[str, list[tuple[float, Number]]] = {}
            for row in rows:
                index_row, number = index_rows[row.key], overall(table, row)
                if index_row["sweep"] and index_row["sweep"][0] == setting and number is not None:
                    value = index_row["sweep"][1]
                    place = value if is_number else tried.index(value)
                    lines.setdefault(index_row["entry"], []).append((place, number))
            for place, (key, points) in enumerate(lines.items()):
                values, numbers = zip(*sorted(points), strict=True)
                spread = [0.0 if math.isnan(number.std) else number.std for number in numbers]
                means = [number.mean for number in numbers]
                axes.errorbar(
                    values,
                    means,
                    spread,
                    fmt="o-",
                    color=f"C{place}",
                    capsize=3,
                    label=index_rows[key]["label"],
                )
                if is_number:
                    scale_to(axes, values)
            if not is_number:
                axes.set_xticks(range(len(tried)), map(str, tried))
            others = [row for row in rows if row.key not in lines and not index_rows[row.key]["sweep"]]
            for place, row in enumerate(others):
                number = overall(table, row)
                if number is not None:
                    colour = f"C{place + len(lines)}"
                    axes.axhline(number.mean, color=colour, linestyle="--", linewidth=1, label=row.label)
            axes.set_title(f"{ipc} per class", fontsize=10)
            axes.set_xlabel(setting.removeprefix("distill."))
            axes.set_ylabel("accuracy (%)")
            axes.grid(alpha=0.3)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8)
    return figure


def time_figure(index: GridIndex, table: ResultTable) -> Figure | None:
    """Accuracy against the time of one training and its test, a panel for each budget; None without any."""
    seconds = seconds_per_training(index)
    swept = {row["key"] for row in index.rows if row["sweep"]}
    points = {
        ipc: [
            (row.label, statistics.median(seconds[row.key, ipc]), number)
            for row in rows
            if row.key not in swept and (row.key, ipc) in seconds and (number := overall(table, row))
        ]
        for ipc, rows in table.blocks.items()
    }
    if not any(points.values()):
        return None
    figure = Figure(figsize=(5.2 * len(points) + 1.6, 3.8), dpi=100, layout="constrained")
    for axes, (ipc, found) in zip(
        figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True
    ):
        for place, (label, time, number) in enumerate(found):
            spread = 0.0 if math.isnan(number.std) else number.std
            marker = "os^Dv"[place // 10 % 5]
            axes.errorbar(time, number.mean, spread, fmt=marker, color=f"C{place}", capsize=3, label=label)
        axes.set_title(f"{ipc} per class", fontsize=10)
        axes.set_xlabel("one training and its test (s)")
        axes.set_ylabel("accuracy (%)")
        axes.set_xlim(0, 1.05 * max((time for _, time, _ in found), default=1.0))
        axes.grid(alpha=0.3)
    fullest = max(figure.axes, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    figure.legend(*fullest.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def mean_over(iterations: int) -> int:
    """How many iterations the running mean of a loss is over."""
    return max(1, iterations // 50)


def losses_figure(iterations: Sequence[float], columns: Mapping[str, Sequence[float]]) -> Figure:
    """The loss by iteration, and the terms that it is the sum of, each with its running mean.

    Args:
        iterations: their numbers, at least one.
        columns: by name, as long.
    """
    figure = Figure(figsize=(8, 3.6), dpi=100, layout="constrained")
    axes = figure.subplots()
    window = mean_over(len(iterations))
    for place, (name, values) in enumerate(columns.items()):
        colour = f"C{place}"
        means = np.convolve(values, np.full(window, 1 / window), mode="valid")
        axes.plot(iterations, values, color=colour, linewidth=0.6, alpha=0.35 if window > 1 else 1)
        axes.plot(iterations[window - 1 :], means, color=colour, linewidth=1.8, label=name)
    if all(value > 0 for values in columns.values() for value in values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="y", which="minor", labelsize=8)
    axes.set_xlabel("iteration")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return figure
