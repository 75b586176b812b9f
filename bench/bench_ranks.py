"""Distillation shared by two ranks of one thread each, against one process of one thread.

    python bench/bench_ranks.py               # about a minute on two free cores
    python bench/bench_ranks.py --json FILE   # the same figures as data

Rounds of three: one process; two ranks of one run; two processes with a run each, which share nothing. These
last tell what the machine has to give: two cores of a virtual machine may be the halves of one.
`seconds` are the medians over the iterations of all rounds but each run's first; `cpu_seconds` the time of
a run's first process on its core, which a busy machine changes less. `speedup` is that of two ranks over one
process, `ceiling` twice that of one process among two over one alone, both by `seconds`; `share` what a rank
computes of one process's work, by `cpu_seconds`; `same_bits` whether the ranks made the same images.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from random_domains import random_domains
from timing import environment

from dgdd_fast import DistillConfig, SurgeryConfig, distill
from dgdd_fast.distillation import Progress
from dgdd_fast.files import write_atomically
from dgdd_fast.ranks import leads

CLASSES, DOMAINS, PER_CELL, SIDE = 10, 4, 60, 32
CONFIG = DistillConfig(surgery=SurgeryConfig(), ipc=10, batch_real=32, checkpoint_every=100)
RANKS = 2


def run(iterations: int) -> None:
    """What a measured process does; the first of its run writes the seconds of its iterations, and a digest
    of the images."""
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    seconds: list[float] = []
    on_core: list[float] = []

    def tell(state: Progress) -> None:
        seconds.append(state.seconds_per_iteration)
        on_core.append(time.process_time())

    made = distill(
        random_domains(CLASSES, DOMAINS, PER_CELL, SIDE),
        dataclasses.replace(CONFIG, iterations=iterations),
        progress=tell,
    )
    if leads():
        digest = hashlib.sha256(made.images.numpy().tobytes()).hexdigest()
        print(json.dumps({"seconds": seconds[1:], "cpu": list(differences(on_core)), "images": digest}))


def differences(times: list[float]) -> Iterator[float]:
    return (later - earlier for earlier, later in itertools.pairwise(times))


def begun(command: list[str], iterations: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command, __file__, "--measured", str(iterations)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a measured process ended with {process.returncode}")
    found: dict[str, Any] = json.loads(said)
    return found


def measured(rounds: int, iterations: int) -> dict[str, Any]:
    """The figures of the module's description."""
    seconds: dict[str, list[float]] = {"one process": [], "two ranks": [], "two runs": []}
    on_core: dict[str, list[float]] = {name: [] for name in seconds}
    images = set()
    for _ in range(rounds):
        for name, command, processes in (
            ("one process", [], 1),
            ("two ranks", ["-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)], 1),
            ("two runs", [], RANKS),
        ):
            for found in [ended(each) for each in [begun(command, iterations) for _ in range(processes)]]:
                seconds[name] += found["seconds"]
                on_core[name] += found["cpu"]
                images.add(found["images"])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    cpu = {name: statistics.median(values) for name, values in on_core.items()}
    return {
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "cpu_seconds": {name: round(value, 4) for name, value in cpu.items()},
        "speedup": round(medians["one process"] / medians["two ranks"], 2),
        "ceiling": round(RANKS * medians["one process"] / medians["two runs"], 2),
        "share": round(cpu["two ranks"] / cpu["one process"], 3),
        "same_bits": len(images) == 1,
        "iterations": len(seconds["one process"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=6, help="of each run")
    parser.add_argument("--json", type=Path, help="where the figures go")
    # How a measured process is called; "--run" would be taken for an option of torchrun's own.
    parser.add_argument("--measured", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured is not None:
        run(options.measured)
        return
    found = measured(options.rounds, options.iterations)
    print(json.dumps(found, indent=1))
    if options.json is not None:
        content = {"environment": environment(torch.device("cpu")), **found}
        write_atomically(options.json, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
