"""The settings that `dgdd tune` chose, for the rows of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..config import from_dict
from ..config.bounds import Size
from ..json_text import read_json
from .study import Row, is_tunable, with_setting

TUNING_NAME = "tuning.json"


class TunedColumn(NamedTuple):
    """What was chosen for a column.

    Attributes:
        sources: the fingerprint of each source domain that the choice was made on.
        rows: by row and images per class: the values of the settings chosen.
    """

    sources: dict[str, str]
    rows: dict[str, dict[int, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class _ColumnFacts:
    sources: dict[str, str]
    rows: dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What is read of a tuning."""

    protocol: str
    resolution: tuple[Size, ...]
    columns: dict[str, _ColumnFacts]


class TunedSettings(NamedTuple):
    """A tuning: the protocol it was made for, the height and width of the images, and its columns."""

    protocol: str
    resolution: tuple[int, int]
    columns: dict[str, TunedColumn]


def read_tuned_settings(folder: Path) -> TunedSettings:
    """What `dgdd tune` chose, from its folder. Raises ValueError where nothing is there, or nothing that says
    what the choice was made on."""
    path = folder / TUNING_NAME
    if not path.exists():
        raise ValueError(f"{folder} holds no tuning: no {TUNING_NAME} there; make one with dgdd tune")
    try:
        content = read_json(path)
        if "protocol" not in content:
            raise ValueError(
                "an older version wrote it, without the protocol and the data that the choice was made on"
            )
        columns = {
            column: {
                "sources": tuned["sources"],
                "rows": {
                    row: {ipc: found["settings"] for ipc, found in budgets.items()}
                    for row, budgets in tuned["rows"].items()
                },
            }
            for column, tuned in content["columns"].items()
        }
        read = {"protocol": content["protocol"], "resolution": content["resolution"], "columns": columns}
        facts = from_dict(_Facts, read)
        height, width = facts.resolution
        return TunedSettings(
            facts.protocol,
            (height, width),
            {
                column: TunedColumn(
                    tuned.sources,
                    {
                        row: {int(ipc): settings for ipc, settings in budgets.items()}
                        for row, budgets in tuned.rows.items()
                    },
                )
                for column, tuned in facts.columns.items()
            },
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be used ({error}); make it anew with dgdd tune") from error


def check_tuned_settings(
    tuned: TunedSettings, protocol: str, resolution: tuple[int, int], column: str, sources: dict[str, str]
) -> None:
    """Refuse settings tuned under another protocol, at another resolution or on other sources: the images
    that a column is tested on may have taken part in the choice.

    Args:
        protocol, resolution: of the study that takes the settings.
        column: one of its columns.
        sources: the fingerprint of each of that column's source domains.

    Raises ValueError naming what differs.
    """

    def differs(what: str, theirs: object, ours: object) -> ValueError:
        return ValueError(
            f"the settings were tuned for {what} {theirs}, but this study has {ours}; tune this study itself"
        )

    if tuned.protocol != protocol:
        raise differs("the protocol", tuned.protocol, protocol)
    if tuned.resolution != resolution:
        raise differs("images of", "{} x {} px".format(*tuned.resolution), "{} x {} px".format(*resolution))
    tuned_column = tuned.columns.get(column)
    if tuned_column is None or tuned_column.sources == sources:
        return
    if set(tuned_column.sources) != set(sources):
        raise differs(f"{column} on the sources", ", ".join(tuned_column.sources), ", ".join(sources))
    changed = [name for name in sources if tuned_column.sources[name] != sources[name]]
    raise ValueError(
        f"the settings for {column} were tuned on other images of {', '.join(changed)} than this study's "
        "(which of them, a tuning does not record); tune this study itself"
    )


def apply_tuned(row: Row, tuned: TunedSettings | None, column: str, ipc: int) -> Row:
    """The row with the settings chosen for its entry in this column at this budget.

    What the entry or a sweep sets, it keeps. Raises ValueError where settings were tuned, but none for this
    column or budget.
    """
    if tuned is None or row.distill is None:
        return row
    if all(row.entry not in tuned.rows for tuned in tuned.columns.values()):
        return row
    tuned_column = tuned.columns.get(column)
    settings = None if tuned_column is None else tuned_column.rows.get(row.entry, {}).get(ipc)
    if settings is None:
        raise ValueError(f"nothing was tuned for {row.entry}, {ipc} images per class, {column}; tune it too")
    for setting, value in settings.items():
        if is_tunable(row, setting):
            row = with_setting(row, setting, value)
    return row
