"""Tensors with a JSON description in one safetensors file, and a checksum over both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .files import read_file, write_atomically
from .json_text import parse_json
from .messages import shortened

_SHAPES = "tensors"  # the entry of the description that says types and shapes
_SIGNATURES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a zip archive (an .npz or a torch .pt file)",
    b"\x80": "a pickle",
}


class TensorFileError(ValueError):
    """A file that is not of its kind, or damaged. The message says which, and not where it is."""


class ForeignFileError(TensorFileError):
    """A file of another kind."""


class NewerFileError(TensorFileError):
    """A file of a later version of its kind."""


@dataclass(frozen=True)
class TensorFile:
    """A kind of file.

    Attributes:
        key: its name in the header, where the description is its value: safetensors keeps no order of several
            keys, and the same content is to give the same bytes.
        what: for messages: "a checkpoint".
        version: of the format.
        order: of the tensors in the checksum; None: by their names.
        optional: one of them that a file may lack. Without it the format is the version before, so that
            earlier readers refuse only what they do not know.
    """

    key: str
    what: str
    version: int
    order: tuple[str, ...] | None = None
    optional: str | None = None

    def pack(self, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
        """The content of a file. Raises ValueError or TypeError where JSON cannot hold the description."""
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # The round trip turns tuples into the lists that a reader will see.
        version = self.version - (self.optional is not None and self.optional not in kept)
        plain = {"version": version, **description, _SHAPES: _shapes(kept)}
        plain = parse_json(json.dumps(plain, allow_nan=False))
        plain["sha256"] = self._checksum(kept, plain)
        return safetensors.torch.save(kept, {self.key: json.dumps(plain, ensure_ascii=False)})

    def write(self, path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        """Write the file, atomically."""
        write_atomically(path, self.pack(tensors, description))

    def read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As `unpack`, of the file at `path`. Raises OSError where it cannot be read."""
        return self.unpack(content_of(path))

    def unpack(self, data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors, on the CPU, and the description in the content of a file, as they were packed.

        Raises TensorFileError: ForeignFileError for a file of another kind, NewerFileError for a later
        version.
        """
        tensors = loaded(data)
        header = header_of(data)
        if self.key not in header:
            names = ", ".join(sorted(tensors)) or "none"
            raise ForeignFileError(f"a safetensors file but not {self.what} (tensors: {shortened(names)})")
        try:
            description = parse_json(header[self.key])
            version, checksum = description["version"], description.pop("sha256")
        except (ValueError, TypeError, KeyError) as error:
            raise TensorFileError("damaged: its description cannot be read") from error
        if type(version) is not int:
            raise TensorFileError("damaged: its version is no number")
        if version > self.version:
            raise NewerFileError(
                f"format version {version}, but this dgdd-fast reads version {self.version}; "
                "upgrade dgdd-fast"
            )
        names_differ = self.order is not None and set(tensors) | {self.optional} != {
            *self.order,
            self.optional,
        }
        if names_differ or checksum != self._checksum(tensors, description):
            raise TensorFileError("damaged: its content is not what was saved")
        # Files of before have the bytes of the tensors under their checksum, but not types and shapes.
        if description.pop(_SHAPES, _shapes(tensors)) != _shapes(tensors):
            raise TensorFileError("damaged: its tensors are not of the types and shapes that were saved")
        return tensors, description

    def _checksum(self, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
        """SHA-256 over the bytes of the description and the tensors, so that a flipped bit anywhere is
        found."""
        order: Sequence[str] = sorted(tensors)
        if self.order is not None:
            order = [name for name in self.order if name in tensors]
        digest = hashlib.sha256(json.dumps(description, ensure_ascii=False, allow_nan=False).encode())
        for name in order:
            if self.order is None:
                digest.update(name.encode())
            digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def content_of(path: Path) -> bytes:
    """The bytes of the file at `path`. Raises TensorFileError for what is no file, OSError as `open` does."""
    try:
        return read_file(path)
    except ValueError as error:
        raise ForeignFileError(str(error)) from error


def loaded(data: bytes) -> dict[str, Tensor]:
    """The tensors in the content of any safetensors file. Raises TensorFileError where it is not one."""
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # of several unrelated types, by which byte is wrong
        kind = next((kind for signature, kind in _SIGNATURES.items() if data.startswith(signature)), None)
        if kind is not None:
            raise ForeignFileError(f"this is {kind}") from error
        raise TensorFileError(f"damaged, or no safetensors file at all ({shortened(str(error))})") from error


def header_of(data: bytes) -> dict[str, str]:
    """The texts in the header of a safetensors file; none where there is no header to read."""
    try:
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        texts = dict(header.get("__metadata__") or {})
    except (ValueError, AttributeError, TypeError):
        return {}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises TensorFileError unless `found` has just the names of `wanted`, each of the same type and shape,
    and no value that is NaN or infinite."""
    if unequal := sorted(found.keys() ^ wanted.keys()):
        fault = "missing" if unequal[0] in wanted else "not known"
        raise TensorFileError(f"the tensor {shortened(unequal[0])} is {fault}")
    for name, tensor in wanted.items():
        there = found[name]
        if there.dtype != tensor.dtype or there.shape != tensor.shape:
            raise TensorFileError(
                f"{name} is {there.dtype} {list(there.shape)}, expected {tensor.dtype} {list(tensor.shape)}"
            )
        if not torch.isfinite(there).all():
            raise TensorFileError(f"{name} has a value that is NaN or infinite")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    return {name: [str(tensors[name].dtype), list(tensors[name].shape)] for name in sorted(tensors)}
