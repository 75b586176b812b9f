"""Data of DomainNet's size and beyond: memory from packing to evaluation, and the time of an iteration.

    python bench/bench_data.py --folder FOLDER               # writes some GB there, and deletes them
    python bench/bench_data.py --folder FOLDER --json FILE   # the same figures as data

First, 100,000 images of 64 px, six domains and 100 classes, random, are packed, read, distilled (`dm+sgs`),
used for some steps of an expert's training, and tested on. The process may not have more than 4 GiB of memory
of its own: RLIMIT_DATA counts every page that it could write to, the images' mapped file among them.
`peak_gib` is what it really had (RssAnon and RssShmem, read every 10 ms): pages of a mapped file are the
system's, which takes them back when it needs them.

Then, iterations at 600,000 images take turns with iterations at 6,000, with as many real images in a batch:
`milliseconds`, the median, and of the process's time on all cores, which a busy machine changes less.
Networks are small throughout, so that it is the data that is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timing import environment

from dgdd_fast import DistillConfig, EvaluateConfig, SurgeryConfig, distill, evaluate, load_dataset
from dgdd_fast.config import NetworkConfig, PretrainConfig
from dgdd_fast.data import DomainDataset
from dgdd_fast.data.packed import write_packed
from dgdd_fast.data.pixel_store import PixelStore
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.experts.pretrain import PretrainingInterrupted, pretrain
from dgdd_fast.files import write_atomically
from dgdd_fast.matching.registry import build_objective
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.seeds import generator
from dgdd_fast.synthetic.initial import assign_domains, initial_tiles

CLASSES, DOMAINS = 100, 6
LIMIT = 4 * 2**30
BATCH = 1000  # images written at once
PRETRAINING_SECONDS = 100.0
NETWORK = NetworkConfig(width=8)
CONFIG = DistillConfig(
    surgery=SurgeryConfig(), network=NETWORK, ipc=1, batch_real=10, iterations=3, checkpoint_every=3
)


def write_data(folder: Path, count: int, side: int) -> None:
    """A packed data set of random images, class after class, never as a whole in memory."""
    random = generator(0, "images")
    store = PixelStore(folder)
    store.begin({"source": "random"}, (3, side, side))
    names = [f"image {row}" for row in range(count)]
    for first in range(0, count, BATCH):
        keys = names[first : first + BATCH]
        size = (len(keys), 3, side, side)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
        store.append(keys, [()] * len(keys), pixels.numpy())
    cell = torch.arange(count) * (CLASSES * DOMAINS) // count
    data = DomainDataset(
        name="random",
        images=store.images(),
        labels=cell // DOMAINS,
        domains=cell % DOMAINS,
        is_test=torch.arange(count) % 5 == 0,
        class_names=tuple(f"class {label}" for label in range(CLASSES)),
        domain_names=tuple(f"domain {domain}" for domain in range(DOMAINS)),
        item_names=tuple(names),
    )
    write_packed(folder, data)


class Stages:
    """Seconds and peak memory of named stages."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        peak, done = [own_memory()], threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                peak[0] = max(peak[0], own_memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        began = time.perf_counter()
        try:
            yield
        finally:
            done.set()
            watcher.join()
        self.rows[name] = {"seconds": time.perf_counter() - began, "peak_gib": peak[0] / 2**30}
        print(f"{name:28} {self.rows[name]['seconds']:8.1f} s {self.rows[name]['peak_gib']:6.2f} GiB")


def own_memory() -> int:
    """Bytes of memory that are this process's alone: not those of files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssShmem"))


def from_packing_to_evaluation(folder: Path, count: int, side: int) -> dict[str, dict[str, float]]:
    stage = Stages()
    with stage("packing"):
        write_data(folder / "packed", count, side)
    with stage("reading"):
        sources, sources_test, target = load_dataset(folder / "packed").leave_out("domain 0")
    with stage("distilling"):
        distilled = distill(sources, CONFIG)
    with stage("pretraining, some steps"), interrupted_after(PRETRAINING_SECONDS):
        experts = PretrainConfig(experts=1, network=NetworkConfig(architecture="convnet", width=8))
        pretrain(sources, experts, folder / "experts")
    with stage("evaluating"):
        tests = {"target": target, "sources": sources_test}
        evaluate(distilled, tests, EvaluateConfig(runs=1, epochs=2, network=NETWORK))
    return stage.rows


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """For a pretraining, which must have done a step by then."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with contextlib.suppress(PretrainingInterrupted):
        yield
    timer.cancel()


class Iterations:
    """The iterations of a distillation of packed data."""

    def __init__(self, folder: Path) -> None:
        self.data = load_dataset(folder)
        self.settings = resolve_distillation(CONFIG, self.data)
        mean, std = torch.full((3,), 0.5), torch.full((3,), 0.3)
        assigned = assign_domains(self.data.counts(), self.settings.ipc)
        real = RealImages(self.data, mean, std, torch.device("cpu"))
        self.objective = build_objective(real, self.settings, assigned.flatten())
        self.tiles = initial_tiles(self.data, assigned, self.settings, mean, std)
        self.times: list[tuple[float, float]] = []

    def step(self) -> None:
        began = time.perf_counter(), time.process_time()
        self.objective.gradients(self.tiles, len(self.times), by_domain=True)
        self.times.append((time.perf_counter() - began[0], time.process_time() - began[1]))

    def row(self) -> dict[str, Any]:
        wall, cores = (1e3 * statistics.median(part[1:]) for part in zip(*self.times, strict=True))
        sizes = self.objective.real_batch(0).sizes
        return {"images": len(self.data), "batch": int(sizes.sum()), "milliseconds": wall, "of_cores": cores}


def iterations_at(folder: Path, counts: tuple[int, int], side: int, turns: int) -> list[dict[str, Any]]:
    for count in counts:
        write_data(folder / str(count), count, side)
    runs = [Iterations(folder / str(count)) for count in counts]
    for _ in range(turns + 1):  # the first is not counted
        for run in runs:
            run.step()
    for run in runs:
        print(run.row())
    return [run.row() for run in runs]


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder, deleted at the end")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=64, help="of an image in pixels")
    parser.add_argument("--most", type=int, default=600_000, help="images in the second part, of 32 px")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--part", choices=("iterations", "memory"), help="this one only; default: both")
    parser.add_argument("--json", type=Path, help="where the figures go, beside those of the other part")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    try:
        if options.part != "memory":
            counts = (options.most // 100, options.most)
            rows = iterations_at(options.folder / "iterations", counts, 32, options.turns)
            keep(options.json, {"iterations": rows})
        if options.part != "iterations":
            resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
            stages = from_packing_to_evaluation(options.folder, options.images, options.side)
            shape = {"images": options.images, "side": options.side, "limit_gib": LIMIT / 2**30}
            keep(options.json, {"memory": {**shape, "stages": stages}})
    finally:
        shutil.rmtree(options.folder)


def keep(path: Path | None, part: dict[str, Any]) -> None:
    """Writes `part` to the JSON file, which may hold the other."""
    if path is not None:
        before = json.loads(path.read_text()) if path.exists() else {}
        found = {**before, **environment(torch.device("cpu")), **part}
        write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
