"""A table of results as text, Markdown, LaTeX, CSV, HTML or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from html import escape

from .table import OVER_RANDOM, ResultTable, TableRow

FORMATS = ("text", "markdown", "latex", "csv", "html", "json")

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}


def format_table(table: ResultTable, form: str) -> str:
    """The table in one of `FORMATS`, html being a piece of a page. Raises ValueError for another format."""
    if form not in FORMATS:
        raise ValueError(f"the format must be one of {', '.join(FORMATS)}, got {form!r}")
    forms = {"text": _text, "markdown": _markdown, "latex": _latex, "csv": _csv, "html": _html, "json": _json}
    return forms[form](table)


def _shown(row: TableRow, column: str, plus_minus: str = " ± ") -> str:
    """``67.7 ± 0.6 (67.7) +2.6 [+1.1, +4.1]``: what was measured, the paper's in brackets, and the difference
    to the row that the table is against."""
    number, figure = row.ours.get(column), row.paper.get(column)
    text = "–"
    if number is not None:
        text = _rounded(number.mean, "+" if column == OVER_RANDOM else "")
        if not math.isnan(number.std):
            text += f"{plus_minus}{number.std:.1f}"
    if figure is not None:
        text += f" ({figure.mean:.1f})"
    if (difference := row.differences.get(column)) is not None:
        text += f" {_rounded(difference.mean, '+')}"
        if difference.pairs > 1:
            text += f" [{_rounded(difference.low, '+')}, {_rounded(difference.high, '+')}]"
    return text


def _rounded(value: float, sign: str) -> str:
    return f"{round(value, 1) + 0.0:{sign}.1f}"  # + 0.0: no minus before a zero


def _text(table: ResultTable) -> str:
    lines = [table.title]
    for ipc, rows in table.blocks.items():
        grid = [[f"{ipc} per class", *table.columns]]
        grid += [
            [row.label, *(_shown(row, column) + " *" * (column in row.ahead) for column in table.columns)]
            for row in rows
        ]
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
            f"| {ipc} per class | " + " | ".join(map(_in_cell, table.columns)) + " |",
            "| --- |" + " ---: |" * len(table.columns),
        ]
        for row in rows:
            texts = []
            for column in table.columns:
                text = _shown(row, column)
                texts.append(f"**{text}**" if column in row.ahead else text)
            lines.append(f"| {_in_cell(row.label)} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", *(f"{note}  " for note in table.notes)]) + "\n"


def _in_cell(text: str) -> str:
    return text.replace("|", r"\|")


def _html(table: ResultTable) -> str:
    lines = []
    for ipc, rows in table.blocks.items():
        head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
        lines.append(f"<table><thead><tr><th>{ipc} per class</th>{head}</tr></thead><tbody>")
        for row in rows:
            texts = []
            for column in table.columns:
                text = escape(_shown(row, column))
                texts.append(f"<td><b>{text}</b></td>" if column in row.ahead else f"<td>{text}</td>")
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
    for place, first in enumerate(blocks[0][1]):
        texts = []
        for _, rows in blocks:
            row = rows[place]
            for column in table.columns:
                text = _shown(row, column, r" {\scriptsize$\pm$}").replace("–", "--")
                texts.append(rf"\textbf{{{text}}}" if column in row.ahead else text)
        lines.append(f"{_escaped(first.label)} & " + " & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _csv(table: ResultTable) -> str:
    """A line for each number, so that it can be read by a program."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    compared = ["difference", "difference_low", "difference_high", "pairs"] if table.against else []
    head = ["row", "label", "ipc", "column", "mean", "std", "samples", "paper_mean", "paper_std"]
    writer.writerow([*head, *compared])
    for ipc, rows in table.blocks.items():
        for row in rows:
            for column in table.columns:
                number, figure = row.ours.get(column), row.paper.get(column)
                if number is None and figure is None:
                    continue
                ours = ["", "", 0] if number is None else [number.mean, _or_empty(number.std), number.samples]
                paper = ["", ""] if figure is None else [figure.mean, _or_empty(figure.std)]
                found = row.differences.get(column)
                difference = [*map(_or_empty, found)] if found else ["", "", "", 0] if table.against else []
                writer.writerow([row.key, row.label, ipc, column, *ours, *paper, *difference])
    return file.getvalue()


def _json(table: ResultTable) -> str:
    """What was measured at every seed, and how."""
    blocks = {
        ipc: [{"key": row.key, "label": row.label, "accuracy": row.by_seed} for row in rows]
        for ipc, rows in table.blocks.items()
    }
    content = {"title": table.title, "columns": table.columns, "blocks": blocks, "notes": table.notes}
    return json.dumps(content, indent=1) + "\n"


def _or_empty(value: float | None) -> float | str:
    return "" if value is None or math.isnan(value) else value
