"""Four domains of digits with no download, made from what the dependencies contain.

* ``plain``: scikit-learn's handwritten digits (8 x 8), enlarged, white on black.
* ``blended``: other handwritten digits of the same collection, as the absolute difference to photographs
  (MNIST-M's way).
* ``street``: printed digits on walls, with other digits cut off at both sides (SVHN's look).
* ``warped``: printed digits, coloured and bent, on coloured grounds (the look of SYN digits).

Handwritten digits come from ``sklearn.datasets.load_digits``, photographs from ``load_sample_images``, fonts
from matplotlib. Between the train and the test part no handwritten digit, no font and no piece of a
photograph is shared, and ``plain`` and ``blended`` share no handwritten digit.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..extras import extra
from ..seeds import derive_seed
from .dataset import DomainDataset
from .errors import DataError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DOMAINS = ("plain", "blended", "street", "warped")
RESOLUTIONS = range(16, 65)
_PURPOSE = "drawing the embedded digits"

# Handwritten digits of each class for each of the two handwritten domains (the rarest class has 174), each
# used twice with another position and slant. The printed domains are made equally large.
_SOURCES = {"train": 65, "test": 22}
_VARIANTS = 2

# DejaVu Sans Mono is left out: at this size its dotted zero reads as an eight.
_FONTS = {
    "train": (
        "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
        "DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBolIta", "cmr10", "cmb10", "cmtt10",
    ),
    "test": ("DejaVuSans-BoldOblique", "DejaVuSerif", "STIXGeneralBol", "STIXGeneralItalic", "cmss10"),
}  # fmt: skip

# Photographs are cut where the train part ends: crops for training lie to the left, crops for testing to the
# right.
_PHOTO_CUT = 0.7
_PHOTO_ZOOMS = (3.0, 4.5, 7.0)  # height of the photograph in crops


class _Placement(NamedTuple):
    """Where glyphs go, one entry an image: lengths in half images, angles in radians. `bend` is a sideways
    wave.
    """

    size: Floats
    aspect: Floats
    rotation: Floats
    shear: Floats
    x: Floats
    y: Floats
    bend: Floats
    phase: Floats


def embedded_digits(resolution: int = 32, seed: int = 0) -> DomainDataset:
    """Four domains (plain, blended, street, warped) of ten digit classes: 130 train and 44 test images in
    each cell.

    Args:
        resolution: side of the images in pixels, 16 to 64.
        seed: another seed gives another draw of digits, crops, fonts and colours.

    The same arguments give the same bytes for the same versions of the dependencies. Built in about a
    second.
    """
    if resolution not in RESOLUTIONS:
        raise DataError(
            f"the embedded digits come in {RESOLUTIONS[0]} to {RESOLUTIONS[-1]} pixels, got {resolution}"
        )
    with extra("report", _PURPOSE):  # here, since importing it takes longer than drawing the digits
        from sklearn.datasets import load_digits

    handwriting = load_digits()
    sources = _share_sources(handwriting.target, np.random.default_rng(derive_seed(seed, "embedded digits")))
    photos = _photo_pyramid(resolution)
    images, names = [], []
    for domain in DOMAINS:
        for part in _SOURCES:
            random = np.random.default_rng(derive_seed(seed, "embedded digits", domain, part))
            if domain in ("plain", "blended"):
                chosen = sources[domain, part]
                pixels = _handwritten(handwriting.images[chosen] / 16, resolution, random)
                if domain == "blended":
                    crops = _crops(photos, len(chosen), part, resolution, random)
                    pixels = (_away_from_grey(crops) - pixels).abs()
                made_from = [f"load_digits-{index:04d}" for index in chosen]
            else:
                labels = _labels(part)
                fonts = random.integers(len(_FONTS[part]), size=len(labels))
                glyphs = _glyph_atlas(_FONTS[part], resolution)
                if domain == "street":
                    ground = _crops(photos, len(labels), part, resolution, random)
                    pixels = _street(glyphs, fonts, labels, ground, random)
                else:
                    pixels = _warped(glyphs, fonts, labels, resolution, random)
                made_from = [_FONTS[part][font] for font in fonts]
            images.append((pixels.clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1))
            names += [
                f"{domain}/{part}/{label}/{origin}-{row:04d}"
                for row, (label, origin) in enumerate(zip(_labels(part), made_from, strict=True))
            ]
    parts = [part for _ in DOMAINS for part in _SOURCES]
    sizes = [len(_labels(part)) for part in parts]
    return DomainDataset(
        name="embedded-digits",
        images=torch.cat(images),
        labels=torch.cat([torch.from_numpy(_labels(part)) for part in parts]),
        domains=torch.arange(len(DOMAINS)).repeat_interleave(sum(sizes) // len(DOMAINS)),
        is_test=torch.cat(
            [torch.full((size,), part == "test") for part, size in zip(parts, sizes, strict=True)]
        ),
        class_names=tuple(str(digit) for digit in range(10)),
        domain_names=DOMAINS,
        item_names=tuple(names),
    )


def _labels(part: str) -> Integers:
    return np.repeat(np.arange(10), _SOURCES[part] * _VARIANTS)


def _share_sources(labels: Integers, random: np.random.Generator) -> dict[tuple[str, str], Integers]:
    """For each handwritten domain and part, the rows of the collection it uses, in the order of `_labels`."""
    shared: dict[tuple[str, str], list[Integers]] = {}
    for digit in range(10):
        rows = random.permutation(np.flatnonzero(labels == digit))
        for domain in ("plain", "blended"):
            for part, count in _SOURCES.items():
                shared.setdefault((domain, part), []).append(np.repeat(rows[:count], _VARIANTS))
                rows = rows[count:]
    return {key: np.concatenate(rows) for key, rows in shared.items()}


def _placement(random: np.random.Generator, count: int, **ranges: tuple[float, float]) -> _Placement:
    """Placements drawn uniformly from `ranges`; what is not named is neutral, the phase always free."""
    ranges = {"size": (1.0, 1.0), "phase": (0.0, 2 * np.pi), **ranges}
    drawn = {
        field: random.uniform(*ranges.get(field, (0.0, 0.0)), size=count) for field in _Placement._fields
    }
    return _Placement(**drawn)


def _place(glyphs: Tensor, placement: _Placement, resolution: int, mode: str = "bilinear") -> Tensor:
    """Glyphs float [N, 1, S, S] laid out on images [N, 1, R, R] with nothing around them."""
    cos, sin = np.cos(placement.rotation), np.sin(placement.rotation)
    # From positions in the image to positions in the glyph, both in -1..1: shift, turn back, unshear, scale.
    width = placement.size * np.exp(placement.aspect)
    to_glyph = {
        "x": placement.x,
        "y": placement.y,
        "xx": (cos - placement.shear * sin) / width,
        "xy": (sin + placement.shear * cos) / width,
        "yx": -sin / placement.size,
        "yy": cos / placement.size,
        "bend": placement.bend,
        "phase": placement.phase,
    }
    fine = _sampling(resolution) * resolution
    across = (torch.arange(fine) + 0.5) * (2 / fine) - 1
    down = across[:, None]
    placed = torch.empty(len(glyphs), 1, resolution, resolution)
    for start in range(0, len(glyphs), 128):  # few enough that the positions stay in the cache
        rows = slice(start, start + 128)
        at = {
            name: torch.from_numpy(values[rows]).float()[:, None, None] for name, values in to_glyph.items()
        }
        x = at["xx"] * (across - at["x"]) + at["xy"] * (down - at["y"])
        y = at["yx"] * (across - at["x"]) + at["yy"] * (down - at["y"])
        x = x + at["bend"] * torch.sin(2.5 * y + at["phase"])
        sampled = F.grid_sample(glyphs[rows], torch.stack([x, y], dim=-1), mode, "zeros", align_corners=False)
        placed[rows] = F.avg_pool2d(sampled, _sampling(resolution))
    return placed


def _sampling(resolution: int) -> int:
    """Samples per pixel and axis: small images are drawn twice as large, then averaged, for smooth edges."""
    return 2 if resolution <= 32 else 1


def _handwritten(digits: Floats, resolution: int, random: np.random.Generator) -> Tensor:
    """Digits [N, 8, 8] in [0, 1] enlarged to float [N, 1, R, R], white on black, each slightly moved and
    turned.
    """
    placement = _placement(
        random,
        len(digits),
        size=(0.9, 1.05),
        rotation=(-0.12, 0.12),
        shear=(-0.1, 0.1),
        x=(-0.08, 0.08),
        y=(-0.08, 0.08),
    )
    padded = F.pad(torch.from_numpy(digits).float()[:, None], (1, 1, 1, 1))
    soft = _place(padded, placement, resolution, mode="bicubic")
    # Enlarging four-fold leaves blurred strokes; a steeper ramp gives them edges again.
    return ((soft - 0.5) * 2.5 + 0.5).clamp(0, 1)


def _photo_pyramid(resolution: int) -> list[Tensor]:
    """Both sample photographs at every zoom, float [3, H, W] in [0, 1]."""
    with extra("report", _PURPOSE):
        from sklearn.datasets import load_sample_images

    pyramid = []
    for photo in load_sample_images().images:
        height, width = photo.shape[:2]
        for zoom in _PHOTO_ZOOMS:
            size = (round(zoom * resolution * width / height), round(zoom * resolution))
            scaled = np.array(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))
            pyramid.append(torch.from_numpy(scaled).permute(2, 0, 1).float() / 255)
    return pyramid


def _crops(
    photos: list[Tensor], count: int, part: str, resolution: int, random: np.random.Generator
) -> Tensor:
    """Crops float [N, 3, R, R] of the part's side of the photographs, mirrored and their channels exchanged
    at random.
    """
    crops = torch.empty(count, 3, resolution, resolution)
    which = random.integers(len(photos), size=count)
    places = random.random((count, 2))
    channels = random.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
    for row in range(count):
        photo = photos[which[row]]
        height, width = photo.shape[1:]
        cut = int(_PHOTO_CUT * width)
        left, right = (0, cut) if part == "train" else (cut, width)
        y = int(places[row, 0] * (height - resolution + 1))
        x = left + int(places[row, 1] * (right - left - resolution + 1))
        crops[row] = photo[channels[row], y : y + resolution, x : x + resolution]
    mirrored = torch.from_numpy(random.random(count) < 0.5)
    crops[mirrored] = crops[mirrored].flip(3)
    return crops


def _away_from_grey(images: Tensor) -> Tensor:
    """Bright images brighter, dark ones darker: the difference of mid grey and white is mid grey again."""
    bright = images.mean(dim=(1, 2, 3), keepdim=True) > 0.5
    return images * 0.6 + bright * 0.4


def _glyph_atlas(fonts: tuple[str, ...], resolution: int) -> Tensor:
    """The ten digits in each font as float masks [F, 10, 1, S, S], every digit centred and as high as its
    cell.
    """
    with extra("report", _PURPOSE):
        import matplotlib

    side = _sampling(resolution) * resolution
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    atlas = np.zeros((len(fonts), 10, 1, side, side), np.float32)
    for row, name in enumerate(fonts):
        path = folder / f"{name}.ttf"
        if not path.is_file():
            raise DataError(f"matplotlib's font {path} is missing; install matplotlib 3.9 or newer again")
        font = ImageFont.truetype(path, side)
        for digit in range(10):
            left, top, right, bottom = font.getbbox(str(digit))
            glyph = Image.new("L", (round(right - left), round(bottom - top)))
            ImageDraw.Draw(glyph).text((-left, -top), str(digit), fill=255, font=font)
            width = min(side, max(1, round(glyph.width * side / glyph.height)))
            glyph = glyph.resize((width, side), Image.Resampling.BICUBIC)
            start = (side - width) // 2
            atlas[row, digit, 0, :, start : start + width] = np.asarray(glyph, np.float32) / 255
    return torch.from_numpy(atlas)


def _street(
    glyphs: Tensor, fonts: Integers, labels: Integers, ground: Tensor, random: np.random.Generator
) -> Tensor:
    """Printed digits over the photographs `ground` [N, 3, R, R], with a neighbour cut off at either side."""
    count, resolution = len(labels), ground.shape[-1]
    placement = _placement(
        random, count, size=(0.6, 0.85), aspect=(-0.15, 0.1), rotation=(-0.15, 0.15), shear=(-0.2, 0.2),
        x=(-0.1, 0.1), y=(-0.12, 0.12),
    )  # fmt: skip
    wall = _colours(count, random)
    share = torch.from_numpy(random.uniform(0.4, 0.9, size=count)).float()[:, None, None, None]
    image = share * ground + (1 - share) * wall
    ink = _contrasting(image.mean(dim=(2, 3), keepdim=True), random)
    mask = _place(glyphs[fonts, labels], placement, resolution)
    for side in (-1, 1):
        distance = placement.size * np.exp(placement.aspect) * random.uniform(1.35, 1.6, size=count) + 0.1
        beside = placement._replace(x=placement.x + side * distance)
        digit = random.integers(10, size=count)
        mask = torch.maximum(mask, _place(glyphs[fonts, digit], beside, resolution))
    image = image + mask * (ink - image)
    blur = torch.from_numpy(random.uniform(0, 0.9, size=count)).float()[:, None, None, None]
    soft = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return image + blur * (soft - image)


def _warped(
    glyphs: Tensor, fonts: Integers, labels: Integers, resolution: int, random: np.random.Generator
) -> Tensor:
    """Printed digits, turned, sheared and bent, on a ground that runs from one colour into another: [N, 3, R,
    R].
    """
    count = len(labels)
    placement = _placement(
        random, count, size=(0.55, 0.95), aspect=(-0.3, 0.35), rotation=(-0.45, 0.45), shear=(-0.45, 0.45),
        x=(-0.2, 0.2), y=(-0.15, 0.15), bend=(-0.28, 0.28),
    )  # fmt: skip
    steps = torch.linspace(-1, 1, resolution)
    angle = torch.from_numpy(random.uniform(0, 2 * np.pi, size=count)).float()[:, None, None, None]
    ramp = (torch.cos(angle) * steps + torch.sin(angle) * steps[:, None]) / 2.9 + 0.5
    start, end = _colours(count, random), _colours(count, random)
    ground = start + 0.6 * ramp * (end - start)
    ink = _contrasting(ground.mean(dim=(2, 3), keepdim=True), random)
    mask = _place(glyphs[fonts, labels], placement, resolution)
    return ground + mask * (ink - ground)


def _colours(count: int, random: np.random.Generator) -> Tensor:
    """Colours [N, 3, 1, 1], uniform in the RGB cube."""
    return torch.from_numpy(random.random((count, 3))).float()[:, :, None, None]


def _contrasting(ground: Tensor, random: np.random.Generator) -> Tensor:
    """For each colour [N, 3, 1, 1] a random one whose brightness differs from it by at least 0.4."""
    level = ground.mean(dim=1, keepdim=True)
    room = torch.from_numpy(random.random((len(ground), 1))).float()[:, :, None, None]
    dark = room * (level - 0.4)
    light = level + 0.4 + room * (0.6 - level)
    brightness = torch.where(level > 0.5, dark, light)
    tint = 0.25 * (_colours(len(ground), random) - 0.5)
    return (brightness + tint - tint.mean(dim=1, keepdim=True)).clamp(0, 1)
