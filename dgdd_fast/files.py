"""Reading and writing files: no pipe or device is read, and a crash never leaves half a file."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def read_file(path: Path, most: int | None = None) -> bytes:
    """The content of a file.

    Raises ValueError, without the path, for what may have no end (a pipe, a device), for a folder, and for
    more than `most` bytes; OSError for what is not there or may not be read.
    """
    size = file_size(path)
    if most is not None and size > most:
        raise ValueError(f"this has {size} bytes, far more than a file of its kind")
    with open(path, "rb") as file:
        return file.read()


def file_size(path: Path) -> int:
    """The bytes of a file, before it is opened: to open a pipe is to wait for what writes to it. Raises as
    `read_file`."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"this is {_kind(found.st_mode)}, and a file is needed")
    return found.st_size


def _kind(mode: int) -> str:
    for test, kind in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return kind
    return "a device"


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keeps a second process out of `folder`, which is made if need be, and goes again if it stays empty.

    The lock ends with the process, however that ends. Where another holds it, raises ValueError, unless it is
    to `wait`.
    """
    handle = _lock(folder, wait)
    try:
        try:
            yield
        finally:
            with suppress(OSError):  # it holds something
                folder.rmdir()
    finally:
        os.close(handle)


def _lock(folder: Path, wait: bool) -> int:
    """The open folder, locked."""

    def make() -> int | None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            return None

    try:
        return _locked_handle(folder, make, wait)
    except BlockingIOError:
        raise ValueError(f"another dgdd is at work in {folder}; wait for it or stop it") from None


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Has processes that change the file at `path` wait for each other, by a file beside it, which goes at
    the end."""
    _check_no_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.lock")
    with naming(path):
        handle = _locked_handle(beside, lambda: os.open(beside, os.O_RDWR | os.O_CREAT, 0o666), wait=True)
    try:
        yield
    finally:
        with suppress(OSError):
            beside.unlink()
        os.close(handle)


def _locked_handle(path: Path, make: Callable[[], int | None], wait: bool) -> int:
    """What `make` opens at `path`, locked; another process may take it away between any two steps of this,
    and of `make`, which then gives None. Raises BlockingIOError where another holds it and it is not to
    `wait`."""
    while True:
        handle = make()
        if handle is None:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError:  # a file system that locks nothing
            return handle
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)


def check_writable(path: Path) -> None:
    """Raises OSError where a file at `path` could not be written, before anything is computed for it."""
    _check_no_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    with naming(path):
        partial.touch()
        partial.unlink()


def _check_no_folder(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")


def check_new_folder(path: Path) -> None:
    """Raises FileExistsError unless `path` is an empty folder, or nothing yet."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder; choose a new folder for the images")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path`: at every moment the file is the old one or the new one, whole, also after a
    power cut.

    One writer a path: a crash leaves at most one `.partial` file beside it, which the next write replaces.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    with naming(path):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            partial.unlink(missing_ok=True)  # a full disk has no room for half a file
            raise
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError in the block, such as that of a full disk, names `path`."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
