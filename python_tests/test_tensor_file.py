"""Tensors with a description in one file: what comes back, and that no flipped bit goes unseen."""

from __future__ import annotations

import json

import pytest
import torch

from dgdd_fast.tensor_file import (
    ForeignFileError,
    NewerFileError,
    TensorFile,
    TensorFileError,
    header_of,
)

KIND = TensorFile("dgdd_fast_test", "a test", version=2)
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
