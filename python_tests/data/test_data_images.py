"""Files, Pillow images and arrays to RGB: every mode, and every way to be broken."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgdd_fast.data import DataError
from dgdd_fast.data.images import array_to_pixels, image_to_pixels, read_image

RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "gif", "webp", "tif", "ppm"])
def test_lossless_files_keep_their_pixels(tmp_path: Path, ending: str) -> None:
    colours = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 90)], axis=2)
    options = {"lossless": True} if ending == "webp" else {}
    path = saved(Image.fromarray(colours), tmp_path / f"image.{ending}", **options)
    assert np.array_equal(read_image(path, "image"), colours)
    assert np.array_equal(read_image(path.read_bytes(), "image"), colours)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    pixels = read_image(saved(Image.fromarray(RAMP), tmp_path / "grey.png"), "grey")
    assert np.array_equal(pixels, np.repeat(RAMP[..., None], 3, axis=2))


def test_transparent_pixels_are_laid_over_white(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (200, 0, 0, 0))
    pixels = read_image(saved(rgba, tmp_path / "clear.png"), "clear")
    assert pixels.tolist() == [[[200, 0, 0], [255, 255, 255]]]
    half = image_to_pixels(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "half")
    assert abs(int(half[0, 0, 0]) - 127) <= 1
    grey = image_to_pixels(Image.new("LA", (1, 1), (0, 0)), "grey")
    assert grey.tolist() == [[[255, 255, 255]]]


def test_a_transparent_palette_entry_is_laid_over_white(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    pixels = read_image(saved(palette, tmp_path / "palette.png", transparency=1), "palette")
    assert pixels.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = RAMP.astype(np.uint16) * 257
    pixels = read_image(saved(Image.fromarray(deep), tmp_path / "deep.png"), "deep")
    assert np.array_equal(pixels[..., 0], RAMP)
    assert np.array_equal(array_to_pixels(deep, "deep")[..., 2], RAMP)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "1", "P"])
def test_other_modes_become_rgb(mode: str) -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0)).convert(mode)
    pixels = image_to_pixels(red, "red")
    assert pixels.shape == (4, 4, 3)
    if mode != "1":
        assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3


def test_the_camera_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 2), (0, 0, 0))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    pixels = read_image(saved(image, tmp_path / "turned.png", exif=exif), "turned")
    assert pixels.shape == (3, 2, 3)
    assert pixels[0, 1].tolist() == [255, 255, 255]


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    path = saved(frames[0], tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (read_image(path, "moving") == 10).all()


def test_resizing_is_square_and_bicubic(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(noise).resize((8, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(
        read_image(saved(Image.fromarray(noise), tmp_path / "noise.png"), "noise", 8), expected
    )
    assert np.array_equal(array_to_pixels(noise, "noise", 8), expected)


@pytest.mark.parametrize(
    "array",
    [
        RAMP,
        RAMP[..., None],
        RAMP / np.float32(255),
        RAMP.astype(np.float64),
        np.repeat(RAMP[..., None], 3, axis=2),
    ],
)
def test_arrays_of_every_range_and_shape(array: np.ndarray) -> None:
    assert np.array_equal(array_to_pixels(array, "ramp"), np.repeat(RAMP[..., None], 3, axis=2))


def test_a_boolean_array_is_black_and_white() -> None:
    assert array_to_pixels(np.eye(2, dtype=bool), "mask")[..., 0].tolist() == [[255, 0], [0, 255]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\); expected \[H, W\]"),
        (np.zeros((0, 8, 3), np.uint8), "shape"),
        (np.full((4, 4), np.nan), "16 pixels that are NaN"),
        (np.full((4, 4), np.inf), "NaN or infinite"),
        (np.full((4, 4), -1.0), r"-1\.\.-1; expected 0\.\.1 or 0\.\.255"),
        (np.full((4, 4), 300.0), r"300\.\.300; expected"),
        (np.zeros((4, 4), np.int64), "type int64, whose range"),
        (np.full((4, 4), -1, np.int32), "type int32"),
        (np.full((4, 4), 200, np.int32), r"int32, whose range is not clear.*astype\(numpy.uint8\)"),
        (np.full((4, 4), 200, np.int16), "type int16"),
        (np.full((4, 4), 1j), "type complex128"),
        (np.zeros((3, 8, 3), np.uint8), "channels may be first or last"),
        (np.pad([[255.0]], (0, 20), constant_values=0.5), r"0\.\.1 but for 1 that reach 255"),
        (np.pad([[1.2]], (0, 20), constant_values=0.5), r"0\.\.1 but for 1 that reach 1\.2"),
    ],
)
def test_bad_arrays_are_refused_by_name(array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        array_to_pixels(array, "row 3")
    assert "row 3" in str(caught.value)


def test_a_float_image_has_no_known_range() -> None:
    with pytest.raises(DataError, match="mode F"):
        image_to_pixels(Image.new("F", (2, 2)), "floats")


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "webp", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_a_truncated_file_is_named(tmp_path: Path, ending: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"cut.{ending}")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match="is truncated or damaged") as caught:
        read_image(path, str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"page\.jpg is named like an image but is none"):
        read_image(path, str(path))


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").touch()
    for source in (tmp_path / "page.jpg", b""):
        with pytest.raises(DataError, match=r"page\.jpg is empty \(0 bytes\)"):
            read_image(source, "page.jpg")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [15_000_000, 1_000_000])  # Pillow itself only warns below twice the limit
def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = saved(Image.new("1", (4000, 4000)), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"bomb\.png unpacks to far more pixels than an image should"):
        read_image(path, str(path))


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
        read_image(tmp_path / "gone.png", str(tmp_path / "gone.png"))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"folder\.png cannot be read"):
        read_image(tmp_path / "folder.png", str(tmp_path / "folder.png"))


def test_an_image_in_memory_is_read_like_a_file() -> None:
    buffer = BytesIO()
    Image.fromarray(RAMP).save(buffer, "PNG")
    assert np.array_equal(read_image(buffer.getvalue(), "row 0")[..., 1], RAMP)
