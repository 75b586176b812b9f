"""Differentiable siamese augmentation (DSA), the same for real and synthetic images; and CutMix.

The operations work on normalised images, where 0 is the mean colour; what comes in from outside is 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import DSA_STRATEGY, AugmentConfig, AugmentSettings, checked, settled
from ..ops import AUGMENTATIONS, sample_augment

NO_AUGMENTATION = "none"


@dataclass(frozen=True)
class AugmentDraw:
    """An augmentation drawn for each of G groups of images of `resolution` (height, width).

    `operations` are names; `chosen`, int64 [G], indexes them, and `numbers`, int64 [G], are the same as
    positions in `ops.AUGMENTATIONS`; `values`, float64 [G, 3], are the parameters of the chosen operation,
    one to three of them, in its own units (see `ops.sample_augment`). A crop moves by at most `crop_reach`
    (rows, columns). In a sequence, `then` is applied to the result.
    """

    operations: tuple[str, ...]
    chosen: Tensor
    numbers: Tensor
    values: Tensor
    resolution: tuple[int, int]
    crop_reach: tuple[int, int]
    cutout_sides: tuple[int, int]
    then: AugmentDraw | None = None

    def to(self, device: torch.device) -> AugmentDraw:
        """The same with `numbers` and `values` on `device`: what an augmentation reads."""
        return dataclasses.replace(
            self,
            numbers=self.numbers.to(device),
            values=self.values.to(device),
            then=None if self.then is None else self.then.to(device),
        )


def resolve_strategy(config: AugmentConfig, flip_safe: bool, cutmix: bool = False) -> AugmentSettings:
    """The configuration with its strategy written out: names joined by "_", or "none".

    Where the choice is left open there is no flip unless it is safe, and no cutout beside CutMix. Raises
    ValueError for an unknown or repeated operation and for a strength outside its range.
    """
    strategy = config.strategy
    if strategy is None:
        unwanted = {name for name, out in (("flip", not flip_safe), ("cutout", cutmix)) if out}
        strategy = "_".join(name for name in DSA_STRATEGY.split("_") if name not in unwanted)
    composition = config.composition or "single"
    settings = settled(AugmentSettings, config, strategy=strategy, composition=composition)
    _operations(settings)
    return checked(settings, "augment")


def draw_siamese(
    config: AugmentConfig, resolution: tuple[int, int], groups: int, generator: torch.Generator
) -> AugmentDraw:
    """For each group (class) operations and parameters of its own, for real and synthetic images alike."""
    return _draw(config, _steps(config), resolution, groups, groups, generator)


def draw_batch(
    config: AugmentConfig, resolution: tuple[int, int], batch: int, generator: torch.Generator
) -> AugmentDraw:
    """The same operations for the whole batch, with parameters of their own for each image: for training."""
    return _draw(config, _steps(config), resolution, 1, batch, generator)


def augment(images: Tensor, draw: AugmentDraw, group: Tensor | None = None) -> Tensor:
    """Apply to each of `images` [B, C, H, W], normalised, what was drawn for its group.

    `group`, int64 [B], names the row of the draw for each image; None: image i takes row i. Differentiable in
    the images. Raises ValueError where the draw does not fit the images.
    """
    return _augmented(images, None, None, None, draw, group)


def augmented_rows(
    images: Tensor,
    rows: Tensor,
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
    draw: AugmentDraw,
    group: Tensor | None = None,
) -> Tensor:
    """A batch [B, C, H, W] of `images` [M, C, H, W], the `rows` int64 [B] of them, each augmented by what was
    drawn for its group, as `augment` does, in one pass over the pixels.

    uint8 images are normalised with `mean` and `std` [C], to float32; floating ones are normalised already.
    """
    mean, std = (torch.as_tensor(part, dtype=torch.float32, device=images.device) for part in (mean, std))
    return _augmented(images, rows, mean, std, draw, group)


def _augmented(
    images: Tensor,
    rows: Tensor | None,
    mean: Tensor | None,
    std: Tensor | None,
    draw: AugmentDraw,
    group: Tensor | None,
) -> Tensor:
    count = len(images) if rows is None else len(rows)
    if group is not None and group.shape != (count,):
        raise ValueError(f"group needs an entry for each of {count} images, got {list(group.shape)}")
    if group is None and count != len(draw.numbers):
        raise ValueError(f"a draw for {len(draw.numbers)} groups needs `group` for {count} images")
    if images.shape[2:] != draw.resolution:
        raise ValueError(f"the draw is for images of {draw.resolution} px, got {tuple(images.shape[2:])}")
    if draw.operations or rows is not None:
        numbers, values = draw.numbers.to(images.device), draw.values.to(images.device)
        if group is not None:
            group = group.to(images.device)
            numbers, values = numbers[group], values[group]
        images = sample_augment(images, rows, numbers, values, mean, std, draw.crop_reach, draw.cutout_sides)
    return images if draw.then is None else _augmented(images, None, None, None, draw.then, group)


@dataclass(frozen=True)
class CutMixDraw:
    """One box, for all images of a batch, that each image takes from its partner (Yun et al., ICCV 2019).

    `partner` is int64 [B]; `rows` and `columns` are the first of the box and the first after it; `kept` is
    the share of pixels outside it.
    """

    partner: Tensor
    rows: tuple[int, int]
    columns: tuple[int, int]
    kept: float


def draw_cutmix(
    probability: float, resolution: tuple[int, int], batch: int, generator: torch.Generator
) -> CutMixDraw | None:
    """With `probability` a box whose share of the image is uniform in [0, 1] before it is clipped at the
    borders, its centre uniform in the image; else None."""
    chance, share, *centre = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    partner = torch.randperm(batch, generator=generator)
    if chance >= probability:
        return None
    (top, bottom), (left, right) = (
        _clipped(int(place * side), round(side * math.sqrt(share)), side)
        for place, side in zip(centre, resolution, strict=True)
    )
    kept = 1 - (bottom - top) * (right - left) / (resolution[0] * resolution[1])
    return CutMixDraw(partner, (top, bottom), (left, right), kept)


def _clipped(centre: int, length: int, side: int) -> tuple[int, int]:
    first = centre - length // 2
    return max(0, first), min(side, first + length)


def cutmix(images: Tensor, draw: CutMixDraw | None) -> Tensor:
    """The images [B, C, H, W], each with the box of its partner; as they are without a draw."""
    if draw is None:
        return images
    box = (..., slice(*draw.rows), slice(*draw.columns))
    mixed = images.clone()
    mixed[box] = images[box][draw.partner.to(images.device)]
    return mixed


def mixed_labels(labels: Tensor, draw: CutMixDraw | None, count: int) -> Tensor:
    """Targets for the cross entropy of mixed images, of labels int64 [B] in [0, count) or probabilities
    [B, count]: probabilities, split between an image and its partner like the pixels; `labels` themselves
    without a draw."""
    if draw is None:
        return labels
    own = F.one_hot(labels, count).float() if labels.dim() == 1 else labels
    return torch.lerp(own[draw.partner.to(labels.device)], own, draw.kept)


def _operations(config: AugmentConfig) -> tuple[str, ...]:
    if config.strategy is None:
        raise ValueError("augment.strategy is not resolved; see resolve_strategy")
    if config.strategy == NO_AUGMENTATION:
        return ()
    names = tuple(config.strategy.split("_"))
    for name in names:
        if name not in AUGMENTATIONS[1:]:
            raise ValueError(
                f"augment.strategy {config.strategy!r} names the unknown operation {name!r}; known: "
                f"{', '.join(AUGMENTATIONS[1:])}, joined by '_', or {NO_AUGMENTATION!r} alone"
            )
        if names.count(name) > 1:
            raise ValueError(f"augment.strategy {config.strategy!r} names {name!r} twice")
    return names


def _steps(config: AugmentConfig) -> list[tuple[str, ...]]:
    """The operations that each step of the composition takes one from."""
    operations = _operations(config)
    if config.composition != "sequence":
        return [operations]
    groups = (("flip",), ("color",), ("crop", "scale", "rotate"), ("cutout",))
    steps = [tuple(name for name in group if name in operations) for group in groups]
    return [step for step in steps if step] or [()]


def _draw(
    config: AugmentConfig,
    steps: list[tuple[str, ...]],
    resolution: tuple[int, int],
    choices: int,
    count: int,
    generator: torch.Generator,
) -> AugmentDraw:
    operations, *later = steps
    reach, sides = (_share_of(resolution, share) for share in (config.crop, config.cutout))
    chosen = torch.randint(max(1, len(operations)), (choices,), generator=generator).expand(count)
    known = torch.tensor([AUGMENTATIONS.index(name) for name in operations or (NO_AUGMENTATION,)])
    # Each row takes three uniform numbers, whatever its operation needs: no row shifts the draws of the next.
    uniform = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    values = torch.zeros_like(uniform)
    for index, name in enumerate(operations):
        rows = chosen == index
        values[rows] = _values(name, uniform[rows], config, resolution, reach, sides)
    then = _draw(config, later, resolution, choices, count, generator) if later else None
    return AugmentDraw(operations, chosen, known[chosen], values, resolution, reach, sides, then)


def _share_of(resolution: tuple[int, int], share: float) -> tuple[int, int]:
    height, width = resolution
    return int(height * share + 0.5), int(width * share + 0.5)


def _values(
    name: str,
    u: Tensor,
    config: AugmentConfig,
    resolution: tuple[int, int],
    crop_reach: tuple[int, int],
    cutout_sides: tuple[int, int],
) -> Tensor:
    """The parameters [n, 3] of an operation from uniform numbers [n, 3] in [0, 1)."""
    if name == "color":  # added brightness, factor of saturation, factor of contrast
        least = u.new_tensor([-config.brightness / 2, 0, config.contrast])
        return u * u.new_tensor([config.brightness, config.saturation, 1]) + least
    if name == "crop":  # the row and the column that become the first
        reach = u.new_tensor([*crop_reach, 0])
        return _whole(u, 2 * reach + 1) - reach
    if name == "cutout":  # the first row and column of the square
        # Its centre lies in the image: on a pixel, or between two for an even side, the borders included.
        size, sides = u.new_tensor([*resolution, 0]), u.new_tensor([*cutout_sides, 0])
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
