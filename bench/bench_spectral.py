"""Time the spectral operators against their specification in plain PyTorch, eager, compiled, and on CUDA also
replayed as a CUDA graph, and against CuPy.

    python bench/bench_spectral.py                 # the CPU: every operator, size, thread count (5 minutes)
    python bench/bench_spectral.py --device cuda   # the GPU: every regime (about 5 minutes)
    python bench/bench_spectral.py --quick         # few shapes and turns, no torch.compile (a minute)
    python bench/bench_spectral.py --json FILE     # the same table as data
    python bench/bench_spectral.py --json FILE --resume   # measure only what FILE does not have yet
    python bench/bench_spectral.py --no-compile   # without torch.compile, which takes most of the time

The providers of one row take turns, so that whatever else the machine does meets all of them. Times are
medians over the turns, with the 20th and 80th percentile. Warm: inputs are as much in cache as they fit, and
CUDA calls follow each other without waiting, so that a small one takes what the host takes to launch it
(launch_ms holds that alone). Flushed: each CUDA call alone, after the L2 cache was overwritten. GB/s counts
the bytes that the operator cannot avoid (each input read once, each output written once); its share is of the
bandwidth of a large copy, measured in the same run. Errors are relative, in the L2 norm, against float64.
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from spectral_shapes import (
    CHANNELS,
    DOMAINS,
    GENERAL_SIZES,
    OPERATORS,
    PAPER_IMAGES,
    REGIMES,
    Case,
    cpu_cases,
    cuda_cases,
)
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
    launch_clock,
    matmul_rate,
    relative_error,
    require_device,
)
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference

# Above these the function is another one: about ten times what rounding makes of it.
LARGEST_ERROR = {"float32": 5e-6, "bfloat16": 3e-2, "float16": 4e-3}
TRUTH_PIXELS = 2**24  # of the planes that are computed in float64


def outputs(operator: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """What the function returns, or leaves in copies of the tensors that it writes."""
    if operator != "spectral_surgery_step_":
        result = function(*arguments)
        return result if isinstance(result, tuple) else (result,)
    images, momentum_buffer, *others = arguments
    images, momentum_buffer = images.clone(), momentum_buffer.clone()
    function(images, momentum_buffer, *others)
    return images, momentum_buffer


def truth(case: Case, arguments: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The positions of some images spread over the batch, and their results in float64."""
    count = min(case.images, max(1, TRUTH_PIXELS // (case.domains * math.prod(case.shape[1:]))))
    chosen = torch.linspace(0, case.images - 1, count, device=arguments[0].device).round().long()

    def widened(argument: Any) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        part = argument.index_select(1 if argument.dim() == 5 else 0, chosen)
        return part.double() if part.is_floating_point() else part

    plain = getattr(reference, case.operator)
    return chosen, outputs(case.operator, plain, tuple(map(widened, arguments)))


def largest_error(results: tuple[Tensor, ...], chosen: Tensor, true_results: tuple[Tensor, ...]) -> float:
    return max(
        relative_error(result.index_select(0, chosen), true_result)
        for result, true_result in zip(results, true_results, strict=True)
    )


@dataclass(frozen=True)
class Row:
    case: Case
    threads: int | None  # on the CPU
    cache: str  # "warm" or "flushed"
    times: dict[str, Time]  # provider -> time
    gigabytes_per_second: float
    share_of_copy: float
    speedup: dict[str, float]  # provider -> its median over dgdd_fast's
    error: dict[str, float]  # provider -> relative error against float64
    missing: dict[str, str] = field(default_factory=dict)  # provider -> why it was not measured
    launch_ms: dict[str, float] = field(default_factory=dict)  # provider -> the host's time, on CUDA


@dataclass
class Providers:
    """One case in every implementation: how to call it, its error, or why it is missing. What this package
    computes is always measured; another implementation that fails or computes something else is not."""

    case: Case
    device: torch.device
    calls: dict[str, Call] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, case: Case, device: torch.device, compiled: bool) -> Providers:
        self = cls(case, device)
        arguments = case.arguments(device)
        chosen, true_results = truth(case, arguments)

        def add(name: str, function: Callable[..., Any]) -> None:
            results = outputs(case.operator, function, arguments)
            self.error[name] = largest_error(results, chosen, true_results)
            self.calls[name] = partial(function, *arguments)

        def add_graph(name: str) -> None:
            graphed = Graphed(self.calls[name])
            if case.operator != "spectral_surgery_step_":
                results = outputs(case.operator, lambda: graphed.result, ())
                for result in results:
                    result.fill_(math.nan)
                graphed()
                self.error[f"{name}_graph"] = largest_error(results, chosen, true_results)
            self.calls[f"{name}_graph"] = graphed

        plain: Callable[..., Any] = getattr(reference, case.operator)
        add("dgdd_fast", getattr(ops, case.operator))
        add("eager", plain)
        if compiled:
            torch.compiler.reset()  # generated code is for one shape and one number of threads
            fused = torch.compile(plain, fullgraph=True, dynamic=False)
            self.attempt("compiled", lambda: add("compiled", fused))
        if device.type == "cuda":
            self.attempt("dgdd_fast_graph", lambda: add_graph("dgdd_fast"))
            self.attempt("eager_graph", lambda: add_graph("eager"))
            self.attempt("cupy", lambda: add("cupy", getattr(cupy_peer(case.dtype), case.operator)))
        return self

    def attempt(self, name: str, add: Callable[[], None]) -> None:
        """Adds an implementation; if that fails, or it is wrong, notes why it is missing."""
        try:
            add()
            if not self.error.get(name, 0.0) <= LARGEST_ERROR[self.case.dtype]:
                raise ArithmeticError(f"its relative error is {self.error[name]:.1e}")
        except Exception as error:  # whatever it is, the rest of the row is worth measuring
            self.missing[name] = f"{type(error).__name__}: {error}".split("\n", 1)[0]
            self.calls.pop(name, None)


def cupy_peer(dtype: str) -> Any:
    if dtype != "float32":
        raise TypeError(f"CuPy has no transforms in {dtype}")
    return importlib.import_module("cupy_peer")


def measure(
    case: Case, device: torch.device, copy_gbs: float, compiled: bool, effort: Effort
) -> Iterator[Row]:
    """One row, and on CUDA another one with the cache flushed."""
    providers = Providers.of(case, device, compiled)
    yield row_of(providers, "warm", interleaved(providers.calls, effort, clock_of(device)), copy_gbs)
    if device.type == "cuda":
        one_call_a_turn = Effort(2 * effort.turns, 0, effort.row_ms)
        times = interleaved(providers.calls, one_call_a_turn, FlushedClock(device))
        yield row_of(providers, "flushed", times, copy_gbs)


def row_of(providers: Providers, cache: str, times: dict[str, Time], copy_gbs: float) -> Row:
    ours = times["dgdd_fast"].median
    on_cuda = providers.device.type == "cuda"
    gigabytes_per_second = providers.case.essential_bytes / ours / 1e6
    return Row(
        case=providers.case,
        threads=None if on_cuda else torch.get_num_threads(),
        cache=cache,
        times=times,
        gigabytes_per_second=gigabytes_per_second,
        share_of_copy=gigabytes_per_second / copy_gbs,
        speedup={name: each.median / ours for name, each in times.items() if name != "dgdd_fast"},
        error=providers.error,
        missing=providers.missing,
        launch_ms=launch_times(providers.calls) if on_cuda and cache == "warm" and ours < 1 else {},
    )


def launch_times(calls: Mapping[str, Call]) -> dict[str, float]:
    """The host's time for one call of each, the median of five turns of ten."""
    times = interleaved(calls, Effort(5, 0, 0), lambda call, _: launch_clock(call, 10))
    return {name: each.median for name, each in times.items()}


COLUMNS = ("eager", "compiled", "eager_graph", "cupy", "dgdd_fast_graph")


def heading(columns: Iterable[str]) -> str:
    ratios = " ".join(f"{name:>15}" for name in columns)
    return (
        f"{'operator':22} {'shape':>19} {'dtype':8} {'thr':>3} {'cache':7} {'dgdd_fast':>9} "
        f"[{'p20':>8} {'p80':>8}] {'GB/s':>7} {'copy':>5} {'error':>7} {ratios}"
    )


def line(row: Row, columns: Iterable[str]) -> str:
    ours, case = row.times["dgdd_fast"], row.case
    shape = f"{case.domains}x{case.images}x{CHANNELS}x{case.size}x{case.size}"
    ratios = " ".join(
        f"{row.speedup[name]:14.1f}x" if name in row.speedup else f"{'-':>15}" for name in columns
    )
    threads = "" if row.threads is None else row.threads
    return (
        f"{case.operator:22} {shape:>19} {case.dtype:8} {threads:>3} {row.cache:7} {ours.median:9.4f} "
        f"[{ours.p20:8.4f} {ours.p80:8.4f}] {row.gigabytes_per_second:7.1f} {100 * row.share_of_copy:4.0f}% "
        f"{row.error['dgdd_fast']:7.1e} {ratios}"
    )


CEILINGS = ("copy_gigabytes_per_second", "matmul_gigaflops_per_second")


def run(options: argparse.Namespace, table: Table, device: torch.device) -> list[str]:
    """Measures and prints every case, and returns what this package got wrong."""
    quick = options.quick
    on_cuda = device.type == "cuda"
    if on_cuda:
        effort = Effort(5, 2, 100) if quick else Effort(25, 5, 1000)
        memory_bytes = table.content["memory_bytes"] // (16 if quick else 1)
        cases = list(cuda_cases(options.operators, options.sizes, options.regimes, memory_bytes, quick))
    else:
        effort = Effort(5, 10, 500) if quick else Effort(25, 20, 4000)
        cases = list(cpu_cases(options.operators, options.sizes, quick))
    columns = COLUMNS if on_cuda else COLUMNS[:2]
    # One compilation takes longer than all else of a row, so rows with one come last.
    compiled = {case: case.domains == DOMAINS[0] and options.compile and not quick for case in cases}
    cases.sort(key=lambda case: compiled[case])
    wrong: list[str] = []
    for threads in [None] if on_cuda else options.threads:
        if threads is not None:
            torch.set_num_threads(threads)
        copy_gbs = copy_bandwidth(device)
        ceilings = dict(zip(CEILINGS, (copy_gbs, matmul_rate(device)), strict=True))
        for name, value in ceilings.items():
            table.content[name]["cuda" if on_cuda else str(threads)] = value
        where = "the GPU" if on_cuda else f"{threads} threads"
        print(f"\n{where}: a copy moves {copy_gbs:.1f} GB/s; times in ms, ratios against dgdd_fast")
        print(heading(columns))
        regime = None
        for case in cases:
            if table.has(case, threads, "compiled" if compiled[case] else None):
                continue
            if on_cuda and case.regime != regime:
                print(case.regime)
                regime = case.regime
            rows = list(measure(case, device, copy_gbs, compiled[case], effort))
            table.add(rows)
            for row in rows:
                print(line(row, columns), flush=True)
            for name, reason in rows[0].missing.items():
                print(f"  without {name}: {reason}")
            if not rows[0].error["dgdd_fast"] <= LARGEST_ERROR[case.dtype]:
                wrong.append(f"{case} has a relative error of {rows[0].error['dgdd_fast']:.1e}")
    return wrong


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
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="thread counts of the CPU (default: 1 2)"
    )
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=OPERATORS)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[*PAPER_IMAGES, *GENERAL_SIZES], metavar="PIXELS"
    )
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=REGIMES, help="on CUDA")
    options = parser.parse_args()
    device = require_device(options.device)
    facts = environment(device)
    table = Table(options.json, facts, options.resume, CEILINGS)
    print(*(f"{name}: {value}" for name, value in facts.items() if value), sep="\n")
    with torch.no_grad():
        wrong = run(options, table, device)
    if wrong:
        raise SystemExit("\n".join(["These results are wrong, whatever their times are:", *wrong]))


if __name__ == "__main__":
    main()
