"""Draw how fast the operators get through their necessary bytes, against the operations each byte takes.

    python bench/roofline.py bench/results/spectral_cpu.json bench/results/roofline_cpu.png
    python bench/roofline.py OUT/spectral_cuda.json bench/results/roofline_cuda.png

One panel for each number of threads (CPU) or regime (CUDA), `spectral_surgery` in float32, caches warm. The
flat roof is the bandwidth of a large copy; the falling one, where the file has it, the rate of a large matrix
product in float32. Both were measured in the run that is drawn.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

CHANNELS = 3
# Provider: (name, marker, colour). The same provider looks the same in every picture.
LOOKS = {
    "dgdd_fast": ("dgdd-fast", "o", "#1f5fa8"),
    "dgdd_fast_graph": ("dgdd-fast, CUDA graph", "D", "#6aa2dd"),
    "eager_graph": ("PyTorch, CUDA graph", "^", "#b5651d"),
    "compiled": ("torch.compile", "s", "#8a8a8a"),
    "eager": ("PyTorch eager", "v", "#3d3d3d"),
    "cupy": ("CuPy", "P", "#4c9a5b"),
}


def operations(size: int, domains: int) -> float:
    """Floating-point operations of `spectral_surgery` for one plane of size x size.

    By the convention 5 n log2(n) for a complex transform of n numbers, two planes in one: a transform of each
    domain and one back, 50 + 22 D for each of the n / 2 bins, 2 (2 D + 1) for each pixel of the output.
    """
    pixels = size * size
    transforms = (domains + 1) * 5 * pixels * math.log2(pixels)
    return (transforms + (50 + 22 * domains) * pixels / 2 + 2 * (2 * domains + 1) * pixels) / 2


def necessary_bytes(case: dict[str, Any]) -> int:
    """Float32 gradients of every domain in, the update out."""
    return (domains_of(case) + 1) * case["images"] * CHANNELS * case["size"] ** 2 * 4


def domains_of(case: dict[str, Any]) -> int:
    return case.get("domains", 3)  # older tables have three everywhere


def intensity(case: dict[str, Any]) -> float:
    """Operations for each necessary byte."""
    planes = case["images"] * CHANNELS
    return operations(case["size"], domains_of(case)) * planes / necessary_bytes(case)


def panels(table: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows to draw, by the title of their panel."""
    chosen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table["rows"]:
        case = row["case"]
        wanted = case["operator"] == "spectral_surgery" and case["dtype"] == "float32"
        if wanted and row.get("cache", "warm") == "warm":
            threads = row["threads"]
            count = f"{threads} thread{'s' if threads != 1 else ''}"
            chosen[case["regime"] if threads is None else count].append(row)
    return chosen


def draw_panel(axes: Axes, rows: list[dict[str, Any]], table: dict[str, Any]) -> None:
    threads = rows[0]["threads"]
    key = "cuda" if threads is None else str(threads)
    copy = table["copy_gigabytes_per_second"][key]
    matmul = table.get("matmul_gigaflops_per_second", {}).get(key)
    by_size: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for name, (_, marker, colour) in LOOKS.items():
        points = [
            (intensity(row["case"]), necessary_bytes(row["case"]) / row["times"][name]["median"] / 1e6)
            for row in rows
            if name in row["times"]
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, color=colour, s=26, alpha=0.85, zorder=3)
        if name == "dgdd_fast":
            for row, point in zip(rows, points, strict=True):
                by_size[row["case"]["size"]].append(point)
    for size, points in by_size.items():
        x, y = max(points, key=lambda point: point[1])
        axes.annotate(f"{size} px", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    span = [intensity(row["case"]) for row in rows]
    left, right = min(span) - 1, max(span) + 1
    small = {"textcoords": "offset points", "fontsize": 8}
    axes.plot([left, right], [copy, copy], color="#c0392b", linewidth=1.2)
    axes.annotate(f"copy, {copy:.0f} GB/s", (left, copy), (2, 3), color="#c0392b", **small)
    if matmul:
        axes.plot([left, right], [matmul / left, matmul / right], color="#7d3c98", linewidth=1.2)
        end = (right, matmul / right)
        name = f"matrix product, {matmul:.0f} GFLOP/s"
        axes.annotate(name, end, (-2, 5), ha="right", color="#7d3c98", **small)
    axes.set(yscale="log", xlim=(left, right), xlabel="operations for each necessary byte")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(which="both", linewidth=0.3, alpha=0.5)


def draw(table: dict[str, Any]) -> Figure:
    """The figure of one table; raises ValueError where it has nothing to draw."""
    chosen = panels(table)
    if not chosen:
        raise ValueError("no rows of spectral_surgery in float32")
    figure = Figure(figsize=(1 + 3.6 * len(chosen), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for axes, (title, rows) in zip(grid, chosen.items(), strict=True):
        draw_panel(axes, rows, table)
        axes.set_title(title, fontsize=10)
    grid[0].set_ylabel("necessary GB/s")
    shown = {name for rows in chosen.values() for row in rows for name in row["times"]}
    for name, (label, marker, colour) in LOOKS.items():
        if name in shown:
            grid[0].scatter([], [], marker=marker, color=colour, s=26, label=label)
    figure.legend(loc="outside lower center", ncols=3 * len(chosen) // 2, frameon=False, fontsize=9)
    figure.suptitle(f"spectral_surgery, {table['device']}, torch {table['torch']}", fontsize=10)
    return figure


def merged(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """Parts of one benchmark as one table, with the ceilings of the first; raises ValueError where they are
    of different devices or commits."""
    for name in ("device", "commit", "torch"):
        values = sorted({str(table[name]) for table in tables})
        if len(values) > 1:
            raise ValueError(f"the files are of different runs: {name} is {' and '.join(values)}")
    return {**tables[0], "rows": [row for table in tables for row in table["rows"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description="draw a table of bench_spectral.py as a roofline")
    parser.add_argument("tables", type=Path, nargs="+", help="JSON files of one run")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    options = parser.parse_args()
    try:
        figure = draw(merged([json.loads(path.read_text()) for path in options.tables]))
    except ValueError as error:
        raise SystemExit(f"roofline.py: {error}") from error
    figure.savefig(options.picture, dpi=110)


if __name__ == "__main__":
    main()
