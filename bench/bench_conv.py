"""Time the ConvNet's convolutions on the CPU (conv3x3, and with what follows conv3x3_norm_relu_pool) against
PyTorch's own: eager with the channels last and with planes, and compiled.

    python bench/bench_conv.py                 # one thread (about 5 minutes)
    python bench/bench_conv.py --quick         # few shapes and turns, no torch.compile (seconds)
    python bench/bench_conv.py --json FILE     # the same table as data
    python bench/bench_conv.py --json FILE --resume    # measure only what FILE does not have yet

The layers are those of ConvNets of width 32, 64 and 128 for images of 32 pixels, in batches as a pass takes
them. "convolution" is the forward alone; "gradients" adds those of the images, weights and bias; "block" is
the convolution with instance normalisation, ReLU and 2 x 2 average pooling, without gradients, as real images
pass. The providers of one row take turns; times are medians, with the 20th and 80th percentile. GFLOP/s
counts the products and sums of the plain convolution, forward once and with the gradients three times,
whatever is computed in their place; the share is of the rate of a large matrix product in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from table import Table
from timing import Call, Effort, Time, environment, interleaved, matmul_rate, relative_error, wall_clock
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference

CEILING = "matmul_gigaflops_per_second"
PEERS = ("channels_last", "planes", "compiled")
# Relative L2 error of the first result; more is another function. A number within rounding of zero passes the
# ReLU or not.
LARGEST_ERROR = {"convolution": 1e-5, "gradients": 1e-5, "block": 1e-4}


@dataclass(frozen=True)
class Case:
    batch: int
    channels: int
    width: int  # channels of the results
    side: int
    what: str  # "convolution", "gradients" or "block"

    @property
    def gigaflops(self) -> float:
        forward = 2e-9 * 9 * self.batch * self.channels * self.width * self.side**2
        return 3 * forward if self.what == "gradients" else forward

    def tensors(self) -> tuple[Tensor, ...]:
        """Images, channels last, weights and bias; for a block those of the normalisation too."""
        generator = torch.Generator().manual_seed(0)

        def normal(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=generator)

        images = normal(self.batch, self.channels, self.side, self.side).relu()
        weight = normal(self.width, self.channels, 3, 3) / (9 * self.channels) ** 0.5
        tensors = [images.contiguous(memory_format=torch.channels_last), weight, normal(self.width)]
        if self.what == "block":
            tensors += [1 + 0.3 * normal(self.width), 0.3 * normal(self.width)]
        return tuple(tensor.requires_grad_(self.what == "gradients") for tensor in tensors)


def plain(images: Tensor, weight: Tensor, bias: Tensor, *norm: Tensor) -> Tensor:
    maps = F.conv2d(images, weight, bias, padding=1)
    if not norm:
        return maps
    return F.avg_pool2d(F.relu(F.group_norm(maps, maps.shape[1], *norm), inplace=True), 2)


def specified(images: Tensor, weight: Tensor, bias: Tensor, *norm: Tensor) -> Tensor:
    maps = reference.conv3x3(images, weight, bias)
    return reference.norm_relu_pool(maps, *norm) if norm else maps


def ours(images: Tensor, weight: Tensor, bias: Tensor, *norm: Tensor) -> Tensor:
    if norm:
        return ops.conv3x3_norm_relu_pool(images, weight, bias, *norm)
    return ops.conv3x3(images, weight, bias)


def run(function: Callable[..., Tensor], tensors: tuple[Tensor, ...], upstream: Tensor | None) -> Tensor:
    """The result, or with an upstream gradient that of the images, behind those of weights and bias."""
    if upstream is None:
        with torch.no_grad():
            return function(*tensors)
    return torch.autograd.grad(function(*tensors), tensors, upstream)[0]


@dataclass(frozen=True)
class Row:
    case: Case
    threads: int
    times: dict[str, Time]  # provider -> time
    gigaflops_per_second: float
    share_of_matmul: float
    speedup: dict[str, float]  # provider -> its median over dgdd_fast's
    errors: dict[str, float]  # provider -> relative L2 error against the specification in float64
    missing: dict[str, str] = field(default_factory=dict)  # provider -> why it was not measured


def measure(case: Case, matmul: float, compiled: bool, effort: Effort) -> Row:
    last = case.tensors()
    contiguous = last[0].detach().contiguous().requires_grad_(last[0].requires_grad)
    planes = (contiguous, *last[1:])
    upstream = None
    if case.what == "gradients":
        upstream = torch.randn(ours(*last).shape, generator=torch.Generator().manual_seed(1))
    wide = tuple(tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in last)
    truth = run(specified, wide, None if upstream is None else upstream.double())
    last_grad = None if upstream is None else upstream.contiguous(memory_format=torch.channels_last)

    candidates: dict[str, Call] = {
        "dgdd_fast": partial(run, ours, last, last_grad),
        "channels_last": partial(run, plain, last, last_grad),
        "planes": partial(run, plain, planes, upstream),
    }
    if compiled:
        torch.compiler.reset()  # generated code is for one shape
        whole = torch.compile(plain, fullgraph=True, dynamic=False)
        candidates["compiled"] = partial(run, whole, last, last_grad)
    calls: dict[str, Call] = {}
    errors: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, call in candidates.items():
        try:
            result = call()
            assert isinstance(result, Tensor)
            errors[name] = relative_error(result, truth)
            if not errors[name] <= LARGEST_ERROR[case.what]:
                raise ArithmeticError(f"its relative error is {errors[name]:.1e}")
            calls[name] = call
        except Exception as error:  # whatever it is, the rest of the row is worth measuring
            missing[name] = f"{type(error).__name__}: {error}".split("\n", 1)[0]
            if name == "dgdd_fast":
                raise
    times = interleaved(calls, effort, wall_clock)
    median = times["dgdd_fast"].median
    rate = 1e3 * case.gigaflops / median
    speedup = {name: each.median / median for name, each in times.items() if name != "dgdd_fast"}
    return Row(case, torch.get_num_threads(), times, rate, rate / matmul, speedup, errors, missing)


def cases(quick: bool) -> Iterator[Case]:
    """The three blocks at each width."""
    for what in ("block", "convolution", "gradients"):
        for width, batch in ((32, 64),) if quick else ((32, 64), (64, 32), (128, 16)):
            for channels, side in ((3, 32), (width, 16), (width, 8)):
                yield Case(batch, channels, width, side, what)


HEADING = (
    f"{'what':12} {'images':>14} {'width':>5} {'dgdd_fast':>9} [{'p20':>7} {'p80':>7}] {'GFLOP/s':>8} "
    f"{'matmul':>6} " + " ".join(f"{name:>14}" for name in PEERS)
)


def line(row: Row) -> str:
    case, time = row.case, row.times["dgdd_fast"]
    ratios = " ".join(
        f"{row.speedup[name]:13.2f}x" if name in row.speedup else f"{'-':>14}" for name in PEERS
    )
    images = f"{case.batch}x{case.channels}x{case.side}x{case.side}"
    return (
        f"{case.what:12} {images:>14} {case.width:5} {time.median:9.3f} [{time.p20:7.3f} {time.p80:7.3f}] "
        f"{row.gigaflops_per_second:8.1f} {100 * row.share_of_matmul:5.0f}% {ratios}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n", 1)[0],
        epilog="Close other programs first: two of them on two cores spoil the table.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer shapes and turns, without torch.compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too, row by row")
    parser.add_argument("--resume", action="store_true", help="keep the rows that FILE has")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="without torch.compile")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="thread counts (default: 1)")
    options = parser.parse_args()
    device = torch.device("cpu")
    compiled = options.compile and not options.quick
    facts: dict[str, Any] = environment(device)
    table = Table(options.json, facts, options.resume, [CEILING])
    print(*(f"{name}: {value}" for name, value in facts.items() if value), sep="\n")
    for threads in options.threads:
        torch.set_num_threads(threads)
        matmul = matmul_rate(device)
        table.content[CEILING][str(threads)] = matmul
        print(f"\n{threads} threads: a matrix product does {matmul:.1f} GFLOP/s; ms and ratios\n{HEADING}")
        for case in cases(options.quick):
            if table.has(case, threads, "compiled" if compiled else None):
                continue
            effort = Effort(5, 2, 100) if options.quick else Effort(25, 5, 1500)
            row = measure(case, matmul, compiled, effort)
            table.add([row])
            print(line(row), flush=True)
            for name, reason in row.missing.items():
                print(f"  without {name}: {reason}")


if __name__ == "__main__":
    main()
