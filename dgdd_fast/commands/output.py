"""Output that cannot be written, on a stream that is closed, full or of another encoding, costs no result."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

# What a terminal without UTF-8 gets for the characters that the commands themselves write.
_PLAIN = {"±": "+-", "×": "x", "…": "...", "•": "*"}
_ERRORS = "dgdd-plain"


class LastingStream:
    """A text stream that goes on as one to nowhere once it cannot be written to; `lost` is then why."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.lost = self.lost or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # what is buffered goes there, too
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Makes sys.stdout and sys.stderr lasting ones, which write what their encoding lacks in other
    characters."""
    codecs.register_error(_ERRORS, _plainly)
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)
    sys.stdout, sys.stderr = (stream and LastingStream(stream) for stream in before)  # None: closed
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def silenced() -> Iterator[None]:
    """For the ranks of a run but the first, which tells what there is to tell."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def lost_output() -> OSError | None:
    """Why standard output ends early, unless its reader went away: that is no fault."""
    if isinstance(sys.stdout, LastingStream):
        sys.stdout.flush()
        error = sys.stdout.lost
        if error is not None and error.errno != errno.EPIPE:
            return error
    return None


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode() for char in found)
    return plain, error.end
