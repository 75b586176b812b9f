"""Pictures of what Spectral Gradient Surgery does to the gradient of an image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..extras import extra
from ..files import write_atomically
from ..surgery import Decomposition

with extra("report", "drawing gradients"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

COLUMNS = (
    "image",
    "g\nagainst all domains",
    "$g_{cls}$\nwhat the domains share",
    "$g_{dom}$\nwhat its domain adds",
    "R\nagreement by frequency",
)
SCALE_QUANTILE = 0.995  # one bright pixel must not turn the rest of a gradient into white


def full_resultant_length(half: Tensor, width: int) -> Tensor:
    """R over all frequencies, zero in the middle: [*, H, width] from the half [*, H, width // 2 + 1].

    The gradients are real, so R is even: R(-u, -v) = R(u, v).
    """
    rows = -torch.arange(half.shape[-2]) % half.shape[-2]
    columns = width - torch.arange(half.shape[-1], width)
    mirrored = half[..., rows, :][..., columns]
    shifted: Tensor = torch.fft.fftshift(torch.cat([half, mirrored], -1), dim=(-2, -1))
    return shifted


def draw_decomposition(
    path: str | Path, pixels: Tensor, decomposition: Decomposition, row_names: Sequence[str]
) -> None:
    """Write a PNG with a row for each image: the image, g, g_cls, g_dom of its domain, R (SGS, Eq. 4, 9, 10).

    Gradients and R are shown as their mean over the colour channels. The three gradients of a row share one
    colour scale, symmetric about 0; its limit, the 99.5th percentile of all magnitudes, is beside the row.

    Args:
        path: the PNG to write.
        pixels: uint8 [n, 3, H, W].
        decomposition: of the same n images, on the CPU.
        row_names: n names.
    """
    count, _, _, width = pixels.shape
    gradients = [
        part.mean(1)
        for part in (decomposition.union, decomposition.class_signal, decomposition.domain_signal)
    ]
    lengths = full_resultant_length(decomposition.resultant_length, width).mean(1)

    figure = Figure(figsize=(2.1 * len(COLUMNS) + 0.4, 2.1 * count + 1.0), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(count + 1, len(COLUMNS), height_ratios=[1] * count + [0.06])
    for row in range(count):
        maps = torch.stack([gradient[row] for gradient in gradients])
        limit = float(torch.quantile(maps.abs().flatten(), SCALE_QUANTILE)) or 1.0
        axes = [figure.add_subplot(grid[row, column]) for column in range(len(COLUMNS))]
        axes[0].imshow(pixels[row].permute(1, 2, 0).numpy())
        axes[0].set_ylabel(f"{row_names[row]}\nlimit {limit:.1e}", fontsize=9, parse_math=False)
        for axis, gradient in zip(axes[1:4], maps, strict=True):
            signed = axis.imshow(gradient.numpy(), cmap="RdBu_r", norm=Normalize(-limit, limit))
        length = axes[4].imshow(lengths[row].numpy(), cmap="viridis", norm=Normalize(0, 1))
        for axis, name in zip(axes, COLUMNS, strict=True):
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(name, fontsize=10)
    ticks = [-limit, 0, limit]
    bar = figure.colorbar(signed, figure.add_subplot(grid[-1, 1:4]), orientation="horizontal", ticks=ticks)
    bar.ax.set_xticklabels(["- limit", "0", "+ limit"])
    figure.colorbar(length, figure.add_subplot(grid[-1, 4]), orientation="horizontal", ticks=[0, 0.5, 1])
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    write_atomically(Path(path), png.getvalue())
