"""Time what follows a convolution in the ConvNet (norm_relu_pool: instance normalisation, ReLU, 2 x 2 average
pooling) against PyTorch's own three, eager, compiled, and on CUDA also replayed as a CUDA graph.

    python bench/bench_norm_relu_pool.py                 # the CPU (about 15 minutes)
    python bench/bench_norm_relu_pool.py --device cuda   # the GPU (about 5 minutes)
    python bench/bench_norm_relu_pool.py --quick         # few shapes and turns, no torch.compile (a minute)
    python bench/bench_norm_relu_pool.py --json FILE     # the same table as data
    python bench/bench_norm_relu_pool.py --json FILE --resume    # measure only what FILE does not have yet
    python bench/bench_norm_relu_pool.py --no-compile --first 8  # what tells most, without torch.compile

The maps are those of a ConvNet for images of 32 and 64 pixels. PyTorch has two ways to normalise an instance,
F.instance_norm and F.group_norm with a group for each channel: `eager` is the faster of them. The direction
"both" adds the gradients with respect to the maps, the weight and the bias. The providers of one row take
turns; times are medians, with the 20th and 80th percentile. Results are fresh memory each time, as they are
in training. GB/s counts the bytes that cannot be avoided: the maps read once and the pooled ones
written, and backwards the maps and the pooled gradients read and the maps' gradient written; its share is of
the bandwidth of a large copy into memory that is there already.
"""

from __future__ import annotations

import argparse
import math
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
from dgdd_fast.ops import reference

CEILING = "copy_gigabytes_per_second"
EAGER = ("instance_norm", "group_norm")
COLUMNS = ("eager", "compiled", "eager_graph", "dgdd_fast_graph")
# Relative L2 errors of the first result; more is another function. Eager bfloat16 rounds after every step. A
# number within rounding of zero passes the ReLU or not: of millions some dozens, with all or no gradient.
LARGEST_ERROR = {"forward": {"float32": 1e-5, "bfloat16": 0.1}, "both": {"float32": 2e-3, "bfloat16": 0.1}}


@dataclass(frozen=True)
class Case:
    batch: int
    channels: int
    side: int
    direction: str  # "forward" or "both"
    layout: str  # "planes" or "channels_last"
    dtype: str = "float32"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, self.side, self.side

    @property
    def essential_bytes(self) -> float:
        times = 1.25 if self.direction == "forward" else 3.5
        return times * math.prod(self.shape) * getattr(torch, self.dtype).itemsize

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Maps, weight and bias; the latter two in float32, as a network under autocast has them."""
        generator = torch.Generator(device).manual_seed(0)
        memory_format = torch.channels_last if self.layout == "channels_last" else torch.contiguous_format
        maps = torch.empty(self.shape, device=device).normal_(generator=generator)
        maps = maps.to(getattr(torch, self.dtype)).contiguous(memory_format=memory_format)
        weight, bias = (torch.empty(self.channels, device=device) for _ in range(2))
        return maps, weight.uniform_(0.5, 1.5, generator=generator), bias.normal_(generator=generator)


def by_instance_norm(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    weight, bias = weight.to(maps.dtype), bias.to(maps.dtype)
    return F.avg_pool2d(F.relu(F.instance_norm(maps, weight=weight, bias=bias), inplace=True), 2)


def by_group_norm(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    weight, bias = weight.to(maps.dtype), bias.to(maps.dtype)
    return F.avg_pool2d(F.relu(F.group_norm(maps, maps.shape[1], weight, bias), inplace=True), 2)


def run(
    function: Callable[..., Tensor], tensors: tuple[Tensor, Tensor, Tensor], upstream: Tensor | None
) -> Tensor:
    """The pooled maps, or with an upstream gradient that of the maps, behind those of weight and bias."""
    if upstream is None:
        with torch.no_grad():
            return function(*tensors)
    return torch.autograd.grad(function(*tensors), tensors, upstream)[0]


@dataclass(frozen=True)
class Row:
    case: Case
    threads: int | None  # on the CPU
    cache: str  # "warm" or "flushed"
    times: dict[str, Time]  # provider -> time; "eager" is the faster of instance_norm and group_norm
    gigabytes_per_second: float
    share_of_copy: float
    speedup: dict[str, float]  # provider -> its median over dgdd_fast's
    errors: dict[str, float]  # provider -> relative L2 error against the specification in float64
    missing: dict[str, str] = field(default_factory=dict)  # provider -> why it was not measured


def measure(
    case: Case, device: torch.device, copy_gbs: float, compiled: bool, effort: Effort
) -> Iterator[Row]:
    """One row, and on CUDA another one with the cache flushed."""
    tensors = case.tensors(device)
    wide = (tensors[0].double(), tensors[1].double(), tensors[2].double())
    upstream = None
    if case.direction == "both":
        for tensor in (*tensors, *wide):
            tensor.requires_grad_()
        upstream = torch.empty_like(ops.norm_relu_pool(*(tensor.detach() for tensor in tensors)))
        upstream.normal_(generator=torch.Generator(device).manual_seed(1))
    truth = run(reference.norm_relu_pool, wide, None if upstream is None else upstream.double())

    calls: dict[str, Call] = {}
    errors: dict[str, float] = {}
    missing: dict[str, str] = {}

    def add(name: str, make: Callable[[], Callable[[], Tensor]]) -> None:
        try:
            call = make()
            errors[name] = relative_error(call(), truth)
            if not errors[name] <= LARGEST_ERROR[case.direction][case.dtype]:
                raise ArithmeticError(f"its relative error is {errors[name]:.1e}")
            calls[name] = call
        except Exception as error:  # whatever it is, the rest of the row is worth measuring
            missing[name] = f"{type(error).__name__}: {error}".split("\n", 1)[0]
            if name == "dgdd_fast":
                raise

    def graphed(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = Graphed(call)

        def replay() -> Tensor:
            graph()
            result: Tensor = graph.result
            return result

        return replay

    ours = partial(run, ops.norm_relu_pool, tensors, upstream)
    by_group = partial(run, by_group_norm, tensors, upstream)
    add("dgdd_fast", lambda: ours)
    add("instance_norm", lambda: partial(run, by_instance_norm, tensors, upstream))
    add("group_norm", lambda: by_group)
    if compiled:
        torch.compiler.reset()  # generated code is for one shape and one number of threads
        whole = torch.compile(by_group_norm, fullgraph=True, dynamic=False)
        add("compiled", lambda: partial(run, whole, tensors, upstream))
    if device.type == "cuda":
        add("dgdd_fast_graph", lambda: graphed(ours))
        add("eager_graph", lambda: graphed(by_group))

    def row(cache: str, times: dict[str, Time]) -> Row:
        eager = [times[name] for name in EAGER if name in times]
        if eager:
            times = {**times, "eager": min(eager, key=lambda time: time.median)}
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
            errors,
            missing,
        )

    yield row("warm", interleaved(calls, effort, clock_of(device)))
    if device.type == "cuda":
        one_call_a_turn = Effort(2 * effort.turns, 0, effort.row_ms)
        yield row("flushed", interleaved(calls, one_call_a_turn, FlushedClock(device)))


def cases(quick: bool, on_cuda: bool) -> Iterator[Case]:
    """The three blocks for images of 32 px, then the first for 64 px; what tells most comes first, 8 shapes
    each."""
    shapes = [(batch, 128, side) for side in (32, 16, 8) for batch in (30, 256)]
    shapes += [(64, 32, 32), (64, 128, 64)]
    kinds = [
        ("channels_last", "float32", "forward"),
        ("channels_last", "float32", "both"),
        ("channels_last", "bfloat16", "forward"),
        ("channels_last", "bfloat16", "both"),
        ("planes", "float32", "forward"),
        ("planes", "float32", "both"),
    ]
    for layout, dtype, direction in kinds:
        for batch, channels, side in shapes[:6:2] if quick else shapes:
            if not quick or dtype == "float32":
                yield Case(batch, channels, side, direction, layout, dtype)


HEADING = (
    f"{'direction':9} {'shape':>15} {'layout':13} {'dtype':8} {'thr':>3} {'cache':7} {'dgdd_fast':>9} "
    f"[{'p20':>8} {'p80':>8}] {'GB/s':>7} {'copy':>5} " + " ".join(f"{name:>15}" for name in COLUMNS)
)


def line(row: Row) -> str:
    case, ours = row.case, row.times["dgdd_fast"]
    ratios = " ".join(
        f"{row.speedup[name]:14.1f}x" if name in row.speedup else f"{'-':>15}" for name in COLUMNS
    )
    threads = "" if row.threads is None else row.threads
    shape = "x".join(map(str, case.shape))
    return (
        f"{case.direction:9} {shape:>15} {case.layout:13} {case.dtype:8} {threads:>3} {row.cache:7} "
        f"{ours.median:9.4f} [{ours.p20:8.4f} {ours.p80:8.4f}] {row.gigabytes_per_second:7.1f} "
        f"{100 * row.share_of_copy:4.0f}% {ratios}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n", 1)[0],
        epilog="Close other programs first: two of them on two cores spoil the table.",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and turns, without torch.compile")
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
    on_cuda = device.type == "cuda"
    compiled = options.compile and not options.quick
    facts: dict[str, Any] = environment(device)
    table = Table(options.json, facts, options.resume, [CEILING])
    print(*(f"{name}: {value}" for name, value in facts.items() if value), sep="\n")
    for threads in [None] if on_cuda else options.threads:
        if threads is not None:
            torch.set_num_threads(threads)
        copy_gbs = copy_bandwidth(device)
        where = "cuda" if threads is None else str(threads)
        table.content[CEILING][where] = copy_gbs
        print(
            f"\n{where}: a copy moves {copy_gbs:.1f} GB/s; times in ms, ratios against dgdd_fast\n{HEADING}"
        )
        for case in islice(cases(options.quick, on_cuda), options.first):
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
