"""Files of torch.save and numpy.savez, read as tensors and plain values: nothing in them is run."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..files import file_size, read_file
from ..memory import check_fits
from ..messages import shortened


class PlainFileError(ValueError):
    """A file that is damaged, packed, or to be read by running code. The message does not name it."""


# Beside the tensors may be NumPy scalars (results of DC, DSA, DM, DataDAM). In the place of what would make
# them stands a class that does nothing.
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")


class _Ignored:
    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class PlainFile(NamedTuple):
    """The bytes of a file and what they stand for: the value that torch.save was given; None where it is an
    archive of arrays."""

    path: Path
    data: bytes
    value: Any


def read_plain_file(path: Path) -> PlainFile:
    """Raises PlainFileError, and OSError where it is not there."""
    check_fits("reading it", 2 * file_size(path))
    data = read_file(path)
    members = _members(data) if data.startswith(b"PK") else []
    arrays = bool(members) and all(name.endswith(".npy") for name in members)
    return PlainFile(path, data, None if arrays else _loaded(data))


def _members(data: bytes) -> list[str]:
    """The names in a zip archive. Raises PlainFileError for packed members, which torch.save and numpy.savez
    do not write."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except Exception as error:  # zipfile has several ways to fail on a damaged file
        raise PlainFileError(f"damaged, or cut off ({shortened(str(error))}); copy it again") from error
    packed = [member.filename for member in members if member.file_size != member.compress_size]
    if packed:
        raise PlainFileError(
            f"{shortened(packed[0])} is compressed in it, which neither torch.save nor numpy.savez does; "
            "save it anew"
        )
    return [member.filename for member in members]


def _loaded(data: bytes) -> Any:
    """What torch.save wrote: tensors and plain values, and nothing else."""
    allowed: list[Any] = [(_Ignored, name) for name in _SCALARS]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of pickles of other versions
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of several unrelated types, by what is wrong
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is not None:
            raise PlainFileError(
                f"it is to be read by running {shortened(code[1])}, which is not done: a set is tensors and "
                "plain values; have it saved anew with torch.save of those"
            ) from error
        if len(data) > 8 and data[8:9] == b"{":
            raise PlainFileError(
                "this is a safetensors file: if `dgdd distill` wrote it, it needs no import"
            ) from error
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        said = str(error).partition("\n")[0] if reason is None else reason[1]
        detail = f" ({shortened(said.strip())})" if said.strip() else ""  # of an empty file nothing is said
        raise PlainFileError(f"damaged, or nothing that torch.save wrote{detail}") from error
