"""How a loop ends early: by a signal, or because its loss is no longer finite.

A handler runs between any two instructions of the main thread, also within itself: it takes no lock, and here
it does nothing but set an attribute, raise or end the process.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Ctrl-C, `kill`, and a terminal that was closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KILLED = 128  # plus the number of the signal is the exit code: 130 for Ctrl-C, 143 for SIGTERM
# timeout(1) sends its signal twice, and so does a terminal that is closed: that is one request.
_seconds_of_one_request = 0.2


class TrainingDivergedError(RuntimeError):
    """The loss of a network in training became NaN or infinite."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the work; `number` is the signal's."""

    def __init__(self, message: str = "interrupted", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class Stop:
    """The request that a loop ends after its step: the `number` of the signal, None where there was none."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.when = 0.0
        self.seen = False

    def is_set(self) -> bool:
        """Whether to end; a caller that gets True must end the loop."""
        self.seen |= self.number is not None
        return self.number is not None

    def follow(self, number: int | None) -> bool:
        """`is_set` for one of several processes that end together: whether to end at the signal `number` that
        one of them told all of. What this process has heard since it told stays for the next time."""
        if number is None:
            return False
        self.number, self.seen = number, True
        return True

    def error(self, kind: type[Interrupted], message: str) -> Interrupted:
        """What to end with."""
        return kind(message, signal.SIGINT if self.number is None else self.number)


@contextmanager
def stop_at_whole_steps() -> Iterator[Stop]:
    """Turns the first of `SIGNALS` into a request that a loop reads between its steps; a second one raises
    Interrupted at once.

    A request that no call of `is_set` has seen raises Interrupted at the end. A signal that was ignored stays
    ignored (nohup), and in any thread but the main one all signals are left alone.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if stop.number is None:
            stop.number, stop.when = number, now
        elif number != stop.number or now - stop.when > _seconds_of_one_request:
            raise Interrupted(number=number)

    with _handled_by(handle):
        yield stop
    if stop.number is not None and not stop.seen:
        raise Interrupted(number=stop.number)


@contextmanager
def raise_at_signals() -> Iterator[None]:
    """Turns `SIGNALS` into Interrupted, wherever the main thread is."""
    latest = -math.inf

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal latest
        now = time.monotonic()
        again, latest = now - latest < _seconds_of_one_request, now
        if not again:
            raise Interrupted(number=number)

    with _handled_by(handle):
        yield


@contextmanager
def end_at_signals() -> Iterator[None]:
    """Has `SIGNALS` end the process at once, with a message: for the import of what has code in C.

    That code may swallow what a handler raises: torch takes a numpy whose import was interrupted for one that
    is not there, and whoever imports numpy next runs into half of it.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(2, b"error: interrupted\n")
        os._exit(KILLED + number)

    with _handled_by(handle):
        yield


def listen_to_one_request() -> None:
    """Have no further signal end a loop of this process at once; its parent process does that."""
    global _seconds_of_one_request
    _seconds_of_one_request = math.inf


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and a closed terminal reach this process after the block, and a process started in it never."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets the main thread alone handle signals
        return
    previous = {}
    try:
        for number in SIGNALS:
            found = signal.getsignal(number)
            if found not in (signal.SIG_IGN, None):  # None: a handler that Python did not set
                previous[number] = found
                signal.signal(number, handle)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
