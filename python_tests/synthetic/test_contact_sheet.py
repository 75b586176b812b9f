"""Contact sheets that show the images before above those after."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from small_runs import toy_set
from toy_data import toy_domains

from dgdd_fast.synthetic.contact_sheet import CELL_PIXELS, GAP, PAIR_GAP


def place_of(sheet: np.ndarray, image: np.ndarray) -> tuple[int, int]:
    """Where `image`, enlarged to a cell, is in the sheet: top and left."""
    cell = image.repeat(CELL_PIXELS // image.shape[0], 0).repeat(CELL_PIXELS // image.shape[1], 1)
    height, width = cell.shape[:2]
    (place,) = (
        (int(y), int(x))
        for y, x in np.argwhere((sheet == cell[0, 0]).all(-1))
        if np.array_equal(sheet[y : y + height, x : x + width], cell)
    )
    return place


def test_every_image_stands_below_what_it_was_before() -> None:
    after = toy_set(toy_domains(), per_class=3)
    before = dataclasses.replace(after, images=after.images * 0.5)
    sheet = np.asarray(Image.open(io.BytesIO(after.contact_sheet_png(before))))
    step = CELL_PIXELS + GAP
    tops = set()
    for old, new in zip(before.pixels(), after.pixels(), strict=True):
        top, left = place_of(sheet, old.permute(1, 2, 0).numpy())
        assert place_of(sheet, new.permute(1, 2, 0).numpy()) == (top + step, left)
        tops.add(top)
    assert sorted(tops) == [min(tops) + label * (2 * step + PAIR_GAP) for label in range(3)]


def test_a_coreset_has_no_before_and_another_set_is_refused() -> None:
    images = toy_set(toy_domains(), per_class=3)
    assert images.contact_sheet_png(images) == images.contact_sheet_png()
    with pytest.raises(ValueError, match="differ in shape"):
        images.contact_sheet_png(toy_set(toy_domains(), per_class=6))
