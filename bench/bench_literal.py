"""Time an iteration of the distillation loop against the literal one (examples/sgs_literal.py: plain PyTorch,
class by class and domain by domain), on the CPU, in turns.

    python bench/bench_literal.py                 # 1,920 real images an iteration (about 10 minutes)
    python bench/bench_literal.py --quick         # tiny batches and networks (seconds)
    python bench/bench_literal.py --json FILE     # the same table as data
    python bench/bench_literal.py --json FILE --resume   # measure only what FILE does not have yet

Ten classes and three source domains of random images at 32 px, ten synthetic images a class. In every turn
both run a few iterations, of which the first does not count; times are medians over all others, with the 20th
and 80th percentile. Beside other programs compare the least times.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from bench_distill import DOMAINS, Case
from table import Table
from timing import Time, environment
from torch import Tensor

from dgdd_fast.distillation import distill

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
import sgs_literal


@dataclass(frozen=True)
class Row:
    case: Case
    threads: int
    real_images: int  # of an iteration
    times: dict[str, Time]  # provider -> an iteration
    least: dict[str, float]  # provider -> its fastest iteration, in milliseconds
    speedup: float  # the literal loop's median over the package's
    speedup_of_least: float
    largest_difference: float  # of a pixel after the iterations, in standard deviations of the images


def measure(case: Case, turns: int, iterations: int) -> Row:
    """`turns` of one iteration and `iterations` more."""
    sources = case.sources()
    config = case.config(Path(), 1 + iterations)  # no experts in DM
    images: dict[str, Tensor] = {}

    def package(note: Callable[[], None]) -> None:
        images["dgdd_fast"] = distill(sources, config, progress=lambda progress: note()).images

    def literal(note: Callable[[], None]) -> None:
        draw = sgs_literal.draw_siamese
        began = itertools.count()

        def noted(*arguments: Any) -> Any:
            if next(began):  # the iteration before it ended
                note()
            return draw(*arguments)

        with mock.patch.object(sgs_literal, "draw_siamese", noted):
            images["literal"] = sgs_literal.literal_distill(sources, config)
        note()

    measured: dict[str, list[float]] = {"dgdd_fast": [], "literal": []}
    for _ in range(turns):
        for name, run in (("dgdd_fast", package), ("literal", literal)):
            moments: list[float] = []
            run(lambda moments=moments: moments.append(time.perf_counter()))
            measured[name] += [1e3 * (end - begin) for begin, end in itertools.pairwise(moments)]
    times = {name: Time.of(values) for name, values in measured.items()}
    least = {name: min(values) for name, values in measured.items()}
    return Row(
        case,
        torch.get_num_threads(),
        DOMAINS * sources.num_classes * case.batch_real,
        times,
        least,
        times["literal"].median / times["dgdd_fast"].median,
        least["literal"] / least["dgdd_fast"],
        float((images["dgdd_fast"] - images["literal"]).abs().max()),
    )


def cases(quick: bool) -> Iterator[Case]:
    for batch_real, width in ((4, 8),) if quick else ((64, 32), (32, 64), (64, 64), (64, 128)):
        for method in ("dm", "dm+sgs"):
            yield Case(method, 32, batch_real, width)


def line(row: Row) -> str:
    case, fast, literal = row.case, row.times["dgdd_fast"], row.times["literal"]
    return (
        f"{case.method:7} width {case.width:3}, {row.real_images} real images: {fast.median:8.1f} ms, "
        f"literal {literal.median:8.1f} ms, {row.speedup:.2f} times; least {row.least['dgdd_fast']:.1f} and "
        f"{row.least['literal']:.1f} ms, {row.speedup_of_least:.2f} times; "
        f"largest difference {row.largest_difference:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny batches and networks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too, row by row")
    parser.add_argument("--resume", action="store_true", help="keep the rows that FILE has")
    parser.add_argument("--turns", type=int, default=3, help="default: 3")
    parser.add_argument("--iterations", type=int, default=2, help="of a turn (default: 2)")
    options = parser.parse_args()
    facts: dict[str, Any] = environment(torch.device("cpu"))
    table = Table(options.json, facts, options.resume)
    print(*(f"{name}: {value}" for name, value in facts.items() if value), sep="\n")
    for case in cases(options.quick):
        if not table.has(case, torch.get_num_threads()):
            row = measure(case, options.turns, options.iterations)
            table.add([row])
            print(line(row), flush=True)


if __name__ == "__main__":
    main()
