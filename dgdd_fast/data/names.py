"""Names of domains and classes: how they are read, ordered, looked up and distinguished."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from ..messages import plain
from .errors import DataError

_LISTED = 30  # names that a message lists


def plain_name(raw: str) -> str:
    """A name as it is used everywhere, whatever system wrote it: in one line, composed Unicode (NFC), with
    bytes that are not UTF-8, and control characters, which a terminal would obey, as ``\\xe9``.
    """
    try:
        raw.encode()
    except UnicodeEncodeError:
        raw = raw.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", plain(raw))


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts without case and numbers by value: s2 before s10."""
    pieces = re.split(r"(\d+)", name.casefold())
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)], name


def check_spelling(kind: str, names: Iterable[str], where: str) -> None:
    """Raises DataError where two `names` differ only in what is easily mistaken: case, spaces, hyphens and
    underlines, leading zeros, invisible characters, or the form of a letter in Unicode.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_spelling(name), name)
        if other == name:
            continue
        shown, how = f"{other!r} and {name!r}", "case"
        if other.casefold() != name.casefold():
            shown, how = f"{other!a} and {name!a}", "spaces, zeros or the form of their letters"
        raise DataError(
            f"{where} has the {kind} names {shown}, which differ in {how} only; give both the same spelling, "
            "or different names if they are different"
        )


def _spelling(name: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    visible = "".join(letter for letter in folded if unicodedata.category(letter) != "Cf").strip()
    visible = re.sub(r"^([+-]?\d+)\.0*$", r"\1", visible)  # 1.0 is 1
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"(?<=\S)[\s_-]+(?=\S)", " ", visible))


def chosen_names(kind: str, available: Sequence[str], wanted: Sequence[str] | None, where: str) -> list[str]:
    """Those of `available` that are `wanted` (all for None), in their order there. Raises DataError for
    others, and for none.
    """
    if wanted is None:
        return list(available)
    names = [plain_name(name) for name in wanted]
    for name in names:
        if name not in available:
            raise DataError(
                f"{where} has no {kind} {name!r}; it has {listed(available)}{near(name, available)}"
            )
    if not names:
        raise DataError(f"choose at least one {kind} of {where}: {listed(available)}")
    return [name for name in available if name in names]


def listed(names: Sequence[str]) -> str:
    """The names with commas between them; of very many, the first."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def near(name: str, names: Iterable[str]) -> str:
    """`` (did you mean X?)`` where one of `names` is spelt much like `name`, else nothing."""
    spelt = {_spelling(other): other for other in names}
    found = difflib.get_close_matches(_spelling(name), spelt, n=1)
    return f" (did you mean {spelt[found[0]]}?)" if found else ""
