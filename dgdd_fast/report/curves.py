"""Curves: what a tuning tried, and how an accuracy depends on a setting."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..experiments.tune import Trial, Trials, best
from ..files import write_atomically


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG, the same bytes for the same figure."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def draw_tuning(path: str | Path, trials: Trials) -> None:
    """Write a PNG with a row for each method and budget and a panel for each setting that was tried: the
    value of every trial, and its accuracy on the sources left out. A colour is a column of the study; the
    choice is ringed.
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
    write_atomically(Path(path), png_of(figure))


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
