"""Reading data with how far it is on screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from .terminal import Meter, note

if TYPE_CHECKING:
    from ..data import DomainDataset


def read_data(
    source: str,
    resolution: int | None = None,
    domains: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> DomainDataset:
    """As `load_dataset`."""
    from ..data import load_dataset

    with reading("reading images") as show:
        return load_dataset(source, resolution, domains, classes, progress=show)


@contextmanager
def reading(name: str, cached: bool = True) -> Iterator[Reading]:
    """Shows how far image files are decoded, and then, if they are `cached`, where they are kept."""
    from ..data.cache import VARIABLE, cache_folder

    with ExitStack() as stack:
        shown = Reading(name, stack)
        yield shown
    folder = cache_folder() if cached and shown.meter is not None else None
    if folder is not None and folder.is_dir():
        note(
            f"decoded images are kept in {folder}, so that they are read faster next time: dgdd data "
            f"--clear-cache deletes them, {VARIABLE} names another folder or turns it off"
        )


class Reading:
    """What `reading` gives: called with the files done and all; few are done before one would ask."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name, self.stack = name, stack
        self.meter: Meter | None = None

    def __call__(self, done: int, total: int) -> None:
        from ..data.cache import FEW

        if total <= FEW:
            return
        if self.meter is None or self.meter.total != total:
            self.stack.close()
            self.meter = self.stack.enter_context(Meter(self.name, total))
        self.meter.show(done)
