"""The dgdd command, or a script, as a process of its own that signals can be sent to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 120.0
COMMAND = "from dgdd_command import main; main()"


def start(*arguments: object, folder: Path, **options: object) -> subprocess.Popen[str]:
    """The command at work in `folder`, its output in a pipe; errors among it."""
    return start_python("-c", COMMAND, *arguments, folder=folder, **options)


def start_python(*arguments: object, folder: Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,  # type: ignore[arg-type]
    )


def wait_until(there: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Returns as soon as `there()` is true; fails where the process ends before, or not for long."""
    deadline = time.monotonic() + SECONDS
    while not there():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.05)
