"""Tensors with a description in one file: what comes back, and that no flipped bit goes unseen."""

from __future__ import annotations

import json
from typing import Any

import pytest
import safetensors.torch
import torch

from dgdd_fast.tensor_file import (
    ForeignFileError,
    NewerFileError,
    TensorFile,
    TensorFileError,
    check_tensors,
    header_of,
)

KIND = TensorFile("dgdd_fast_test", "a test", version=2)


def header(tensors: dict[str, Any], values: bytes = bytes(8)) -> bytes:
    """A safetensors file with this header."""
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + values


def described(text: str) -> bytes:
    """A file of the kind whose description is `text`."""
    return safetensors.torch.save({"a": torch.zeros(1)}, {KIND.key: text})


TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2], dtype=torch.int64)}


def test_the_same_content_gives_the_same_bytes_and_comes_back() -> None:
    data = KIND.pack(TENSORS, {"name": "ü", "size": (1, 2)})
    assert data == KIND.pack(dict(reversed(TENSORS.items())), {"name": "ü", "size": [1, 2]})
    tensors, description = KIND.unpack(data)
    assert description == {"version": 2, "name": "ü", "size": [1, 2]}
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_every_flipped_bit_is_found() -> None:
    data = KIND.pack(TENSORS, {"name": "x"})
    for place in range(len(data)):
        with pytest.raises(TensorFileError):
            KIND.unpack(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_another_kind_and_a_later_version_are_told_apart() -> None:
    other = TensorFile("dgdd_fast_other", "another", version=1)
    with pytest.raises(ForeignFileError, match="not a test"):
        KIND.unpack(other.pack(TENSORS, {}))
    with pytest.raises(NewerFileError, match="format version 3, but this dgdd-fast reads version 2"):
        KIND.unpack(TensorFile("dgdd_fast_test", "a test", version=3).pack(TENSORS, {}))
    for content, kind in ((b"\x89PNG....", "a PNG image"), (b"PK\x03\x04", "a zip archive")):
        with pytest.raises(ForeignFileError, match=kind):
            KIND.unpack(content)
    assert header_of(b"") == header_of(b"text") == {}


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        KIND.pack(TENSORS, {"value": float("nan")})
    with pytest.raises(TypeError):
        KIND.pack(TENSORS, {"value": object()})
    assert "sha256" in json.loads(header_of(KIND.pack(TENSORS, {}))[KIND.key])


def test_types_and_shapes_are_under_the_checksum() -> None:
    """Header and bytes of another shape, or type, of the same size: nothing of the bytes differs."""
    content = KIND.pack({"a": torch.zeros(2, 3)}, {})
    for before, after in ((b"[2,3]", b"[3,2]"), (b'"F32"', b'"I32"')):
        assert content.count(before) == 1
        with pytest.raises(TensorFileError, match="not of the types and shapes that were saved"):
            KIND.unpack(content.replace(before, after))


def test_a_file_from_before_types_and_shapes_were_kept_is_read() -> None:
    tensors = {"a": torch.zeros(2, 3)}
    description = {"version": 1, "value": 1}
    description["sha256"] = KIND._checksum(tensors, description)
    content = safetensors.torch.save(tensors, {KIND.key: json.dumps(description)})
    assert KIND.unpack(content)[1] == {"version": 1, "value": 1}


HOSTILE = {
    "an empty file": (b"", "damaged, or no safetensors file"),
    "a header beyond the end": (b"\xff" * 8 + b"{}", "damaged, or no safetensors file"),
    "a header of brackets": ((200_000).to_bytes(8, "little") + b"[" * 200_000, "damaged, or no safetensors"),
    "a type that is none": (header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}), "damaged"),
    "a size that lies": (header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}), "damaged"),
    "an offset that lies": (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}), "damaged"),
    "a size of 2^62": (header({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}}), "damaged"),
    "tensors that overlap": (
        header({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}),
        "damaged",
    ),
    "a PNG": (b"\x89PNG\r\n\x1a\n", "this is a PNG image"),
    "a pickle": (b"\x80\x04.", "this is a pickle"),
    "a description of brackets": (described("[" * 200_000), "description cannot be read"),
    "a description that is a list": (described("[]"), "description cannot be read"),
    "a version that is a list": (described('{"version": [], "sha256": ""}'), "its version is no number"),
    "a version of 5000 digits": (described('{"version": ' + "1" * 5000 + "}"), "description cannot be read"),
    "a checksum that is a list": (described('{"version": 1, "sha256": []}'), "not what was saved"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_content_is_refused_in_a_few_words(content: bytes, message: str) -> None:
    with pytest.raises(TensorFileError, match=message) as refusal:
        KIND.unpack(content)
    assert len(str(refusal.value)) < 300


def test_tensors_are_held_to_those_wanted() -> None:
    wanted = {"a": torch.zeros(2, 3), "b": torch.zeros(1, dtype=torch.int64)}
    check_tensors(wanted, wanted)
    for changes, message in (
        ({"a": torch.zeros(3)}, r"a is torch.float32 \[3\], expected torch.float32 \[2, 3\]"),
        ({"b": torch.zeros(1)}, "b is torch.float32"),
        ({"c": torch.zeros(1)}, "the tensor c is not known"),
        ({"a": torch.full((2, 3), float("nan"))}, "a has a value that is NaN or infinite"),
    ):
        with pytest.raises(TensorFileError, match=message):
            check_tensors({**wanted, **changes}, wanted)
    with pytest.raises(TensorFileError, match="the tensor b is missing"):
        check_tensors({"a": wanted["a"]}, wanted)
