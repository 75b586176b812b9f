"""Differentiable siamese augmentation (DSA): one operation at a time, the same for all images to be compared.

The operations work on normalised images, where 0 is the mean colour; what comes in from outside is 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import DSA_STRATEGY, AugmentConfig

NO_AUGMENTATION = "none"


@dataclass(frozen=True)
class AugmentDraw:
    """What befalls each of G groups of images of `resolution` (height, width).

    `operations` are names; `chosen`, int64 [G], indexes them; `values`, float64 [G, 3], are the parameters of
    the chosen operation, one to three of them, in its own units (see `_values`).
    """

    operations: tuple[str, ...]
    chosen: Tensor
    values: Tensor
    resolution: tuple[int, int]
    cutout_sides: tuple[int, int]


def resolve_strategy(config: AugmentConfig, flip_safe: bool) -> AugmentConfig:
    """The configuration with its strategy written out: names joined by "_", or "none".

    Raises ValueError for an unknown or repeated operation and for a strength outside its range.
    """
    strategy = config.strategy
    if strategy is None:
        strategy = "_".join(name for name in DSA_STRATEGY.split("_") if flip_safe or name != "flip")
    config = dataclasses.replace(config, strategy=strategy)
    _operations(config)
    for name in ("crop", "cutout", "flip_probability"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"augment.{name} must lie in [0, 1], got {getattr(config, name)}")
    if config.scale < 1:
        raise ValueError(f"augment.scale must be at least 1, got {config.scale}")
    return config


def draw_siamese(
    config: AugmentConfig, resolution: tuple[int, int], groups: int, generator: torch.Generator
) -> AugmentDraw:
    """For each group (class) one operation and its parameters, for real and synthetic images alike."""
    return _draw(config, resolution, groups, groups, generator)


def draw_batch(
    config: AugmentConfig, resolution: tuple[int, int], batch: int, generator: torch.Generator
) -> AugmentDraw:
    """One operation for the whole batch, with parameters of its own for each image: for training on a set."""
    return _draw(config, resolution, 1, batch, generator)


def augment(images: Tensor, draw: AugmentDraw, group: Tensor | None = None) -> Tensor:
    """Apply to each of `images` [B, C, H, W], normalised, what was drawn for its group.

    `group`, int64 [B], names the row of the draw for each image; None: image i takes row i. Differentiable in
    the images. Raises ValueError where the draw does not fit the images.
    """
    rows = torch.arange(len(images)) if group is None else group.cpu()
    if rows.shape != (len(images),):
        raise ValueError(f"group needs an entry for each of {len(images)} images, got {list(rows.shape)}")
    if group is None and len(images) != len(draw.chosen):
        raise ValueError(f"a draw for {len(draw.chosen)} groups needs `group` for {len(images)} images")
    if images.shape[2:] != draw.resolution:
        raise ValueError(f"the draw is for images of {draw.resolution} px, got {tuple(images.shape[2:])}")
    chosen, values = draw.chosen[rows], draw.values[rows]
    places, parts = [], []
    for index, name in enumerate(draw.operations):
        place = (chosen == index).nonzero().flatten()
        if len(place):
            part = images if len(place) == len(images) else images[place.to(images.device)]
            parameters = values[place].to(images)
            parts.append(_OPERATIONS[name](part, parameters, draw))
            places.append(place)
    if len(parts) <= 1:
        return parts[0] if parts else images
    return torch.cat(parts)[torch.cat(places).argsort().to(images.device)]


def _operations(config: AugmentConfig) -> tuple[str, ...]:
    if config.strategy is None:
        raise ValueError("augment.strategy is not resolved; see resolve_strategy")
    if config.strategy == NO_AUGMENTATION:
        return ()
    names = tuple(config.strategy.split("_"))
    for name in names:
        if name not in _OPERATIONS:
            raise ValueError(
                f"augment.strategy {config.strategy!r} names the unknown operation {name!r}; known: "
                f"{', '.join(_OPERATIONS)}, joined by '_', or {NO_AUGMENTATION!r} alone"
            )
        if names.count(name) > 1:
            raise ValueError(f"augment.strategy {config.strategy!r} names {name!r} twice")
    return names


def _draw(
    config: AugmentConfig,
    resolution: tuple[int, int],
    choices: int,
    count: int,
    generator: torch.Generator,
) -> AugmentDraw:
    operations = _operations(config)
    height, width = resolution
    chosen = torch.randint(max(1, len(operations)), (choices,), generator=generator).expand(count)
    # Each row takes three uniform numbers, whatever its operation needs: no row shifts the draws of the next.
    uniform = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    sides = (int(height * config.cutout + 0.5), int(width * config.cutout + 0.5))
    values = torch.zeros_like(uniform)
    for index, name in enumerate(operations):
        rows = chosen == index
        values[rows] = _values(name, uniform[rows], config, resolution, sides)
    return AugmentDraw(operations, chosen, values, resolution, sides)


def _values(
    name: str, u: Tensor, config: AugmentConfig, resolution: tuple[int, int], cutout_sides: tuple[int, int]
) -> Tensor:
    """The parameters [n, 3] of an operation from uniform numbers [n, 3] in [0, 1)."""
    size = u.new_tensor([*resolution, 0])
    if name == "color":  # added brightness, factor of saturation, factor of contrast
        least = u.new_tensor([-config.brightness / 2, 0, config.contrast])
        return u * u.new_tensor([config.brightness, config.saturation, 1]) + least
    if name == "crop":  # the row and the column that become the first
        reach = (size * config.crop + 0.5).floor()
        return _whole(u, 2 * reach + 1) - reach
    if name == "cutout":  # the first row and column of the square
        # Its centre lies in the image: on a pixel, or between two for an even side, the borders included.
        sides = u.new_tensor([*cutout_sides, 0])
        return _whole(u, size + 1 - sides % 2) - (sides / 2).floor()
    if name == "flip":  # 1 for mirrored
        return (u < config.flip_probability).to(u.dtype)
    if name == "scale":  # the shown share of the width and of the height
        return u * (config.scale - 1 / config.scale) + 1 / config.scale
    # The angle of a rotation, in radians.
    return (2 * u - 1) * math.radians(config.rotate_degrees)


def _whole(u: Tensor, count: Tensor) -> Tensor:
    """Whole numbers, uniform in [0, count)."""
    return (u * count).floor().minimum(count - 1)


def _color(images: Tensor, values: Tensor, _: AugmentDraw) -> Tensor:
    brightness, saturation, contrast = values[:, :, None, None, None].unbind(1)
    images = images + brightness
    grey = images.mean(1, keepdim=True)
    images = torch.lerp(grey, images, saturation)
    level = images.mean((1, 2, 3), keepdim=True)
    return torch.lerp(level, images, contrast)


def _crop(images: Tensor, values: Tensor, _: AugmentDraw) -> Tensor:
    height, width = images.shape[2:]
    first = values[:, :2].long()
    y = torch.arange(height, device=images.device) + first[:, :1]
    x = torch.arange(width, device=images.device) + first[:, 1:]
    inside = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[:, None, None, :]
    pixel = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None, :]
    index = pixel.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view_as(images).masked_fill(~inside, 0)


def _cutout(images: Tensor, values: Tensor, draw: AugmentDraw) -> Tensor:
    inside = []
    for axis, side in enumerate(draw.cutout_sides):
        position = torch.arange(images.shape[2 + axis], device=images.device) - values[:, axis, None]
        inside.append((position >= 0) & (position < side))
    return images.masked_fill(inside[0][:, None, :, None] & inside[1][:, None, None, :], 0)


def _flip(images: Tensor, values: Tensor, _: AugmentDraw) -> Tensor:
    return torch.where(values[:, 0, None, None, None] > 0, images.flip(3), images)


def _scale(images: Tensor, values: Tensor, _: AugmentDraw) -> Tensor:
    return _sample(images, torch.diag_embed(values[:, :2]))


def _rotate(images: Tensor, values: Tensor, _: AugmentDraw) -> Tensor:
    height, width = images.shape[2:]
    cos, sin = values[:, 0].cos(), values[:, 0].sin()
    # A rotation of pixels; the sampler's coordinates run from -1 to 1 along both axes.
    turn = torch.stack([cos, -sin * height / width, sin * width / height, cos], 1)
    return _sample(images, turn.view(-1, 2, 2))


def _sample(images: Tensor, linear: Tensor) -> Tensor:
    """Bilinear samples where `linear` [B, 2, 2] sends each pixel's (x, y), seen from the centre."""
    grid = F.affine_grid(F.pad(linear, (0, 1)), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


_OPERATIONS: dict[str, Callable[[Tensor, Tensor, AugmentDraw], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
