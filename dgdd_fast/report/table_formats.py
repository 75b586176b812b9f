"""A table of results as text, Markdown, LaTeX, CSV or HTML."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from html import escape

from ..experiments.study import WHOLE
from .table import OVER_RANDOM, OVERHEAD, ResultTable, TableRow

FORMATS = ("text", "markdown", "latex", "csv", "html")


def format_table(table: ResultTable, form: str) -> str:
    """The table as text, markdown, latex, csv or a piece of html. Raises ValueError for another format."""
    if form not in FORMATS:
        raise ValueError(f"the format must be one of {', '.join(FORMATS)}, got {form!r}")
    return {"text": _text, "markdown": _markdown, "latex": _latex, "csv": _csv, "html": _html}[form](table)


def _shown(row: TableRow, column: str, plus_minus: str = " ± ") -> str:
    """``67.7 ± 0.6 (67.7)``: what was measured, and the paper's in brackets."""
    number, figure = row.ours.get(column), row.paper.get(column)
    text = "–"
    if number is not None:
        sign = "+" if column == OVER_RANDOM else ""
        text = f"{round(number.mean, 1) + 0.0:{sign}.1f}"  # + 0.0: no minus before a zero
        if not math.isnan(number.std):
            text += f"{plus_minus}{number.std:.1f}"
    return text if figure is None else f"{text} ({figure.mean:.1f})"


def _best(rows: Sequence[TableRow], column: str) -> float | None:
    """The highest accuracy of a column, without training on all data."""
    if column in (OVER_RANDOM, OVERHEAD):
        return None
    means = [row.ours[column].mean for row in rows if row.key != WHOLE and column in row.ours]
    return max(means) if len(means) > 1 else None


def _leads(row: TableRow, column: str, best: float | None) -> bool:
    """Whether a number is the `best` of its column; that of all data never is."""
    return column in row.ours and row.ours[column].mean == best and row.key != WHOLE


def _text(table: ResultTable) -> str:
    lines = [table.title]
    for ipc, rows in table.blocks.items():
        grid = [[f"{ipc} per class", *table.columns]]
        grid += [[row.label, *(_shown(row, column) for column in table.columns)] for row in rows]
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        lines.append("")
        for number, texts in enumerate(grid):
            first, *rest = (
                text.ljust(width) if place == 0 else text.rjust(width)
                for place, (text, width) in enumerate(zip(texts, widths, strict=True))
            )
            lines.append("  ".join([first, *rest]).rstrip())
            if number == 0:
                lines.append("  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *table.notes]) + "\n"


def _markdown(table: ResultTable) -> str:
    lines = [f"### {table.title}"]
    for ipc, rows in table.blocks.items():
        lines += [
            "",
            f"| {ipc} per class | " + " | ".join(table.columns) + " |",
            "| --- |" + " ---: |" * len(table.columns),
        ]
        best = {column: _best(rows, column) for column in table.columns}
        for row in rows:
            texts = []
            for column in table.columns:
                text = _shown(row, column)
                texts.append(f"**{text}**" if _leads(row, column, best[column]) else text)
            lines.append(f"| {row.label.replace('|', chr(92) + '|')} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", *(f"{note}  " for note in table.notes)]) + "\n"


def _html(table: ResultTable) -> str:
    lines = []
    for ipc, rows in table.blocks.items():
        head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
        lines.append(f"<table><thead><tr><th>{ipc} per class</th>{head}</tr></thead><tbody>")
        best = {column: _best(rows, column) for column in table.columns}
        for row in rows:
            texts = []
            for column in table.columns:
                text = escape(_shown(row, column))
                leads = _leads(row, column, best[column])
                texts.append(f"<td><b>{text}</b></td>" if leads else f"<td>{text}</td>")
            lines.append(f"<tr><th>{escape(row.label)}</th>{''.join(texts)}</tr>")
        lines.append("</tbody></table>")
    return "\n".join(lines + [f"<p>{escape(note)}</p>" for note in table.notes]) + "\n"


def _latex(table: ResultTable) -> str:
    width = len(table.columns)
    blocks = list(table.blocks.items())
    lines = [
        *(f"% {note}" for note in [table.title, *table.notes]),
        r"\begin{tabular}{l" + "".join("|" + "c" * width for _ in blocks) + "}",
        r"\toprule",
        "IPC & " + " & ".join(rf"\multicolumn{{{width}}}{{c}}{{{ipc}}}" for ipc, _ in blocks) + r" \\",
        "Domain & " + " & ".join(_escaped(column) for _ in blocks for column in table.columns) + r" \\",
        r"\midrule",
    ]
    best = {(ipc, column): _best(rows, column) for ipc, rows in blocks for column in table.columns}
    for place, first in enumerate(blocks[0][1]):
        texts = []
        for ipc, rows in blocks:
            row = rows[place]
            for column in table.columns:
                text = _shown(row, column, r" {\scriptsize$\pm$}").replace("–", "--")
                texts.append(rf"\textbf{{{text}}}" if _leads(row, column, best[ipc, column]) else text)
        lines.append(f"{_escaped(first.label)} & " + " & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    return "".join("\\" + character if character in "&%$#_{}" else character for character in text)


def _csv(table: ResultTable) -> str:
    """A line for each number, so that it can be read by a program."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "label", "ipc", "column", "mean", "std", "samples", "paper_mean", "paper_std"])
    for ipc, rows in table.blocks.items():
        for row in rows:
            for column in table.columns:
                number, figure = row.ours.get(column), row.paper.get(column)
                if number is None and figure is None:
                    continue
                ours = ["", "", 0] if number is None else [number.mean, _or_empty(number.std), number.samples]
                paper = ["", ""] if figure is None else [figure.mean, _or_empty(figure.std)]
                writer.writerow([row.key, row.label, ipc, column, *ours, *paper])
    return file.getvalue()


def _or_empty(value: float | None) -> float | str:
    return "" if value is None or math.isnan(value) else value
