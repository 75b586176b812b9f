"""The settings that `dgdd tune` chose, for the rows of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .study import Row, has_setting, with_setting

CHOICES_NAME = "tuning.json"

# By column, row and images per class: the values of the settings chosen.
Choices = dict[str, dict[str, dict[int, dict[str, Any]]]]


def read_choices(folder: Path) -> Choices:
    """The choices in the folder of a tuning. Raises ValueError where there are none."""
    path = folder / CHOICES_NAME
    if not path.exists():
        raise ValueError(f"{folder} holds no tuning: no {CHOICES_NAME} there; make one with dgdd tune")
    try:
        columns = json.loads(path.read_text())["columns"]
        return {
            column: {
                row: {int(ipc): found["settings"] for ipc, found in budgets.items()}
                for row, budgets in rows.items()
            }
            for column, rows in columns.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); write it again with dgdd tune") from error


def chosen(row: Row, choices: Choices, column: str, ipc: int) -> Row:
    """The row with the settings chosen for its entry in this column at this budget.

    What a sweep sets, it keeps. Raises ValueError where there are choices, but none for this column or
    budget.
    """
    if not choices or row.distill is None or all(row.entry not in rows for rows in choices.values()):
        return row
    settings = choices.get(column, {}).get(row.entry, {}).get(ipc)
    if settings is None:
        raise ValueError(f"nothing was tuned for {row.entry}, {ipc} images per class, {column}; tune it too")
    for setting, value in settings.items():
        if has_setting(row, setting) and (row.sweep is None or row.sweep[0] != setting):
            row = with_setting(row, setting, value)
    return row
