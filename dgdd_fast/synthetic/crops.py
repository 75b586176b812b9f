"""Crops of real images that a trained network is sure of: the tiles of RDED.

Sun et al., *On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm*
(CVPR 2024).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import DomainDataset, normalise
from ..networks import Network, rows_per_chunk
from ..seeds import generator
from ..steps import counted
from .mosaics import decode

_CUT_AT_ONCE = 2048  # images of a cell, which are resized together where their crops are of a size
LEAST_SHARE = 0.08  # of an image's area that a crop has; the most is all of it


class Crops(NamedTuple):
    """Tiles cut out of real images.

    Attributes:
        tiles: float32 [n, 3, h, w], normalised.
        rows: int64 [n], the rows of the data that they are of.
    """

    tiles: Tensor
    rows: Tensor


class Observer(NamedTuple):
    """Who chooses: a network trained on the sources, and how the images that it saw were normalised."""

    network: Network
    mean: Tensor
    std: Tensor


def chosen_crops(
    sources: DomainDataset,
    observer: Observer,
    assigned: Tensor,
    *,
    balanced: bool,
    factor: int,
    crops: int,
    seed: int,
) -> Crops:
    """For each class the crops whose true label the network is surest of, the surest first: [K * T] tiles.

    Of every image the best of its `crops` crops stands; only where there are fewer images than tiles do
    second best ones follow, and where there are fewer crops they come again.

    Args:
        assigned: int64 [K, T], the domain of each tile, see `assign_domains`.
        balanced: choose in each domain for itself, as many as `assigned` says; else whatever the domain.
        factor: a crop becomes a tile of 1 / factor of each side.
    """
    height, width = (side // factor for side in sources.resolution)
    parts = []
    for label, cells in enumerate(counted("scoring crops", sources.cells())):
        for domain, cell in enumerate(cells) if balanced else [(-1, torch.cat(cells))]:
            count = int((assigned[label] == domain).sum()) if balanced else assigned.shape[1]
            if count == 0:
                continue
            random = generator(seed, "crops", label, domain)
            boxes = draw_boxes(len(cell), crops, sources.resolution, random)
            losses = _losses(sources, cell, boxes, (height, width), label, observer, factor)
            order = surest_first(losses, count)
            image, crop = order // crops, order % crops
            tiles = cut(sources.images[cell[image]], boxes[image, crop], (height, width))
            parts.append(Crops(_normalised(tiles, observer), cell[image]))
    return Crops(torch.cat([part.tiles for part in parts]), torch.cat([part.rows for part in parts]))


def surest_first(losses: Tensor, count: int) -> Tensor:
    """The first `count` of the crops with these `losses` [images, crops], as image * crops + crop: every
    image's best by its loss, then every image's second best, and so on; then all again."""
    images, crops = losses.shape
    within = losses.argsort(dim=1, stable=True)
    order = []
    for rank in range(min(crops, -(-count // images))):
        crop = within[:, rank]
        image = losses.gather(1, crop[:, None])[:, 0].argsort(stable=True)
        order.append(image * crops + crop[image])
    every = torch.cat(order)
    return every.repeat(-(-count // len(every)))[:count]


def draw_boxes(images: int, crops: int, resolution: tuple[int, int], random: torch.Generator) -> Tensor:
    """int64 [images, crops, 4]: top, left, height and width of crops with the sides' ratio of the images and
    an area drawn evenly from `LEAST_SHARE` to all of it."""
    shares, down, right = torch.rand(3, images, crops, generator=random, dtype=torch.float64)
    scale = (LEAST_SHARE + (1 - LEAST_SHARE) * shares).sqrt()
    sides = [(scale * side).round().clamp(1, side) for side in resolution]
    places = [
        ((side - own + 1) * place).floor()
        for side, own, place in zip(resolution, sides, (down, right), strict=True)
    ]
    return torch.stack([*places, *sides], -1).long()


def cut(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Those `boxes` [n, 4] of uint8 `images` [n, 3, H, W], resized to `size`, bilinearly with antialiasing:
    float32 [n, 3, *size] in 0 to 255."""
    tiles = torch.empty(len(images), 3, *size)
    for sides in torch.unique(boxes[:, 2:], dim=0):  # crops of a size are resized at once
        rows = (boxes[:, 2:] == sides).all(1).nonzero()[:, 0]
        down, right = (torch.arange(int(side)) for side in sides)
        top, left = boxes[rows, 0, None, None], boxes[rows, 1, None, None]
        found = images[rows[:, None, None], :, top + down[:, None], left + right].permute(0, 3, 1, 2)
        tiles[rows] = F.interpolate(found.float(), size, mode="bilinear", antialias=True)
    return tiles


def _normalised(tiles: Tensor, observer: Observer) -> Tensor:
    """As all images are: rounded to the 8 bits that a file of them would have."""
    return normalise(tiles.round().clamp(0, 255).byte(), observer.mean, observer.std)


@torch.inference_mode()
def _losses(
    sources: DomainDataset,
    cell: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    label: int,
    observer: Observer,
    factor: int,
) -> Tensor:
    """The cross entropy [images, crops] of each crop, seen as networks are trained on it: enlarged."""
    device = observer.network.classifier.weight.device
    losses = torch.empty(boxes.shape[:2])
    for part in torch.split(torch.arange(len(cell)), _CUT_AT_ONCE):
        images = sources.images[cell[part]]
        for crop in range(boxes.shape[1]):
            tiles = _normalised(cut(images, boxes[part, crop], size), observer)
            passes = torch.split(tiles, rows_per_chunk(observer.network, device))
            logits = torch.cat([observer.network(decode(some.to(device), factor)).cpu() for some in passes])
            wanted = torch.full((len(part),), label)
            losses[part, crop] = F.cross_entropy(logits.float(), wanted, reduction="none")
    return losses
