"""How far the long steps inside of a call are (a pass over all images, herding, a fit), for whoever listens.

The main loops report by their `progress`; what goes before, between and after them reports here, however
deep it lies. Where nobody listens, nothing happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

Part = TypeVar("Part")
Listener = Callable[[str, int, int], None]  # what is done, how many of its parts are, and of how many

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Within, in this thread, `listener` hears of the steps, from nothing done to all; None: nobody does."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(step: str, done: int, total: int) -> None:
    """`done` of the `total` parts of a step are there."""
    listener = _listener.get()
    if listener is not None:
        with listening(None):  # not of steps of its own
            listener(step, done, total)


def counted(step: str, parts: Iterable[Part], total: int | None = None) -> Iterator[Part]:
    """The parts, each told of when the next is asked for; `total`: their number, where they do not say it."""
    if total is None:
        total = len(parts)  # type: ignore[arg-type]
    tell(step, 0, total)
    for done, part in enumerate(parts, start=1):
        yield part
        tell(step, done, total)
