"""How much longer training on a distilled set takes with MixStyle, FACT or AdvFreq (SGS, Table 3).

    python bench/bench_generalize.py --json bench/results/generalize_cpu.json

Times `train_network` on as many images as a distilled set holds, in turns, so that whatever else the machine
does meets all methods alike. Only the ratios are of interest; random pixels take as long as others.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from pathlib import Path

import torch
from timing import Effort, environment, interleaved, require_device, wall_clock

from dgdd_fast.config import EvaluateConfig, NetworkConfig, to_dict
from dgdd_fast.files import write_atomically
from dgdd_fast.seeds import generator
from dgdd_fast.training import resolve_training, train_network

METHODS = ("none", "mixstyle", "fact", "advfreq")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--classes", type=int, default=7, help="as PACS has")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2, help="in one timed call")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", type=Path, help="keep the table here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = require_device(options.device)
    labels = torch.arange(options.classes).repeat_interleave(options.ipc)
    shape = (len(labels), 3, options.pixels, options.pixels)
    images = torch.randn(shape, generator=generator(0, "images"))
    config = EvaluateConfig(epochs=options.epochs, network=NetworkConfig(width=options.width))
    config = resolve_training(config, shape[2:], flip_safe=True)
    calls = {
        method: functools.partial(
            train_network,
            images,
            labels,
            options.classes,
            dataclasses.replace(config, generalize=method),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            device=device,
        )
        for method in METHODS
    }
    # An epoch ends with its loss on the host, so the host's clock is right on every device.
    times = interleaved(calls, Effort(options.turns, 0, 1e9), wall_clock)
    rows = []
    for method, time in times.items():
        ratio = time.median / times["none"].median
        epoch = {name: value / options.epochs for name, value in dataclasses.asdict(time).items()}
        rows.append({"method": method, "milliseconds_per_epoch": epoch, "ratio": ratio})
        print(f"{method:10} {epoch['median']:9.1f} ms an epoch   {ratio:.2f} x")
    if options.json is not None:
        table = {
            **environment(device),
            "threads": options.threads,
            "images": list(shape),
            "config": to_dict(config),
            "rows": rows,
        }
        write_atomically(options.json, (json.dumps(table, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
