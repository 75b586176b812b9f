"""Time an iteration of the distillation loop and each of its parts.

    python bench/bench_distill.py                 # the CPU, batches of 64 and narrow experts (some minutes)
    python bench/bench_distill.py --device cuda   # the GPU, the papers' batches first (about a minute)
    python bench/bench_distill.py --quick         # tiny batches and networks (seconds)
    python bench/bench_distill.py --json FILE     # the same table as data
    python bench/bench_distill.py --json FILE --resume   # measure only what FILE does not have yet

Three source domains, ten images per class: 10 classes of 600 images a domain at 32 px (the shape of
Digits-DG), 7 of 400 at 64 px (that of PACS). Pixels are random and experts untrained: it is speed that is
measured. Each case runs three times: as it is, for the milliseconds of an iteration; with a clock around
each part, which on CUDA waits for the device before and after it, with every kernel launched by itself, and
so takes longer in all; and, on CUDA, one iteration in which torch tells each time that the host waits for the
device: once, to look what came of it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from random_domains import random_domains
from table import Table
from timing import Time, environment, require_device

from dgdd_fast import cuda_graphs
from dgdd_fast.config import (
    DistillConfig,
    ExpertConfig,
    NetworkConfig,
    Precision,
    PretrainConfig,
    SurgeryConfig,
)
from dgdd_fast.data import DomainDataset
from dgdd_fast.distillation import Progress, distill
from dgdd_fast.experts import ExpertPool
from dgdd_fast.matching import descent, expert_matching, feature_matching
from dgdd_fast.matching.comparison import MeanComparison
from dgdd_fast.matching.descent import Descent
from dgdd_fast.matching.expert_matching import ExpertFeatures, Regularisation
from dgdd_fast.matching.feature_matching import FeatureMatching
from dgdd_fast.matching.feature_spaces import RandomNetwork
from dgdd_fast.networks import initialise
from dgdd_fast.seeds import generator
from dgdd_fast.synthetic.optimizer import ImageOptimizer

METHODS = ("dm", "dm+sgs", "cadm")
SHAPES = {32: (10, 600), 64: (7, 400)}  # classes, and images of each in a domain
DOMAINS = 3
PAPER_BATCH = {"dm": 256, "dm+sgs": 256, "cadm": 1024 // DOMAINS}
SMALL_BATCH = 64
OTHER_PRECISIONS: tuple[Precision, ...] = ("tf32", "bfloat16")
PARTS = (
    "draws",
    "gather and augment",
    "real forward",
    "synthetic forward",
    "domain gradients",
    "surgery and step",
    "everything else",
)
WARM_UP, WARM_UP_ON_CUDA = 2, 20  # iterations
TURNS = (3, 7)  # at least and at most
ROW_SECONDS = 4.0  # for all turns but the least
TURN_SECONDS = 0.2  # a turn is so many iterations that it takes about as long


@dataclass(frozen=True)
class Case:
    method: str
    resolution: int
    batch_real: int  # of a class and domain
    width: int  # of the ConvNet, or of the experts
    precision: Precision = "float32"
    ipc: int = 10

    def sources(self) -> DomainDataset:
        """Random images, as many as the data set has that the case stands for."""
        classes, images = SHAPES[self.resolution]
        return random_domains(classes, DOMAINS, images, self.resolution)

    def config(self, experts: Path, iterations: int) -> DistillConfig:
        """The method's own settings; `experts` is the folder for those of CADM."""
        common: dict[str, Any] = {
            "iterations": iterations,
            "ipc": self.ipc,
            "batch_real": self.batch_real,
            "precision": self.precision,
            "checkpoint_every": iterations,
        }
        if self.method == "cadm":
            return DistillConfig(objective="cadm", experts=ExpertConfig(pool=str(experts)), **common)
        surgery = SurgeryConfig() if self.method == "dm+sgs" else None
        return DistillConfig(surgery=surgery, network=NetworkConfig(width=self.width), **common)


def untrained_experts(folder: Path, data: DomainDataset, width: int) -> None:
    """A pool of two ResNet-18 as they are drawn, which are as fast as trained ones."""
    mean, std = data.channel_statistics()
    pool = ExpertPool(
        folder=folder,
        config=PretrainConfig(experts=2, network=NetworkConfig(architecture="resnet18", width=width)),
        data=data.name,
        class_names=data.class_names,
        domain_names=data.domain_names,
        resolution=data.resolution,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        fingerprint=data.fingerprint(),
    )
    for index in range(2):
        ends = []
        for end in ("initial", "trained"):
            expert = pool.new_expert()
            initialise(expert, generator(0, "expert", index, end))
            ends.append(dict(expert.named_parameters()))
        pool.write_expert(index, *ends)
        pool.log.append([])
        pool.write()


class Enough(Exception):
    """Ends a run from its progress callback: it has been watched for long enough."""


class Turns:
    """Milliseconds of an iteration, the mean of each turn; called after every iteration.

    On CUDA the loop tells of several iterations at once, each with the mean of their seconds: nothing here
    waits for the device.
    """

    def __init__(self, on_cuda: bool) -> None:
        self.warm_up = WARM_UP_ON_CUDA if on_cuda else WARM_UP
        self.milliseconds: list[float] = []
        self.turn: list[float] = []  # seconds of its iterations
        self.total = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.iteration <= self.warm_up:
            return
        self.turn.append(progress.seconds_per_iteration)
        if sum(self.turn) < TURN_SECONDS:
            return
        self.total += sum(self.turn)
        self.milliseconds.append(1e3 * sum(self.turn) / len(self.turn))
        self.turn = []
        least, most = TURNS
        turns = len(self.milliseconds)
        if turns == most or (turns >= least and self.total > ROW_SECONDS):
            raise Enough


class Stopwatch:
    """Milliseconds of each part between `start` and `stop`. What a part does within another is its own
    alone."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.milliseconds = dict.fromkeys(PARTS, 0.0)
        self.running: list[str] = []
        self.since = 0.0

    def start(self) -> None:
        self.running = [PARTS[-1]]
        self.since = now(self.device)

    def stop(self) -> None:
        self._charge()
        self.running = []

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, with its time added to `part`."""

        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            if not self.running:
                return function(*arguments, **options)
            self._charge()
            self.running.append(part)
            try:
                return function(*arguments, **options)
            finally:
                self._charge()
                self.running.pop()

        return timed

    def _charge(self) -> None:
        moment = now(self.device)
        self.milliseconds[self.running[-1]] += 1e3 * (moment - self.since)
        self.since = moment


def now(device: torch.device) -> float:
    """Seconds, when the device has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seams() -> Iterator[tuple[Any, str, str]]:
    """Where the loop comes apart: (owner, name of a function of it, part). What none of them does is
    "everything else": the losses, bookkeeping, what the host makes of the results."""
    yield Descent, "_plan", "draws"
    yield Descent, "_prepare", "draws"
    for module in (feature_matching, expert_matching):
        yield module, "augment", "gather and augment"
        yield module, "decode", "gather and augment"
    yield FeatureMatching, "_add_real", "gather and augment"
    yield RandomNetwork, "real", "real forward"
    yield ExpertFeatures, "real", "real forward"
    yield MeanComparison, "add", "real forward"
    yield FeatureMatching, "synthetic_pass", "synthetic forward"
    yield Regularisation, "gradients", "synthetic forward"
    yield torch.autograd, "grad", "domain gradients"
    yield ImageOptimizer, "move_", "surgery and step"


@contextlib.contextmanager
def one_by_one() -> Iterator[None]:
    """On CUDA, the host plans each iteration when it is its turn, launches every kernel by itself, and looks
    after each iteration."""
    with (
        mock.patch.object(descent, "PLANNERS", 0),
        mock.patch.object(descent, "SECONDS_UNREAD", 0),
        mock.patch.object(cuda_graphs, "MOST_GRAPHS", 0),
    ):
        yield


@contextlib.contextmanager
def taken_apart(stopwatch: Stopwatch) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for owner, name, part in seams():
            timed = stopwatch.around(part, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, timed))
        yield


@dataclass(frozen=True)
class Row:
    case: Case
    threads: int | None  # on the CPU
    milliseconds: Time  # an iteration, undisturbed
    parts: dict[str, float]  # milliseconds of an iteration whose parts are timed
    shares: dict[str, float]  # of all parts together
    synchronisations: int | None  # of one iteration, on CUDA
    synchronised_at: dict[str, int]  # "file:line" -> how often
    peak_memory_bytes: int | None  # on CUDA


def measure(case: Case, device: torch.device) -> Row:
    sources = case.sources()
    on_cuda = device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        experts = Path(folder)
        if case.method == "cadm":
            untrained_experts(experts, sources, case.width)

        def run(watch: Callable[[Progress], None]) -> None:
            with contextlib.suppress(Enough):
                distill(sources, case.config(experts, 10**6), device=device, progress=watch)

        if on_cuda:
            torch.cuda.reset_peak_memory_stats(device)
        turns = Turns(on_cuda)
        run(turns)
        peak = torch.cuda.max_memory_allocated(device) if on_cuda else None
        parts = time_of_parts(run, device)
        where = synchronisations(run) if on_cuda else Counter()
    total = sum(parts.values())
    return Row(
        case,
        None if on_cuda else torch.get_num_threads(),
        Time.of(turns.milliseconds),
        parts,
        {name: each / total for name, each in parts.items()},
        where.total() if on_cuda else None,
        dict(where.most_common()),
        peak,
    )


Run = Callable[[Callable[[Progress], None]], None]  # runs the loop, with what is called after each iteration


def time_of_parts(run: Run, device: torch.device, iterations: int = 3) -> dict[str, float]:
    """Milliseconds of each part, the mean of some iterations after the first ones."""
    stopwatch = Stopwatch(device)

    def watch(progress: Progress) -> None:
        if progress.iteration == WARM_UP:
            stopwatch.start()
        elif progress.iteration == WARM_UP + iterations:
            stopwatch.stop()
            raise Enough

    with one_by_one(), taken_apart(stopwatch):
        run(watch)
    return {name: each / iterations for name, each in stopwatch.milliseconds.items()}


def synchronisations(run: Run) -> Counter[str]:
    """Where in one iteration the host waits for the CUDA device, and how often, as far as torch can tell."""

    def watch(progress: Progress) -> None:
        if progress.iteration == WARM_UP:
            torch.cuda.set_sync_debug_mode("warn")
        elif progress.iteration == WARM_UP + 1:
            raise Enough

    with one_by_one(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run(watch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{Path(each.filename).name}:{each.lineno}"
        for each in caught
        if "called a synchronizing" in str(each.message)
    )


def cases(quick: bool, on_cuda: bool) -> Iterator[Case]:
    """On CUDA first what the papers have, then small batches of DM, where the host has the most to say, then
    the papers' again in the other precisions."""
    batches = {method: 8 if quick else PAPER_BATCH[method] if on_cuda else SMALL_BATCH for method in METHODS}
    convnet, experts = (16, 4) if quick else (128, 64 if on_cuda else 16)
    whole = [
        Case(method, resolution, batches[method], experts if method == "cadm" else convnet)
        for resolution in SHAPES
        for method in METHODS
    ]
    yield from whole
    if on_cuda and not quick:
        yield from (replace(case, batch_real=SMALL_BATCH) for case in whole if case.method != "cadm")
        for precision in OTHER_PRECISIONS:
            yield from (replace(case, precision=precision) for case in whole)


def line(row: Row) -> str:
    case, times = row.case, row.milliseconds
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in row.shares.items())
    waits = "" if row.synchronisations is None else f"; {row.synchronisations} synchronisations"
    return (
        f"{case.method:7} {case.resolution} px, {case.batch_real:3} real a cell, width {case.width:3}, "
        f"{case.precision}: {times.median:9.2f} ms [{times.p20:9.2f} {times.p80:9.2f}]; {shares}{waits}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny batches and networks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too, row by row")
    parser.add_argument("--resume", action="store_true", help="keep the rows that FILE has")
    options = parser.parse_args()
    device = require_device(options.device)
    on_cuda = device.type == "cuda"
    facts = environment(device)
    table = Table(options.json, facts, options.resume)
    print(*(f"{name}: {value}" for name, value in facts.items() if value), sep="\n")
    print("milliseconds of an iteration, and the shares of its parts")
    for case in cases(options.quick, on_cuda):
        if not table.has(case, None if on_cuda else torch.get_num_threads()):
            row = measure(case, device)
            table.add([row])
            print(line(row), flush=True)


if __name__ == "__main__":
    main()
