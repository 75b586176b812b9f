"""Writing files so that a crash never leaves half of one."""

from __future__ import annotations

import os
from pathlib import Path


def check_writable(path: Path) -> None:
    """Raises OSError where a file at `path` could not be written, before anything is computed for it."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    partial.touch()
    partial.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path`: at every moment the file is the old one or the new one, whole, also after a
    power cut.

    One writer a path: a crash leaves at most one `.partial` file beside it, which the next write replaces.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
