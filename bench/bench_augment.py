"""Time the augmentation of a batch (sample_augment) against what one would write in PyTorch: eager, each
operation on the images that have it; and compiled, all operations on all images, as shapes that follow from a
draw cannot be compiled. On CUDA that is also eager (`whole`), and replayed as a CUDA graph.

    python bench/bench_augment.py                 # the CPU (about 10 minutes)
    python bench/bench_augment.py --device cuda   # the GPU (about 2 minutes)
    python bench/bench_augment.py --quick         # two batches, few turns, no torch.compile (a minute)
    python bench/bench_augment.py --json FILE     # the same table as data
    python bench/bench_augment.py --json FILE --resume   # measure only what FILE does not have yet
    python bench/bench_augment.py --no-compile --first 6   # what tells most, without torch.compile

Rows are those of the loop: "real", uint8 images gathered from a pool of 10,000, normalised and augmented; and
"synthetic", floating images augmented, with the gradient of the images. `operation` is that of the whole
batch, as in a training, or "siamese": one for each of 10 classes. The providers of one row take turns; times
are medians, with the 20th and 80th percentile. Results are fresh memory each time. GB/s counts the bytes that
cannot be avoided: images read and the batch written once, their gradients likewise; its share is of the
bandwidth of a large copy into memory that is there already.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from table import Table
from timing import (
    Call,
    Effort,
    FlushedClock,
    Graphed,
    Time,
    clock_of,
    copy_bandwidth,
    environment,
    interleaved,
    relative_error,
    require_device,
)
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.config import DSA_STRATEGY, AugmentConfig
from dgdd_fast.data.augment import draw_siamese
from dgdd_fast.ops import AUGMENTATIONS, reference

POOL = 10_000
CLASSES = 10
CEILING = "copy_gigabytes_per_second"
COLUMNS = ("eager", "compiled", "whole", "whole_graph", "dgdd_fast_graph")
MOST_ERROR = 1e-4  # of the result's L2 norm; grid_sample's own is 1e-6


@dataclass(frozen=True)
class Case:
    images: str  # "real" or "synthetic"
    batch: int
    image_size: int
    operation: str = "siamese"

    @property
    def essential_bytes(self) -> int:
        numbers = self.batch * 3 * self.image_size**2
        return numbers * (1 + 4 if self.images == "real" else 4 * 4)

    def arguments(self, device: torch.device) -> tuple[Any, ...]:
        """Those of sample_augment, drawn as in a distillation."""
        generator = torch.Generator().manual_seed(0)
        size = (self.image_size, self.image_size)
        strategy = DSA_STRATEGY if self.operation == "siamese" else self.operation
        draw = draw_siamese(AugmentConfig(strategy=strategy), size, CLASSES, generator)
        group = torch.arange(self.batch) * CLASSES // self.batch
        operation = draw.numbers[group]
        if self.operation == "siamese":  # each of the operations alike
            operation = 1 + group % len(draw.operations)
            draws = [
                draw_siamese(AugmentConfig(strategy=name), size, CLASSES, generator).values
                for name in AUGMENTATIONS[1:]
            ]
            parameters = torch.stack(draws)[operation - 1, group]
        else:
            parameters = draw.values[group]
        if self.images == "real":
            images = torch.randint(256, (POOL, 3, *size), dtype=torch.uint8, generator=generator)
            rows = torch.randint(POOL, (self.batch,), generator=generator).to(device)
            mean, std = torch.full((3,), 0.5, device=device), torch.full((3,), 0.25, device=device)
        else:
            images = torch.randn(self.batch, 3, *size, generator=generator)
            rows = mean = std = None
        tensors = (images.to(device), rows, operation.to(device), parameters.to(device), mean, std)
        return (*tensors, draw.crop_reach, draw.cutout_sides)


def whole(
    images: Tensor,
    rows: Tensor | None,
    operation: Tensor,
    parameters: Tensor,
    mean: Tensor | None,
    std: Tensor | None,
    crop: tuple[int, int],
    cutout: tuple[int, int],
) -> Tensor:
    """All operations on all square images, with parameters that do nothing where another was drawn: one
    affine sampling, one change of colours, one box."""
    batch = images if rows is None else images[rows]
    if mean is not None and std is not None:
        batch = (batch.float() / 255 - mean[:, None, None]) / std[:, None, None]
    values = parameters.to(batch.dtype)
    names = {name: operation == number for number, name in enumerate(AUGMENTATIONS)}
    a, b, c = values.unbind(1)
    side = batch.shape[3]
    angle = torch.where(names["rotate"], a, 0.0)
    mirrored = torch.where(names["flip"] & (a > 0), -1.0, 1.0)
    wide, high = (torch.where(names["scale"], share, 1.0) for share in (a, b))
    down, right = (torch.where(names["crop"], moved * 2 / side, 0.0) for moved in (a, b))
    turn = torch.stack(
        [mirrored * wide * angle.cos(), -angle.sin(), right, angle.sin(), high * angle.cos(), down], 1
    )
    grid = F.affine_grid(turn.view(-1, 2, 3), list(batch.shape), align_corners=False)
    batch = F.grid_sample(batch, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    brightness = torch.where(names["color"], a, 0.0)[:, None, None, None]
    saturation, contrast = (
        torch.where(names["color"], factor, 1.0)[:, None, None, None] for factor in (b, c)
    )
    batch = batch + brightness
    batch = torch.lerp(batch.mean(1, keepdim=True), batch, saturation)
    batch = torch.lerp(batch.mean((1, 2, 3), keepdim=True), batch, contrast)
    position = torch.arange(side, device=batch.device)
    inside = [
        (position >= first[:, None]) & (position < first[:, None] + length)
        for first, length in zip((a, b), cutout, strict=True)
    ]
    box = inside[0][:, None, :, None] & inside[1][:, None, None, :] & names["cutout"][:, None, None, None]
    return batch.masked_fill(box, 0)


def run(function: Callable[..., Tensor], arguments: tuple[Any, ...], upstream: Tensor | None) -> Tensor:
    """The batch, or with an upstream gradient that of the images."""
    if upstream is None:
        with torch.no_grad():
            return function(*arguments)
    return torch.autograd.grad(function(*arguments), arguments[0], upstream)[0]


@dataclass(frozen=True)
class Row:
    case: Case
    threads: int | None  # on the CPU
    cache: str  # "warm" or "flushed"
    times: dict[str, Time]  # provider -> time
    gigabytes_per_second: float
    share_of_copy: float
    speedup: dict[str, float]  # provider -> its median over dgdd_fast's
    error: dict[str, float]  # provider -> relative to the specification in float64
    missing: dict[str, str] = field(default_factory=dict)  # provider -> why it was not measured


def measure(
    case: Case, device: torch.device, copy_gbs: float, compiled: bool, effort: Effort
) -> Iterator[Row]:
    """One row, and on CUDA another one with the cache flushed."""
    images, rows, *others = case.arguments(device)
    upstream = None
    if case.images == "synthetic":
        images.requires_grad_()
        shape = (case.batch, *images.shape[1:])
        upstream = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    arguments = (images, rows, *others)
    wide = images.detach() if rows is not None else images.detach().double().requires_grad_()
    others[2:4] = [None if part is None else part.double() for part in others[2:4]]
    truth = run(
        reference.sample_augment, (wide, rows, *others), None if upstream is None else upstream.double()
    )

    calls: dict[str, Call] = {}
    error: dict[str, float] = {}
    missing: dict[str, str] = {}

    def add(name: str, make: Callable[[], Callable[[], Tensor]]) -> None:
        try:
            call = make()
            error[name] = relative_error(call(), truth)
            if not error[name] <= MOST_ERROR:
                raise ArithmeticError(f"its relative error is {error[name]:.1e}")
            calls[name] = call
        except Exception as reason:  # whatever it is, the rest of the row is worth measuring
            missing[name] = f"{type(reason).__name__}: {reason}".split("\n", 1)[0]
            if name == "dgdd_fast":
                raise

    def graphed(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = Graphed(call)

        def replay() -> Tensor:
            graph()
            result: Tensor = graph.result
            return result

        return replay

    ours = partial(run, ops.sample_augment, arguments, upstream)
    add("dgdd_fast", lambda: ours)
    add("eager", lambda: partial(run, reference.sample_augment, arguments, upstream))
    if compiled:
        torch.compiler.reset()  # generated code is for one shape and one number of threads
        compiled_whole = torch.compile(whole, fullgraph=True, dynamic=False)
        add("compiled", lambda: partial(run, compiled_whole, arguments, upstream))
    if device.type == "cuda":
        all_at_once = partial(run, whole, arguments, upstream)
        add("whole", lambda: all_at_once)
        add("whole_graph", lambda: graphed(all_at_once))
        add("dgdd_fast_graph", lambda: graphed(ours))

    def row(cache: str, times: dict[str, Time]) -> Row:
        median = times["dgdd_fast"].median
        gigabytes_per_second = case.essential_bytes / median / 1e6
        return Row(
            case,
            None if device.type == "cuda" else torch.get_num_threads(),
            cache,
            times,
            gigabytes_per_second,
            gigabytes_per_second / copy_gbs,
            {name: each.median / median for name, each in times.items() if name != "dgdd_fast"},
            error,
            missing,
        )

    yield row("warm", interleaved(calls, effort, clock_of(device)))
    if device.type == "cuda":
        one_call_a_turn = Effort(2 * effort.turns, 0, effort.row_ms)
        yield row("flushed", interleaved(calls, one_call_a_turn, FlushedClock(device)))


def cases(quick: bool) -> Iterator[Case]:
    """What tells most comes first: the batches of the loop, then a training's, one operation at a time."""
    yield Case("real", 640, 32)
    yield Case("synthetic", 100, 32)
    if quick:
        return
    for image_size, batch in ((32, 100), (32, 2560), (64, 100), (64, 640)):
        yield Case("real", batch, image_size)
    for image_size, batch in ((32, 500), (64, 140)):
        yield Case("synthetic", batch, image_size)
    for name in AUGMENTATIONS[1:]:
        yield Case("real", 256, 32, name)
        yield Case("synthetic", 256, 32, name)


HEADING = (
    f"{'images':9} {'shape':>14} {'operation':9} {'thr':>3} {'cache':7} {'dgdd_fast':>9} "
    f"[{'p20':>8} {'p80':>8}] {'GB/s':>7} {'copy':>5} " + " ".join(f"{name:>15}" for name in COLUMNS)
)


def line(row: Row) -> str:
    case, ours = row.case, row.times["dgdd_fast"]
    ratios = " ".join(
        f"{row.speedup[name]:14.1f}x" if name in row.speedup else f"{'-':>15}" for name in COLUMNS
    )
    threads = "" if row.threads is None else row.threads
    shape = f"{case.batch}x3x{case.image_size}x{case.image_size}"
    return (
        f"{case.images:9} {shape:>14} {case.operation:9} {threads:>3} {row.cache:7} "
        f"{ours.median:9.4f} [{ours.p20:8.4f} {ours.p80:8.4f}] {row.gigabytes_per_second:7.1f} "
        f"{100 * row.share_of_copy:4.0f}% {ratios}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n", 1)[0],
        epilog="Close other programs first: two of them on two cores spoil the table.",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer batches and turns, without torch.compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too, row by row")
    parser.add_argument("--resume", action="store_true", help="keep the rows that FILE has")
    parser.add_argument(
        "--no-compile",
        dest="compile",
        action="store_false",
        help="without torch.compile; --resume adds it later, by measuring such rows again",
    )
    parser.add_argument("--first", type=int, metavar="ROWS", help="so many only, the most telling ones")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="thread counts of the CPU (default: 1 2)"
    )
    options = parser.parse_args()
    device = require_device(options.device)
    compiled = options.compile and not options.quick
    facts = environment(device)
    table = Table(options.json, facts, options.resume, [CEILING])
    print(*(f"{name}: {value}" for name, value in facts.items() if value), sep="\n")
    for threads in [None] if device.type == "cuda" else options.threads:
        if threads is not None:
            torch.set_num_threads(threads)
        copy_gbs = copy_bandwidth(device)
        where = "cuda" if threads is None else str(threads)
        table.content[CEILING][where] = copy_gbs
        print(
            f"\n{where}: a copy moves {copy_gbs:.1f} GB/s; times in ms, ratios against dgdd_fast\n{HEADING}"
        )
        for case in islice(cases(options.quick), options.first):
            if table.has(case, threads, "compiled" if compiled else None):
                continue
            effort = Effort(5, 2, 100) if options.quick else Effort(25, 5, 1500)
            rows = list(measure(case, device, copy_gbs, compiled, effort))
            table.add(rows)
            for row in rows:
                print(line(row), flush=True)
            for name, reason in rows[0].missing.items():
                print(f"  without {name}: {reason}")


if __name__ == "__main__":
    main()
