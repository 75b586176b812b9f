"""The dgdd command, as a process of its own that signals can be sent to."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS = 240.0
PR_SET_PDEATHSIG = 1
MARK = "DGDD_STARTED_BY_A_TEST"
COMMAND = "from dgdd_command import main; main()"


@contextmanager
def start(
    *arguments: object, folder: Path, program: tuple[str, ...] = ("-c", COMMAND), **options: object
) -> Iterator[subprocess.Popen[str]]:
    """The command at work in `folder`, its output in a pipe; errors among it. It leads a session of its own.
    `program`: what Python is to run.

    At the end nothing of it lives on, be it that the test failed or that its process was killed: whatever
    it started, in sessions of their own and with parents that are gone, has a mark of it in its environment.
    """
    mark = uuid.uuid4().hex
    given: Callable[[], object] | None = options.pop("preexec_fn", None)  # type: ignore[assignment]

    def begin() -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if given is not None:
            given()

    run = subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=begin,
        **options,  # type: ignore[call-overload]
    )
    try:
        yield run
    finally:
        if run.poll() is None:
            run.kill()
        while left := _marked(mark):  # again: one may have started another since
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
        run.wait()


def _marked(mark: str) -> list[int]:
    """The living processes that were started, be it by others, with `mark` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def descendants(parent: int, name: bytes = b"") -> list[int]:
    """The processes below `parent` whose command line begins with `name`."""
    parents, named = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
                if (entry / "cmdline").read_bytes().startswith(name):
                    named.append(int(entry.name))
    found = []
    for process in named:
        above = process
        while above in parents and above != parent:
            above = parents[above]
        if above == parent and process != parent:
            found.append(process)
    return found


def alive(process: int) -> bool:
    """Whether it has not ended; one that has, and that nobody has asked about yet, has no command line."""
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes() != b""
    return False


def wait_until(there: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Returns as soon as `there()` is true; fails where the process ends before, or not for long."""
    deadline = time.monotonic() + SECONDS
    while not there():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.05)
