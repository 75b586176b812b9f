"""JSON that the package reads: what it wrote comes back, and nothing else does."""

import json
import math
import os
from pathlib import Path

import pytest

from dgdd_fast.json_text import parse_json, read_json, write_json

CONTENT = {"names": ["a", "é"], "number": 0.1, "whole": 2**63, "none": None, "inner": {"yes": True}}

FAULTS = {
    "200,000 brackets": ("[" * 200_000, "nested too deeply"),
    "200,000 mappings": ('{"a":' * 200_000, "nested too deeply"),
    "deeper than anything is": ("[" * 300 + "]" * 300, "nested too deeply"),
    "a key twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
    "NaN": ('{"a": NaN}', "NaN"),
    "minus infinity": ("[-Infinity]", "-Infinity"),
    "1e999": ("[1e999]", "1e999 is too large"),
    "5000 digits": ("[" + "1" * 5000 + "]", r"11111\.\.\. is beyond 64 bits"),
    "2^64": (str(2**64), "beyond 64 bits"),
    "half a surrogate pair": (r'["\ud800"]', "surrogates not allowed"),
    "NUL in a text": (r'["a\u0000b"]', "has a NUL"),
    "NUL between": ('{"a": 1}\0', "Extra data"),
    "nothing": ("", "Expecting value"),
    "not Unicode": (b'{"a": "\xff"}', "utf-8"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_hostile_json_is_refused_in_a_few_words(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        parse_json(text)
    assert len(str(refusal.value)) < 200


def test_what_was_written_comes_back_and_a_change_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, CONTENT)
    assert read_json(path) == CONTENT
    written = path.read_text()
    path.write_text(written.replace("0.1", "0.2"))
    with pytest.raises(ValueError, match="not what was saved"):
        read_json(path)
    path.write_text(json.dumps(CONTENT))  # earlier versions wrote no checksum
    assert read_json(path) == CONTENT


def test_a_checksum_by_another_name_is_damage_and_not_an_earlier_version(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    path.write_text(path.read_text().replace("sha256", "sha255"))
    with pytest.raises(ValueError, match="the name of its checksum"):
        read_json(path)


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    for value in (math.nan, 2**70, object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(tmp_path / "file.json", {"value": value})
    assert list(tmp_path.iterdir()) == []


def test_only_files_with_an_end_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path / "pipe", "a pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(ValueError, match=f"this is {kind}, and a file is needed"):
            read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")
