"""The range of pixels: one that is not clear is refused, one that is unusual is told, none is guessed."""

from pathlib import Path

import numpy as np
import pytest
from data_trees import write_npz, write_tree
from PIL import Image

from dgdd_fast.data import DataError, from_iterable, load_folder, load_npz

CELLS = [f"{domain}/{label}" for domain in ("photo", "sketch") for label in ("cat", "dog")]
NOISE = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


def notes_of(arrays: list[np.ndarray]) -> str:
    rows = [(array, place % 2, "photo") for place, array in enumerate(arrays)]
    return "\n".join(from_iterable(rows, class_names=["cat", "dog"]).warnings)


def deep(largest: int) -> list[np.ndarray]:
    """Four grey images of 16 bits with values up to `largest`."""
    images = (NOISE[:4, ..., 0] / 255 * largest).astype(np.uint16)
    images[:, 0, 0] = largest
    return list(images)


def test_plain_images_need_no_note(tmp_path: Path) -> None:
    notes = load_folder(write_tree(tmp_path, CELLS)).warnings
    assert len(notes) == 1
    assert "no split comes with the data" in notes[0]


def test_sixteen_bits_are_told(tmp_path: Path) -> None:
    assert "images of 16 bits are scaled to 8 (65535 is white): 4, for example row 0" in notes_of(deep(65535))
    root = write_tree(tmp_path, CELLS)
    Image.fromarray(deep(65535)[0]).save(root / "photo/cat/deep.png")
    assert any(
        "16 bits are scaled to 8" in note and "deep.png" in note for note in load_folder(root).warnings
    )


@pytest.mark.parametrize(("largest", "bits"), [(255, 8), (1023, 10), (4095, 12), (16383, 14)])
def test_fewer_bits_in_sixteen_are_refused(tmp_path: Path, largest: int, bits: int) -> None:
    with pytest.raises(DataError, match=f"reach {largest} of 65535 .*held {bits} bits.*nearly black"):
        notes_of(deep(largest))
    root = write_tree(tmp_path, CELLS)
    for kind, ending in ((np.uint16, "png"), (np.int32, "tif")):
        Image.fromarray(deep(largest)[0].astype(kind)).save(root / f"photo/cat/deep.{ending}")
        with pytest.raises(DataError, match=f"held {bits} bits"):
            load_folder(root)
        (root / f"photo/cat/deep.{ending}").unlink()


def test_one_bright_outlier_does_not_hide_twelve_bits() -> None:
    arrays = deep(4095)
    arrays[2][3, 3] = 65535
    assert "some stay below 4096, which may be white of 12 bits: 3, for example row 0" in notes_of(arrays)


def test_floats_in_0_to_255_are_told_and_those_in_0_to_1_are_usual() -> None:
    assert "float pixels are taken for 0..255: 4" in notes_of(list(NOISE[:4].astype(np.float32)))
    assert "float" not in notes_of(list(NOISE[:4] / np.float32(255)))
    assert "float" not in notes_of(list((NOISE[:4] / 255).astype(np.float16)))


@pytest.mark.parametrize("largest", [2, 15, 16, 63])
def test_floats_in_a_small_range_are_refused(tmp_path: Path, largest: int) -> None:
    pixels = NOISE[:18] / 255 * largest
    with pytest.raises(DataError, match=rf"reach {largest} at most .*neither 0\.\.1 nor 0\.\.255"):
        notes_of(list(pixels[:4]))
    write_npz(tmp_path, "photo", ["cat", "dog", "owl"], x_train=pixels[:12], x_test=pixels[12:])
    with pytest.raises(DataError, match=rf"reach {largest} at most .*photo\.npz x_train\[0\]"):
        load_npz(tmp_path)


@pytest.mark.parametrize("outlier", [1.01, 255.0])
def test_one_bright_pixel_does_not_make_floats_in_0_to_1_black(tmp_path: Path, outlier: float) -> None:
    pixels = NOISE[:18] / 255
    pixels[3, 2, 2, 1] = outlier
    write_npz(tmp_path, "photo", ["cat", "dog", "owl"], x_train=pixels[:12], x_test=pixels[12:])
    with pytest.raises(DataError, match=r"x_train\[3\] has float pixels in 0\.\.1 but for 1 that reach"):
        load_npz(tmp_path)


def test_domains_that_are_nearly_black_are_told(tmp_path: Path) -> None:
    names = ["cat", "dog", "owl"]
    write_npz(tmp_path, "photo", names)
    write_npz(tmp_path, "cut", names, x_train=NOISE[:12] // 128, x_test=NOISE[12:18] // 128)
    dark = [note for note in load_npz(tmp_path).warnings if "is dark" in note]
    assert len(dark) == 1
    assert "domain 'cut' is dark: no pixel is brighter than 1 of 255" in dark[0]


def test_images_of_one_colour_are_told(tmp_path: Path) -> None:
    root = write_tree(tmp_path, CELLS)
    Image.new("RGB", (8, 8), (3, 200, 9)).save(root / "photo/cat/blank.png")
    assert "images of one colour throughout: 1, for example photo/cat/blank.png" in load_folder(root).warnings


PICTURE = Image.fromarray(NOISE[0])
MANY = {"save_all": True, "append_images": [Image.fromarray(NOISE[1])]}
FIRST = "of animations and files of several pages the first image is taken"


@pytest.mark.parametrize(
    ("name", "image", "options", "note"),
    [
        ("a.png", Image.fromarray(NOISE[0][..., [0, 1, 2, 0]]), {}, "transparent parts are laid over white"),
        ("a.png", PICTURE.convert("RGBA"), {}, None),
        ("a.jpg", PICTURE.convert("CMYK"), {}, "images in CMYK are converted to RGB"),
        ("a.png", PICTURE.convert("L"), {}, None),
        ("a.png", PICTURE.convert("P"), {}, None),
        ("a.gif", PICTURE, MANY, FIRST),
        ("a.tif", PICTURE, MANY, FIRST),
    ],
)
def test_what_is_done_to_images_is_told(
    tmp_path: Path, name: str, image: Image.Image, options: dict[str, object], note: str | None
) -> None:
    root = write_tree(tmp_path, CELLS)
    before = load_folder(root).warnings
    image.copy().save(root / "photo/cat" / name, **options)
    more = set(load_folder(root).warnings) - set(before)
    if note is None:
        assert more == set()
    else:
        assert len(more) == 1
        assert f"{note}: 1, for example {root}/photo/cat/{name}" in more.pop()


def test_images_that_the_camera_turned_are_told(tmp_path: Path) -> None:
    root = write_tree(tmp_path, CELLS)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE[0]).save(root / "photo/cat/turned.jpg", exif=exif)
    exif[0x0112] = 99  # stands for nothing
    Image.fromarray(NOISE[0]).save(root / "photo/cat/not.jpg", exif=exif)
    assert any("turned as their camera recorded it: 1," in note for note in load_folder(root).warnings)
