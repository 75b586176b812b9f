"""How a loop ends before its time: by a signal, or because its numbers are none any more."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TrainingDivergedError(RuntimeError):
    """The loss of a network in training became NaN or infinite."""


@contextmanager
def stop_at_whole_steps() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C or SIGTERM into an event that a loop reads between its steps; a second one
    interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
