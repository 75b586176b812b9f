"""What was done to images as they were read, gathered over all: one image does not show its range."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .names import natural_key

_DARK = 64  # of 255: data without a brighter pixel are thought to have another range


class Findings:
    """Filled by the threads that read images; `notes` says what a reader should know."""

    def __init__(self) -> None:
        self._changes: defaultdict[str, list[str]] = defaultdict(list)
        self._deep: dict[str, int] = {}  # images of 16 bits: their largest value
        self._floats: defaultdict[int, dict[str, float]] = defaultdict(dict)  # by white

    def add(self, change: str, item: str) -> None:
        """`item` was changed in a way that may surprise."""
        self._changes[change].append(item)

    def add_deep(self, largest: int, item: str) -> None:
        """`item` has 16 bits."""
        self._deep[item] = largest

    def add_floats(self, array: npt.NDArray[np.floating], item: str) -> int:
        """The value of white in a float image: 1 or 255, by its largest pixel.

        Raises DataError for pixels that are not finite, are in neither range, or in 0..1 but for a few.
        """
        finite = np.isfinite(array)
        if not finite.all():
            raise DataError(
                f"{item} has {int((~finite).sum())} pixels that are NaN or infinite; repair or remove it"
            )
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 255:
            raise DataError(
                f"{item} has float pixels in {low:g}..{high:g}; expected 0..1 or 0..255 (undo a "
                "normalisation first)"
            )
        above = int((array > 1).sum())
        if above and above < 0.01 * int((array > 0).sum()):
            raise DataError(
                f"{item} has float pixels in 0..1 but for {above} that reach {high:g}, so its range is not "
                "clear; clip them to 0..1, or give all images as uint8"
            )
        white = 255 if above else 1
        if high > 0:  # a black image is the same in both
            self._floats[white][item] = high
        return white

    def of_one_file(self) -> dict[str, Any]:
        """What was found in a single image file, as JSON values; `remember` takes them back."""
        found: dict[str, Any] = {
            "changes": sorted(self._changes),
            "deep": max(self._deep.values(), default=None),
        }
        return {name: what for name, what in found.items() if what not in ([], None)}

    def remember(self, found: dict[str, Any], item: str) -> None:
        """What `of_one_file` gave for `item`, as if it had been read again."""
        for change in found.get("changes", ()):
            self.add(change, item)
        if "deep" in found:
            self.add_deep(found["deep"], item)

    def notes(self) -> list[str]:
        """A line for each kind of change. Raises DataError where the images together contradict a range."""
        self._check_floats()
        notes = self._notes_of_depth()
        if of_255 := self._floats[255]:
            notes.append(f"float pixels are taken for 0..255: {_examples(list(of_255))}")
        return notes + [f"{change}: {_examples(items)}" for change, items in sorted(self._changes.items())]

    def _check_floats(self) -> None:
        of_one, of_255 = self._floats[1], self._floats[255]
        if of_one and of_255:
            raise DataError(
                f"{next(iter(of_one))} has float pixels in 0..1 and {next(iter(of_255))} in 0..255; give all "
                "images as uint8"
            )
        if of_255 and max(of_255.values()) < _DARK:
            raise DataError(
                f"the float pixels reach {max(of_255.values()):g} at most ({next(iter(of_255))}), which is "
                "neither 0..1 nor 0..255; scale them to 0..1"
            )

    def _notes_of_depth(self) -> list[str]:
        bright = [item for item, largest in self._deep.items() if largest > 0]
        if not bright:
            return []
        largest = max(self._deep.values())
        if largest < 65536 * _DARK // 256:
            bits = max(8, largest.bit_length())
            raise DataError(
                f"the images of 16 bits reach {largest} of 65535 at most ({_examples(bright)}), as if they "
                f"held {bits} bits, and would be nearly black; convert them to 8 bits, or scale them to "
                "0..65535"
            )
        note = f"images of 16 bits are scaled to 8 (65535 is white): {_examples(bright)}"
        if dark := [item for item in bright if self._deep[item] < 4096]:
            note += f"; some stay below 4096, which may be white of 12 bits: {_examples(dark)}"
        return [note]


def _examples(items: Sequence[str]) -> str:
    return f"{len(items)}, for example {min(items, key=natural_key)}"
