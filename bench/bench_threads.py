"""Iterations a second of the distillation loop on two cores: by one thread, by two, by two beside a program
that computes all the time, and by two processes of one thread that share nothing.

    python bench/bench_threads.py               # about two minutes on two free cores
    python bench/bench_threads.py --quick       # a tiny run, once (seconds)
    python bench/bench_threads.py --json FILE   # the same table as data

The two processes tell what the machine has to give: two cores of a virtual machine may be the halves of one.
`speedup` is the rate of two threads over that of one, `ceiling` the same of two processes together; `beside`
is the rate of two threads beside the busy program over their rate without it, of which two threads among
three that want two cores have 0.67 for their share. All ways take turns; rates are medians over the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
from random_domains import random_domains
from table import Table
from timing import environment

from dgdd_fast import DistillConfig, SurgeryConfig, distill
from dgdd_fast.config import NetworkConfig
from dgdd_fast.distillation import Progress

CORES = 2
SHARE_BESIDE = CORES / (CORES + 1)  # of the cores, for two threads beside a third
CLASSES, DOMAINS, SIDE = 10, 3, 32
WARM_UP = 1  # iterations
ENDLESS = 10**6


@dataclass(frozen=True)
class Way:
    """How the loop is run: so many processes with so many threads each."""

    processes: int
    threads: int
    beside_busy: bool = False


WAYS = {
    "one thread": Way(1, 1),
    "two threads": Way(1, 2),
    "two threads beside a busy program": Way(1, 2, beside_busy=True),
    "two processes": Way(2, 1),
}


@dataclass(frozen=True)
class Case:
    width: int  # of the ConvNet
    batch_real: int  # images of a class and domain
    ipc: int

    @property
    def config(self) -> DistillConfig:
        return DistillConfig(
            surgery=SurgeryConfig(),
            network=NetworkConfig(width=self.width),
            ipc=self.ipc,
            batch_real=self.batch_real,
            iterations=ENDLESS,
            checkpoint_every=ENDLESS,
        )


@dataclass(frozen=True)
class Row:
    case: Case
    rates: dict[str, float]  # way -> iterations a second, of all its processes
    speedup: float
    ceiling: float
    beside: float
    threads: None = None  # of a row; its ways have their own
    missing: dict[str, str] = field(default_factory=dict)


class Enough(Exception):
    """Ends a run from its progress callback."""


def iterate(case: Case, threads: int, seconds: float, to: Connection) -> None:
    """What a measured process does: sends that it is ready, waits until all are, and sends the seconds of its
    iterations."""
    keep_to_cores()
    torch.set_num_threads(threads)
    sources = random_domains(CLASSES, DOMAINS, case.batch_real, SIDE)
    moments: list[float] = []

    def tell(state: Progress) -> None:
        if state.iteration == WARM_UP:
            to.send("ready")
            to.recv()
        moments.append(time.perf_counter())
        if len(moments) > 1 and moments[-1] - moments[0] > seconds:
            raise Enough

    try:
        distill(sources, case.config, progress=tell)
    except Enough:
        to.send([later - earlier for earlier, later in itertools.pairwise(moments)])


def be_busy() -> None:
    keep_to_cores()
    for _ in itertools.count():
        pass


def keep_to_cores() -> None:
    """On a larger machine, all that is measured shares the first two cores of those that it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def measuring_context() -> ForkServerContext:
    """Starts children of a process that has computed nothing: forked from this one they could hang in its
    threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dgdd_fast.distillation"])
    return context


def rate(context: ForkServerContext, case: Case, way: Way, seconds: float) -> float:
    """Iterations a second of all processes together."""
    pipes = [context.Pipe() for _ in range(way.processes)]
    runs = [
        context.Process(target=iterate, args=(case, way.threads, seconds, far), daemon=True)
        for _, far in pipes
    ]
    busy = [context.Process(target=be_busy, daemon=True)] if way.beside_busy else []
    for process in (*runs, *busy):
        process.start()
    try:
        for _, far in pipes:
            far.close()  # the run has its own; when that is gone, to read is an error
        for near, _ in pipes:
            near.recv()
        for near, _ in pipes:
            near.send("begin")
        return sum(1 / statistics.fmean(near.recv()) for near, _ in pipes)
    except EOFError:
        raise SystemExit("a measured process ended before it was measured") from None
    finally:
        for process in busy:
            process.terminate()
        for process in (*runs, *busy):
            process.join()


def measure(context: ForkServerContext, case: Case, rounds: int, seconds: float) -> Row:
    """`rounds` of about so many seconds for each way."""
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            rates[name].append(rate(context, case, way, seconds))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    one, two, beside, processes = medians.values()
    return Row(case, medians, two / one, processes / one, beside / two)


def cases(quick: bool) -> Iterator[Case]:
    """Short iterations, in which threads wait for each other most often, and longer ones."""
    if quick:
        yield Case(4, 1, 1)
        return
    yield Case(32, 8, 1)
    yield Case(128, 32, 10)


def line(row: Row) -> str:
    case = row.case
    rates = "; ".join(f"{name} {value:.2f}" for name, value in row.rates.items())
    return (
        f"width {case.width}, {case.batch_real} real images a cell, IPC {case.ipc}, iterations a second: "
        f"{rates}; "
        f"speedup {row.speedup:.2f} of {row.ceiling:.2f}, beside {row.beside:.2f} of {SHARE_BESIDE:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a tiny run, once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too, row by row")
    parser.add_argument("--resume", action="store_true", help="keep the rows that FILE has")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--seconds", type=float, default=3, help="of each way in a round (default: 3)")
    options = parser.parse_args()
    rounds, seconds = (1, 0.0) if options.quick else (options.rounds, options.seconds)
    context = measuring_context()
    facts: dict[str, Any] = environment(torch.device("cpu"))
    table = Table(options.json, facts, options.resume)
    print(*(f"{name}: {value}" for name, value in facts.items() if value), sep="\n")
    for case in cases(options.quick):
        if table.has(case, None):
            continue
        row = measure(context, case, rounds, seconds)
        table.add([row])
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
