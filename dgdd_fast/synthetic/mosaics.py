"""Multi-formation: a stored image is a mosaic of factor x factor tiles, and each tile, enlarged to the full
size, is a training image.

Kim et al., *Dataset Condensation via Efficient Synthetic-Data Parameterization* (ICML 2022); CADM's factor
rho. Tiles are in image-major order: tile ``(i * factor + row) * factor + column`` is that of image i at (row,
column).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def check_factor(factor: int, resolution: tuple[int, int]) -> None:
    """Raises ValueError unless images of `resolution` (height, width) can be cut into factor x factor equal
    tiles."""
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor}")
    height, width = resolution
    if height % factor or width % factor:
        raise ValueError(
            f"an image of {height} x {width} px cannot be cut into {factor} x {factor} equal tiles; choose a "
            "factor that divides both sides, or another resolution"
        )


def tiles(images: Tensor, factor: int) -> Tensor:
    """Cut images [N, C, H, W] into tiles [N * factor**2, C, H / factor, W / factor].

    Raises ValueError where a side is not divisible by `factor`.
    """
    count, channels, height, width = images.shape
    check_factor(factor, (height, width))
    cut = images.reshape(count, channels, factor, height // factor, factor, width // factor)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, height // factor, width // factor)


def mosaic(tiles: Tensor, factor: int) -> Tensor:
    """Put tiles [N * factor**2, C, h, w] together to images [N, C, h * factor, w * factor]; undoes `tiles`.

    Raises ValueError where their number is not a multiple of factor**2.
    """
    count, channels, height, width = tiles.shape
    if factor < 1 or count % factor**2:
        raise ValueError(f"{count} tiles do not make whole mosaics of {factor} x {factor}")
    grid = tiles.reshape(-1, factor, factor, channels, height, width)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height * factor, width * factor)


def decode(tiles: Tensor, factor: int) -> Tensor:
    """Enlarge tiles [N, C, h, w] bilinearly to training images [N, C, h * factor, w * factor];
    differentiable.

    ``F.interpolate(tiles, scale_factor=factor, mode="bilinear", align_corners=False)`` as two products with
    constant matrices, since its own backward adds in another order every time on CUDA.
    """
    if factor == 1:
        return tiles
    rows, columns = (_enlargement(_unit_vectors(side, tiles), factor) for side in tiles.shape[2:])
    return rows @ tiles @ columns.T


def _unit_vectors(count: int, like: Tensor) -> Tensor:
    return torch.eye(count, dtype=like.dtype, device=like.device)


def _enlargement(unit_vectors: Tensor, factor: int) -> Tensor:
    """The matrix [side * factor, side] of linear interpolation along one axis, from the side's unit
    vectors."""
    matrix = F.interpolate(unit_vectors[None], scale_factor=float(factor), mode="linear", align_corners=False)
    return matrix[0].T


def reduce(images: Tensor, factor: int) -> Tensor:
    """Shrink images [N, C, H, W] to tiles [N, C, H / factor, W / factor] of every factor-th pixel, as IDC and
    NCFM do (nearest neighbour)."""
    check_factor(factor, (images.shape[2], images.shape[3]))
    return images[:, :, ::factor, ::factor].contiguous()
