"""Time what a call of each operator costs before it computes anything: on empty tensors, without a sample.

    python bench/bench_overhead.py                # the CPU (a few seconds)
    python bench/bench_overhead.py --json FILE    # the same table as data

Beside each operator (`dgdd_fast`) stand the same on tensors made in inference mode, which autograd does not
see (`inference`), an operator with the same schema that does nothing (`no_op`: a Python function behind
PyTorch's dispatcher, which returns what is there already), and the specification in plain PyTorch
(`reference`), that on one sample of a few numbers, because torch.fft with MKL refuses empty tensors. They
take turns. Gradients are enabled, as they are where nothing is said, and no tensor requires one. Times are
microseconds of a call, the least and the median turn: whatever else the machine does only adds to them, so
the least is the one to compare.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from timing import Call, Effort, environment, launch_clock, require_device, turns_of, wall_clock

from dgdd_fast.files import write_atomically
from dgdd_fast.ops import reference

# Microseconds. Where nothing is said there is no goal.
GOALS = {"spectral_surgery": 12, "spectral_surgery_step_": 15, "mask_channels": 15}


def arguments_of(samples: int, device: torch.device) -> dict[str, tuple[Any, ...]]:
    """Operator -> arguments, for three domains and so many samples."""
    gradients = torch.ones(3, samples, 1, 4, 4, device=device)
    images, momentum_buffer = torch.zeros_like(gradients[0]), torch.zeros_like(gradients[0])
    features = torch.ones(samples, 4, 2, 2, device=device)
    weight = torch.ones(3, 4, device=device)
    scores, uniforms = (torch.full((samples, 4), 0.5, device=device) for _ in range(2))
    index = torch.zeros(samples, dtype=torch.int64, device=device)
    augmentation = torch.zeros(samples, 3, device=device)
    affine = torch.ones(2, 4, device=device)
    on_cpu = {
        "conv3x3": (features, features.new_ones(4, 4, 3, 3), None),
        "conv3x3_norm_relu_pool": (features, features.new_ones(4, 4, 3, 3), None, *affine, 1e-5, 2),
    }
    return {
        "spectral_consensus": (gradients,),
        "spectral_surgery": (gradients, None, index, 1.0, 0.3),
        "spectral_surgery_step_": (images, momentum_buffer, gradients, None, index, 1.0, 0.3, 0.1, 0.9),
        "channel_scores": (features, weight, index),
        "weighted_channel_mask": (scores, uniforms, 2),
        "mask_channels": (features, weight, index, uniforms, 2),
        "norm_relu_pool": (features, *affine, 1e-5, 2),
        "sample_augment": (images, None, index, augmentation, None, None, (1, 1), (1, 1)),
        **(on_cpu if device.type == "cpu" else {}),
    }


@dataclass(frozen=True)
class Microseconds:
    """Of one call."""

    least: float
    median: float


@dataclass(frozen=True)
class Row:
    operator: str
    arguments: int  # of the schema
    goal: float | None
    times: dict[str, Microseconds]  # provider -> time


def measure(name: str, device: torch.device, effort: Effort) -> Row:
    operator = getattr(torch.ops.dgdd, name).default
    empty = arguments_of(0, device)[name]
    result = operator(*empty)
    library = torch.library.Library("dgdd_bench", "FRAGMENT")
    library.define(str(operator._schema).removeprefix("dgdd::"))
    library.impl(name, lambda *arguments: result, "CompositeExplicitAutograd")
    with torch.inference_mode():
        unseen = arguments_of(0, device)[name]
    calls: Mapping[str, Call] = {
        "dgdd_fast": partial(operator, *empty),
        "inference": partial(operator, *unseen),
        "no_op": partial(getattr(torch.ops.dgdd_bench, name).default, *empty),
        "reference": partial(getattr(reference, name), *arguments_of(1, device)[name]),
    }
    clock = launch_clock if device.type == "cuda" else wall_clock
    times = {
        provider: Microseconds(1e3 * min(turns), 1e3 * median(turns))
        for provider, turns in turns_of(calls, effort, clock).items()
    }
    return Row(name, len(operator._schema.arguments), GOALS.get(name), times)


def line(row: Row) -> str:
    times = " ".join(f"{time.least:10.1f} {time.median:8.1f}" for time in row.times.values())
    goal = "" if row.goal is None else f"{row.goal:6.0f}"
    return f"{row.operator:24} {row.arguments:9} {times} {goal}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--turns", type=int, default=500, help="of half a millisecond, for each provider")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    options = parser.parse_args()
    device = require_device(options.device)
    facts = environment(device)
    print(*(f"{name}: {value}" for name, value in facts.items() if value), sep="\n")
    print(
        "\nmicroseconds of a call on empty tensors (reference: on one sample), the least and the median turn"
    )
    print(
        f"{'':24} {'arguments':>9} {'dgdd_fast':>19} {'inference':>19} {'no_op':>19} {'reference':>19}   goal"
    )
    effort = Effort(options.turns, turn_ms=0.5, row_ms=1e9)
    rows = []
    for name in arguments_of(0, device):
        rows.append(measure(name, device, effort))
        print(line(rows[-1]), flush=True)
    if options.json is not None:
        table = {**facts, "rows": [asdict(row) for row in rows]}
        write_atomically(options.json, (json.dumps(table, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
