"""From an image file, a Pillow image or an array to RGB uint8, by one set of rules.

* Grey and palette images become RGB by value. Transparent pixels are laid over white, as on the page they
  were drawn for.
* 16-bit images are scaled to 8 bits (65535 is 255). CMYK, YCbCr, Lab and HSV are converted by Pillow.
* The orientation that a camera recorded is applied. Of an animation the first frame is taken.
* A resolution means a square: bicubic resampling (Pillow, which anti-aliases when it shrinks), without a
  crop.
* Arrays are [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; uint8 as it is, uint16 as 16 bits, floats in 0..1 or
  in 0..255. Their colours are RGB: nothing tells BGR (as OpenCV reads files) from it.
"""

from __future__ import annotations

import functools
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ..files import read_file
from ..messages import shortened
from .errors import DataError
from .findings import Findings

Pixels = npt.NDArray[np.uint8]

IMAGE_ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"))
# Only these decoders are tried, whatever the ending: others (EPS) would run programs on the file's contents.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "PPM", "TIFF")
_REGISTERING = threading.Lock()
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa")
_PLAIN = ("1", "L", "P", "RGB", "RGBA")
_ORIENTATION = 0x0112  # in EXIF
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L")


@functools.cache
def _register_decoders() -> None:
    """Left to itself Pillow does it at the first need, which threads may meet half done: a lock, and all of
    them."""
    with _REGISTERING:
        Image.init()


def read_image(
    source: Path | bytes, item: str, resolution: int | None = None, findings: Findings | None = None
) -> Pixels:
    """Decodes one file (a path, or its bytes) to uint8 [H, W, 3], resized to `resolution` square where given.
    What was done to it goes to `findings`.

    Raises DataError naming `item` where the file cannot be read, is no image, is truncated, or unpacks to
    more pixels than Pillow's limit against decompression bombs.
    """
    _register_decoders()
    try:
        content = source if isinstance(source, bytes) else read_file(source)
    except (OSError, ValueError) as error:
        reason = (
            f"{error.strerror}; check the path and its permissions" if isinstance(error, OSError) else error
        )
        raise DataError(f"{item} cannot be read: {reason}") from error
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(f"{image.width} x {image.height}, the limit is {limit}")
            if image.format != "PNG":
                return image_to_pixels(image, item, resolution, findings)
            image.verify()  # its checksums, which decoding passes over; after that it must be opened anew
        with Image.open(BytesIO(content), formats=("PNG",)) as image:
            return image_to_pixels(image, item, resolution, findings)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{item} unpacks to far more pixels than an image should ({error}); remove it, or shrink it "
            "with a tool that you trust with it"
        ) from error
    except UnidentifiedImageError as error:
        if not content:
            raise DataError(f"{item} is empty (0 bytes); fetch it again or remove it") from error
        raise DataError(
            f"{item} is named like an image but is none of a known kind (JPEG, PNG, BMP, WebP, GIF, PPM, "
            "TIFF), or its beginning is damaged; fetch it again or remove it"
        ) from error
    except Exception as error:  # a damaged file makes the decoders raise almost anything
        reason = shortened(str(error))
        raise DataError(f"{item} is truncated or damaged ({reason}); fetch it again or remove it") from error


def image_to_pixels(
    image: Image.Image, item: str, resolution: int | None = None, findings: Findings | None = None
) -> Pixels:
    """A Pillow image of any mode as uint8 [H, W, 3], resized to `resolution` square where given. What was
    done to it goes to `findings`.

    Raises DataError naming `item` where the pixels cannot be decoded or have no known range.
    """
    findings = findings or Findings()
    try:
        is_turned = image.getexif().get(_ORIENTATION) in range(2, 9)
        if getattr(image, "is_animated", False) and image.format != "MPO":
            findings.add("of animations and files of several pages the first image is taken", item)
        image.load()
        if is_turned:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # a damaged file makes the decoders raise almost anything
        raise DataError(f"{item} is truncated or damaged ({error}); fetch it again or remove it") from error
    if is_turned:
        findings.add("images are turned as their camera recorded it", item)
    if image.mode in _SIXTEEN_BIT:
        image = Image.fromarray(_eight_bits(np.asarray(image), item, findings))
    if image.mode == "F":
        raise DataError(
            f"{item} is a floating-point image (mode F), whose range is unknown; convert it to 8 bits first"
        )
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            findings.add("images with transparent parts are laid over white", item)
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode not in _PLAIN:
        findings.add(f"images in {image.mode} are converted to RGB", item)
    return _resized(image if image.mode == "RGB" else image.convert("RGB"), resolution)


def array_to_pixels(
    array: npt.NDArray[Any], item: str, resolution: int | None = None, findings: Findings | None = None
) -> Pixels:
    """An array of one image as uint8 [H, W, 3], resized to `resolution` square where given.

    Floats must be finite and in 0..1 or 0..255, unsigned integers of 16 bits in 0..65535. One image does
    not show whether they are: `findings` gathers the ranges of all images, to be checked together.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise DataError(
            f"{item} has the shape {array.shape}; expected [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] with "
            "the channels last"
        )
    if array.shape[0] == 3 and array.shape[1] > 4:
        raise DataError(
            f"{item} has the shape {array.shape}, whose channels may be first or last; give it as a Pillow "
            "image"
        )
    findings = findings or Findings()
    if np.issubdtype(array.dtype, np.floating):
        array = np.rint(array * (255 // findings.add_floats(array, item))).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = _eight_bits(array, item, findings)
    elif array.dtype != np.uint8:
        raise DataError(
            f"{item} has pixels of type {array.dtype}, whose range is not clear; expected uint8, uint16, "
            "bool or floats (where they are in 0..255, give array.astype(numpy.uint8))"
        )
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else np.ascontiguousarray(array))
    return image_to_pixels(image, item, resolution, findings)


def resize_all(images: Pixels, resolution: int | None) -> Pixels:
    """uint8 [N, H, W, 3] resized to [N, R, R, 3] where `resolution` is given and differs."""
    if resolution is None or images.shape[1:3] == (resolution, resolution):
        return images
    resized = np.empty((len(images), resolution, resolution, 3), np.uint8)
    for row, image in enumerate(images):
        resized[row] = _resized(Image.fromarray(image), resolution)
    return resized


def _resized(image: Image.Image, resolution: int | None) -> Pixels:
    if resolution is not None and image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), Image.Resampling.BICUBIC)
    return np.array(image)


def _eight_bits(array: npt.NDArray[Any], item: str, findings: Findings) -> Pixels:
    """16 bits, also as the 32-bit integers that Pillow holds them in, as uint8 with 65535 as 255."""
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise DataError(f"{item} has pixels in {low}..{high}; expected 16 bits (0..65535)")
    findings.add_deep(high, item)
    return np.rint(array / 257).astype(np.uint8)
