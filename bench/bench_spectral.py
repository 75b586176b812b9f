"""Time the spectral operators against their specification in plain PyTorch, eager and compiled.

    python bench/bench_spectral.py              # every operator, size and thread count (about 5 minutes)
    python bench/bench_spectral.py --quick      # one image count per size, no torch.compile (a minute)
    python bench/bench_spectral.py --json FILE  # the same table as data

The providers of one row take turns, so that whatever else the machine does meets all of them. Inputs are
warm: they are as much in cache as they fit. Times are medians over the turns, with the 20th and 80th
percentile. GB/s counts the bytes that the operator cannot avoid (each input read once, each output written
once); its share is of the bandwidth of a large copy, measured in the same run with as many threads.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from timing import Effort, Time, copy_bandwidth, environment, interleaved, wall_clock

from dgdd_fast import ops, reference
from dgdd_fast.files import write_atomically

DOMAINS = 3
CHANNELS = 3
ALPHA, BETA, LEARNING_RATE, MOMENTUM = 1.0, 0.3, 0.5, 0.5
IMAGE_COUNTS = (100, 140, 200)
PAPER_IMAGES = {32: 100, 64: 140, 128: 200}
GENERAL_SIZES = (224, 227)
GENERAL_IMAGES = 20
OPERATORS = ("spectral_consensus", "spectral_surgery", "spectral_surgery_step_")


@dataclass(frozen=True)
class Case:
    operator: str
    images: int
    size: int
    dtype: str

    def arguments(self) -> tuple[tuple[object, ...], int]:
        """The operator's arguments, and the bytes that it has to read and write."""
        dtype = getattr(torch, self.dtype)
        generator = torch.Generator().manual_seed(0)
        shape = (self.images, CHANNELS, self.size, self.size)
        gradients = (1e-3 * torch.randn(DOMAINS, *shape, generator=generator)).to(dtype)
        domain_index = torch.arange(self.images) % DOMAINS
        plane_bytes = gradients[0].nbytes
        if self.operator == "spectral_consensus":
            half_spectrum = plane_bytes * (self.size // 2 + 1) // self.size
            return (gradients,), gradients.nbytes + plane_bytes + half_spectrum
        surgery = (gradients, None, domain_index, ALPHA, BETA)
        if self.operator == "spectral_surgery":
            return surgery, gradients.nbytes + plane_bytes
        images = torch.randn(shape, generator=generator).to(dtype)
        step = (images, torch.zeros_like(images), *surgery, LEARNING_RATE, MOMENTUM)
        return step, gradients.nbytes + 4 * plane_bytes


@dataclass(frozen=True)
class Row:
    case: Case
    threads: int
    times: dict[str, Time]  # provider -> time
    gigabytes_per_second: float
    share_of_copy: float
    speedup: dict[str, float]  # provider -> its median over dgdd_fast's


def measure(case: Case, threads: int, copy_gbs: float, compiled: bool, effort: Effort) -> Row:
    arguments, essential_bytes = case.arguments()
    plain: Callable[..., object] = getattr(reference, case.operator)
    fast: Callable[..., object] = getattr(ops, case.operator)
    providers: dict[str, Callable[[], object]] = {
        "dgdd_fast": lambda: fast(*arguments),
        "eager": lambda: plain(*arguments),
    }
    if compiled:
        torch.compiler.reset()  # generated code is for one shape and one number of threads
        fused = torch.compile(plain, fullgraph=True, dynamic=False)
        providers["compiled"] = lambda: fused(*arguments)
    times = interleaved(providers, effort, wall_clock)
    gigabytes_per_second = essential_bytes / times["dgdd_fast"].median / 1e6
    return Row(
        case=case,
        threads=threads,
        times=times,
        gigabytes_per_second=gigabytes_per_second,
        share_of_copy=gigabytes_per_second / copy_gbs,
        speedup={
            name: each.median / times["dgdd_fast"].median
            for name, each in times.items()
            if name != "dgdd_fast"
        },
    )


def cases(operators: Iterable[str], sizes: Iterable[int], quick: bool) -> Iterable[Case]:
    for size in sizes:
        if size not in PAPER_IMAGES:
            counts: tuple[int, ...] = (GENERAL_IMAGES,)
        elif quick:
            counts = (PAPER_IMAGES[size],)
        else:
            counts = IMAGE_COUNTS
        for images in counts:
            for operator in operators:
                yield Case(operator, images, size, "float32")
        if size in PAPER_IMAGES and not quick:
            for dtype in ("bfloat16", "float16"):
                yield Case("spectral_surgery", PAPER_IMAGES[size], size, dtype)


def line(row: Row) -> str:
    def shown(name: str) -> str:
        if name not in row.times:
            return f"{'-':>9} {'':7}"
        ratio = f"{row.speedup[name]:6.1f}x" if name in row.speedup else ""
        return f"{row.times[name].median:9.3f} {ratio:7}"

    ours = row.times["dgdd_fast"]
    shape = f"{DOMAINS}x{row.case.images}x{CHANNELS}x{row.case.size}x{row.case.size}"
    return (
        f"{row.case.operator:22} {shape:>17} {row.case.dtype:8} {row.threads:3d} {ours.median:9.3f} "
        f"[{ours.p20:8.3f} {ours.p80:8.3f}] {row.gigabytes_per_second:6.1f} {100 * row.share_of_copy:4.0f}% "
        f"{shown('eager')} {shown('compiled')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        epilog="Close other programs first: two of them on two cores spoil the table.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer shapes and turns, without torch.compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts (default: 1 2)")
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=OPERATORS)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[*PAPER_IMAGES, *GENERAL_SIZES], metavar="PIXELS"
    )
    options = parser.parse_args()
    effort = Effort(5, 10, 500) if options.quick else Effort(25, 20, 4000)

    device = torch.device("cpu")
    copy_bandwidths: dict[str, float] = {}
    table = {**environment(device), "copy_gigabytes_per_second": copy_bandwidths}
    print(*(f"{name}: {value}" for name, value in table.items() if value), sep="\n")
    rows: list[Row] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        copy_gbs = copy_bandwidth(device)
        copy_bandwidths[str(threads)] = copy_gbs
        print(f"\n{threads} threads: a copy moves {copy_gbs:.1f} GB/s; times in ms, ratios against dgdd_fast")
        print(
            f"{'operator':22} {'shape':>17} {'dtype':8} {'thr':>3} {'dgdd_fast':>9} [{'p20':>8} {'p80':>8}] "
            f"{'GB/s':>6} {'copy':>5} {'eager':>9} {'':7} {'compiled':>9}"
        )
        with torch.no_grad():
            for case in cases(options.operators, options.sizes, options.quick):
                rows.append(measure(case, threads, copy_gbs, not options.quick, effort))
                print(line(rows[-1]), flush=True)
                if options.json:  # after each row: a run that is cut short keeps what it has
                    table["rows"] = [asdict(row) for row in rows]
                    write_atomically(options.json, (json.dumps(table, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
