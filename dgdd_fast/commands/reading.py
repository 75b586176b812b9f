"""Reading data with its progress on screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .terminal import ProgressDisplay, note

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
def reading(name: str, cached: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Shows how far image files are decoded, and then, if they are `cached`, where they are kept."""
    from ..data import cache

    told = False
    with ProgressDisplay() as display:

        def show(done: int, total: int) -> None:
            nonlocal told
            if total > cache.FEW:  # fewer are read at once
                told = True
                display.update(name, done, total)

        yield show
    folder = cache.cache_folder() if cached and told else None
    if folder is not None and folder.is_dir():
        note(
            f"decoded images are kept in {folder}, so that they are read faster next time: dgdd data "
            f"--clear-cache deletes them, {cache.VARIABLE} names another folder or turns it off"
        )
