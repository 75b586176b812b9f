"""Files of torch.save and numpy.savez, read as tensors and plain values: nothing in them is run."""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from ..files import file_size, read_file
from ..memory import check_fits
from ..messages import shortened


class PlainFileError(ValueError):
    """A file that is damaged, packed, or to be read by running code. The message does not name it."""


# Beside the tensors may be NumPy scalars (results of DC, DSA, DM, DataDAM). In the place of what would make
# them stands a class that does nothing.
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")

# torch.load knows these as harmless, and they take as much memory as a few bytes of a file say.
_ALLOCATING = re.compile(
    r"torch\.(\w+\.)*\w*Tensor|torch\._utils\._rebuild_meta\w+|(builtins|__builtin__)\.bytearray"
)
_NOT_OURS = "damaged, or nothing that torch.save wrote"
_PICKLES = 5  # of a file in torch's format before: three that say which it is, the value, its tensors
_MOST_STEPS = 100_000  # of a pickle; a set in it and all the accuracies beside it take a few thousand
_MOST_VALUES, _MOST_DEPTH = 100_000, 20  # of a tuple, with all that is in it as often as it is in it


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
    """The names in a zip archive, whose pickles are looked through. Raises PlainFileError for packed members,
    which torch.save and numpy.savez do not write."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            pickles = [archive.read(member) for member in members if _is_plain_pickle(member)]
    except Exception as error:  # zipfile has several ways to fail on a damaged file
        raise PlainFileError(f"damaged, or cut off ({shortened(str(error))}); copy it again") from error
    packed = [member.filename for member in members if member.file_size != member.compress_size]
    if packed:
        raise PlainFileError(
            f"{shortened(packed[0])} is compressed in it, which neither torch.save nor numpy.savez does; "
            "save it anew"
        )
    for content in pickles:
        _check_pickle(io.BytesIO(content))
    return [member.filename for member in members]


def _is_plain_pickle(member: zipfile.ZipInfo) -> bool:
    return member.filename.endswith(".pkl") and member.file_size == member.compress_size


def _check_pickle(file: IO[bytes]) -> None:
    """Raises PlainFileError for a pickle that takes time or memory out of proportion to its size: one of very
    many steps, tuples in tuples, each of them several times (looked up, they take time without end, or the
    stack), and what allocates as much as it is told to.

    The pickle is not carried out: of every value on its stack the number of values in it and the depth are
    kept, for what is no tuple 1 and 0.
    """
    stack: list[tuple[int, int] | None] = []  # None: a mark
    memo: dict[int, tuple[int, int] | None] = {}
    try:
        for step, (operation, argument, _) in enumerate(pickletools.genops(file)):
            name, told = operation.name, str(argument)
            if step > _MOST_STEPS:
                raise PlainFileError(
                    f"it takes more than {_MOST_STEPS} steps to read, far more than a set does"
                )
            if name in ("GLOBAL", "INST") and _ALLOCATING.fullmatch(told.replace(" ", ".")):
                raise _needs_code(told.replace(" ", "."))
            if name == "STACK_GLOBAL":
                raise PlainFileError(_NOT_OURS)
            if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if argument is None else int(told)] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[int(told)])
            elif name == "MARK":
                stack.append(None)
            elif name == "DUP":
                stack.append(stack[-1])
            else:
                before, after = operation.stack_before, operation.stack_after
                taken = []
                if pickletools.markobject in before:
                    while (value := stack.pop()) is not None:
                        taken.append(value)
                    before = before[: before.index(pickletools.markobject)]
                taken += [stack.pop() or (1, 0) for _ in before]
                made = (1, 0)
                if "TUPLE" in name and taken:
                    made = (1 + sum(size for size, _ in taken), 1 + max(depth for _, depth in taken))
                    if made[0] > _MOST_VALUES or made[1] > _MOST_DEPTH:
                        raise PlainFileError("it holds tuples in tuples, far more than a set has")
                stack += [made for _ in after]
    except PlainFileError:
        raise
    except Exception as error:  # pickletools, too, has several ways to fail
        raise PlainFileError(_NOT_OURS) from error


def _needs_code(name: str) -> PlainFileError:
    return PlainFileError(
        f"it is to be read by running {shortened(name)}, which is not done: a set is tensors and plain "
        "values; have it saved anew with torch.save of those"
    )


def _loaded(data: bytes) -> Any:
    """What torch.save wrote: tensors and plain values, and nothing else."""
    if len(data) > 8 and data[8:9] == b"{":
        raise PlainFileError("this is a safetensors file: if `dgdd distill` wrote it, it needs no import")
    if not data.startswith(b"PK"):  # the format before, of one pickle after the other
        file = io.BytesIO(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of texts that are damaged
            for _ in range(_PICKLES):
                _check_pickle(file)
    allowed: list[Any] = [(_Ignored, name) for name in _SCALARS]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of pickles of other versions
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of several unrelated types, by what is wrong
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is not None:
            raise _needs_code(code[1]) from error
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        said = str(error).partition("\n")[0] if reason is None else reason[1]
        detail = f" ({shortened(said.strip())})" if said.strip() else ""  # of an empty file nothing is said
        raise PlainFileError(f"{_NOT_OURS}{detail}") from error
