"""JSON in and out: plain data of ordinary size, in which a key stands once, with a checksum."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from .files import read_file, write_atomically
from .messages import shortened, shown

MOST_DEPTH = 100  # of lists and mappings in one another; what the package writes has about ten
MOST_BYTES = 2**28  # the index of the largest study has some millions
_CHECKSUM = "sha256"
_MOST_DIGITS = 20  # of whole numbers, which are below 2^64 in size


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that `read_json` reads back, with a checksum, atomically.

    Raises ValueError or TypeError for what `parse_json` would not read.
    """
    plain = parse_json(json.dumps(content, allow_nan=False))  # tuples become lists, and keys texts
    sealed = {**plain, _CHECKSUM: _checksum(plain)}
    write_atomically(path, (json.dumps(sealed, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file; its checksum, which files of earlier versions lack, is checked and taken off.

    Raises ValueError, without the path, as `parse_json` and `read_file` do, and for content that was changed.
    """
    value = parse_json(read_file(path, MOST_BYTES))
    if not isinstance(value, dict) or not value:
        return value
    if _CHECKSUM in value:
        if value.pop(_CHECKSUM) != _checksum(value):
            raise ValueError("its content is not what was saved")
    elif re.fullmatch("[0-9a-f]{64}", str(list(value.values())[-1])):  # which is written last, by its name
        raise ValueError("the name of its checksum is not what was saved")
    return value


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text stands for.

    Raises ValueError where it is not JSON, or holds what no reader expects: a key twice, a number that is
    NaN, infinite or beyond 64 bits, a text that is not Unicode or has a NUL, or lists hundreds deep.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_mapping,
            parse_int=_whole_number,
            parse_float=_number,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check(value)
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} stands twice in a mapping")
    return values


def _whole_number(digits: str) -> int:
    value = int(digits) if len(digits) <= _MOST_DIGITS else None
    if value is None or not -(2**63) <= value < 2**64:
        raise ValueError(f"the whole number {digits[:_MOST_DIGITS]}... is beyond 64 bits")
    return value


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {shortened(digits)} is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number to reckon with")


def _check(value: Any) -> None:
    """The depth and the texts, without a recursion of its own."""
    left = [(value, 1)]
    while left:
        item, depth = left.pop()
        if depth > MOST_DEPTH:
            raise ValueError("it is nested too deeply")
        if isinstance(item, dict):
            left += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            left += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            item.encode()  # half of a surrogate pair raises UnicodeEncodeError, a ValueError
            if "\0" in item:
                raise ValueError(f"the text {shown(item)} has a NUL in it")
