"""Time the masking of channels (mask_channels) against what one would write in PyTorch, eager, compiled, and
on CUDA also replayed as a CUDA graph.

    python bench/bench_masking.py                 # the CPU (about 10 minutes)
    python bench/bench_masking.py --device cuda   # the GPU (about 3 minutes)
    python bench/bench_masking.py --quick         # two stages, few turns, no torch.compile (a minute)
    python bench/bench_masking.py --json FILE     # the same table as data
    python bench/bench_masking.py --json FILE --resume   # measure only what FILE does not have yet
    python bench/bench_masking.py --no-compile --first 24   # what tells most, without torch.compile

Features are those after the four stages of a ResNet-18 for images of 32 and 64 pixels; a third of the
channels is masked, as in CADM. The direction "both" adds the gradient with respect to the features. The
providers of one row take turns; times are medians, with the 20th and 80th percentile. Results are fresh
memory each time, as they are in training. GB/s counts the bytes that cannot be avoided: features read and
masked features written once, their gradients likewise; its share is of the bandwidth of a large copy into
memory that is there already.
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
    require_device,
)
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference

BATCH = 256
DOMAINS = 3
SHARE = 0.33  # of the channels, CADM's
STAGES = {1: (64, 1), 2: (128, 2), 3: (256, 4), 4: (512, 8)}  # channels, and the images' side over the maps'
CEILING = "copy_gigabytes_per_second"
COLUMNS = ("eager", "compiled", "eager_graph", "dgdd_fast_graph")
# Of all channels. In float32 two keys in some millions change places by rounding; more is another function.
MOST_OTHERS = {"float32": 1e-4, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Case:
    stage: int
    image_size: int
    direction: str  # "forward" or "both"
    layout: str  # "planes" or "channels_last"
    dtype: str = "float32"
    batch: int = BATCH

    @property
    def shape(self) -> tuple[int, int, int, int]:
        channels, reduction = STAGES[self.stage]
        side = self.image_size // reduction
        return self.batch, channels, side, side

    @property
    def num_masked(self) -> int:
        return int(SHARE * self.shape[1])

    @property
    def essential_bytes(self) -> int:
        times = 2 if self.direction == "forward" else 4
        return times * math.prod(self.shape) * getattr(torch, self.dtype).itemsize

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features as after a ReLU, the discriminator's weight, the domains and the random numbers."""
        generator = torch.Generator(device).manual_seed(0)
        dtype = getattr(torch, self.dtype)
        memory_format = torch.channels_last if self.layout == "channels_last" else torch.contiguous_format
        features = torch.empty(self.shape, dtype=dtype, device=device, memory_format=memory_format)
        features.normal_(generator=generator).relu_()
        channels = self.shape[1]
        weight = torch.empty(DOMAINS, channels, device=device).normal_(generator=generator)
        uniforms = torch.rand(self.batch, channels, device=device, generator=generator)
        return features, weight, torch.arange(self.batch, device=device) % DOMAINS, uniforms


def plain(
    features: Tensor, weight: Tensor, domain_index: Tensor, uniforms: Tensor, num_masked: int
) -> tuple[Tensor, Tensor]:
    """The formulation that one would write: keys in float32, the smallest of them by topk."""
    with torch.no_grad():
        scores = weight[domain_index] * features.float().mean((2, 3))
        lowest, highest = scores.aminmax(dim=1, keepdim=True)
        keys = -uniforms.log() / ((scores - lowest) / (highest - lowest))
        chosen = keys.topk(num_masked, dim=1, largest=False).indices
        mask = torch.ones_like(scores).scatter_(1, chosen, 0.0).to(features.dtype)
        channels = features.shape[1]
        factors = mask * (channels / (channels - num_masked))
    return features * factors[:, :, None, None], mask


Masking = Callable[[], tuple[Tensor, Tensor]]  # (masked features or their gradient, mask)


def run(
    function: Callable[..., tuple[Tensor, Tensor]], arguments: tuple[Any, ...], upstream: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(masked features, or with an upstream gradient that of the features; mask)."""
    if upstream is None:
        with torch.no_grad():
            return function(*arguments)
    masked, mask = function(*arguments)
    (gradient,) = torch.autograd.grad(masked, arguments[0], upstream)
    return gradient, mask


@dataclass(frozen=True)
class Row:
    case: Case
    threads: int | None  # on the CPU
    cache: str  # "warm" or "flushed"
    times: dict[str, Time]  # provider -> time
    gigabytes_per_second: float
    share_of_copy: float
    speedup: dict[str, float]  # provider -> its median over dgdd_fast's
    other_channels: dict[str, float]  # provider -> share masked unlike the specification
    missing: dict[str, str] = field(default_factory=dict)  # provider -> why it was not measured


def measure(
    case: Case, device: torch.device, copy_gbs: float, compiled: bool, effort: Effort
) -> Iterator[Row]:
    """One row, and on CUDA another one with the cache flushed."""
    features, *others = case.tensors(device)
    upstream = None
    if case.direction == "both":
        upstream = torch.ones_like(features)
        features.requires_grad_()
    arguments = (features, *others, case.num_masked)
    with torch.no_grad():
        scores = reference.channel_scores(features, *others[:2])
        truth = reference.weighted_channel_mask(scores, others[2], case.num_masked)

    calls: dict[str, Call] = {}
    other_channels: dict[str, float] = {}
    missing: dict[str, str] = {}

    def add(name: str, make: Callable[[], Masking]) -> None:
        try:
            call = make()
            other_channels[name] = (call()[1] != truth).double().mean().item()
            if not other_channels[name] <= MOST_OTHERS[case.dtype]:
                raise ArithmeticError(f"it masks {other_channels[name]:.1%} of the channels otherwise")
            calls[name] = call
        except Exception as error:  # whatever it is, the rest of the row is worth measuring
            missing[name] = f"{type(error).__name__}: {error}".split("\n", 1)[0]
            if name == "dgdd_fast":
                raise

    def graphed(call: Masking) -> Masking:
        graph = Graphed(call)

        def replay() -> tuple[Tensor, Tensor]:
            graph()
            result: tuple[Tensor, Tensor] = graph.result
            return result

        return replay

    ours = partial(run, ops.mask_channels, arguments, upstream)
    eager = partial(run, plain, arguments, upstream)
    add("dgdd_fast", lambda: ours)
    add("eager", lambda: eager)
    if compiled:
        torch.compiler.reset()  # generated code is for one shape and one number of threads
        compiled_plain = torch.compile(plain, fullgraph=True, dynamic=False)
        add("compiled", lambda: partial(run, compiled_plain, arguments, upstream))
    if device.type == "cuda":
        add("dgdd_fast_graph", lambda: graphed(ours))
        add("eager_graph", lambda: graphed(eager))

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
            other_channels,
            missing,
        )

    yield row("warm", interleaved(calls, effort, clock_of(device)))
    if device.type == "cuda":
        one_call_a_turn = Effort(2 * effort.turns, 0, effort.row_ms)
        yield row("flushed", interleaved(calls, one_call_a_turn, FlushedClock(device)))


def cases(quick: bool, on_cuda: bool) -> Iterator[Case]:
    """Every shape in every layout, dtype and direction; what tells most comes first, 8 shapes each."""
    kinds = [
        ("planes", "float32", "forward"),
        ("planes", "float32", "both"),
        ("channels_last", "bfloat16", "forward"),
        ("channels_last", "float32", "forward"),
        ("channels_last", "float32", "both"),
        ("channels_last", "bfloat16", "both"),
        ("planes", "bfloat16", "forward"),
        ("planes", "bfloat16", "both"),
    ]
    for layout, dtype, direction in kinds:
        if dtype == "bfloat16" and (quick or not on_cuda):
            continue
        for image_size in (32, 64):
            for stage in (1, 4) if quick else STAGES:
                yield Case(stage, image_size, direction, layout, dtype)


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
    facts = environment(device)
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
