"""Accuracy on an unseen domain: Random, DM and DM+SGS at the same budget, mean and spread over seeds.

Each seed is a distillation and a training of its own. Every part is kept in the run folder, so that a study
stopped by Ctrl-C or SIGTERM goes on where it was: the same command again computes only what is missing.

    python bench/accuracy.py --data DIGITS --target mnist --domains mnist mnist_m svhn_small chars74k_fnt \
        --width 64 --iterations 800 --batch-real 32 --runs runs/digits \
        --out bench/results/accuracy_digits_mnist.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import statistics
from datetime import date
from pathlib import Path

import torch
from readme_tables import mean_and_spread
from timing import commit, device_name, require_device

from dgdd_fast.config import DistillConfig, EvaluateConfig, NetworkConfig, SurgeryConfig, to_dict, with_method
from dgdd_fast.config.run import SET_NAME, SHEET_NAME
from dgdd_fast.data import DomainDataset, load_dataset
from dgdd_fast.distillation import Progress, distill
from dgdd_fast.evaluation import evaluate
from dgdd_fast.files import write_atomically
from dgdd_fast.synthetic.distilled_set import DistilledSet

METHODS = ("random", "dm", "dm+sgs")


def distill_config(method: str, seed: int, options: argparse.Namespace) -> DistillConfig:
    """The settings of one distillation; the three methods differ in objective and surgery only."""
    config = DistillConfig(
        ipc=options.ipc,
        iterations=options.iterations,
        image_lr=options.image_lr,
        batch_real=options.batch_real,
        network=NetworkConfig(width=options.width),
        seed=seed,
    )
    return with_method(
        dataclasses.replace(config, surgery=SurgeryConfig(options.alpha, options.beta)), method
    )


def run_cell(
    method: str, seed: int, data: DomainDataset, device: torch.device, options: argparse.Namespace
) -> dict[str, float]:
    """Distils and evaluates one method with one seed, or reads what an earlier call left."""
    parts = data.leave_out(options.target)
    folder = options.runs / f"{options.target}-{method}-seed{seed}"
    result_path = folder / "result.json"
    if result_path.exists():
        return json.loads(result_path.read_text())
    set_path = folder / SET_NAME
    if not set_path.exists():

        def tell(progress: Progress) -> None:
            if progress.iteration % 50 == 0:
                print(f"{folder.name}: {progress.iteration}, loss {progress.loss:.3f}", flush=True)

        distilled = distill(
            parts.sources_train,
            distill_config(method, seed, options),
            run_folder=folder,
            resume=True,
            device=device,
            target=options.target,
            progress=tell,
        )
        distilled.save(set_path)
        distilled.contact_sheet(folder / SHEET_NAME)
    distilled = DistilledSet.load(set_path)
    evaluation = evaluate(
        distilled,
        {"target": parts.target, "sources": parts.sources_test},
        EvaluateConfig(runs=1, epochs=options.epochs, network=NetworkConfig(width=options.width), seed=seed),
        device=device,
    )
    result = {name: evaluation.mean(name) for name in ("target", "sources")}
    write_atomically(result_path, json.dumps(result).encode())
    print(f"{folder.name}: {result}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="accuracy of Random, DM and DM+SGS on an unseen domain")
    parser.add_argument("--data", required=True, help="a folder of domains, or embedded-digits")
    parser.add_argument("--domains", nargs="+", help="the domains to use (default: all)")
    parser.add_argument("--title", help="what the table calls the data (default: their name)")
    parser.add_argument("--target", required=True, help="the domain that is held out")
    parser.add_argument("--resolution", type=int, help="side in pixels (default: that of the data)")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--image-lr", type=float, default=1.0)
    parser.add_argument("--batch-real", type=int, default=256, help="real images of each class and domain")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--alpha", type=float, default=SurgeryConfig.alpha)
    parser.add_argument("--beta", type=float, default=SurgeryConfig.beta)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--runs", type=Path, required=True, help="folder for checkpoints and sets")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the table")
    options = parser.parse_args()
    device = require_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    data = load_dataset(options.data, resolution=options.resolution, domains=options.domains)
    cells: dict[str, list[dict]] = {method: [] for method in METHODS}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for seed in range(options.seeds):
            for method in METHODS:
                cells[method].append(run_cell(method, seed, data, device, options))
    except KeyboardInterrupt:
        done = sum(map(len, cells.values()))
        raise SystemExit(
            f"stopped with {done} of {options.seeds * len(METHODS)} distillations and trainings done; the "
            "same command goes on"
        ) from None
    table: dict[str, dict[str, dict]] = {}
    for method, results in cells.items():
        table[method] = {}
        for name in ("target", "sources"):
            values = [result[name] for result in results]
            spread = statistics.stdev(values) if len(values) > 1 else None
            table[method][name] = {"mean": statistics.mean(values), "std": spread, "seeds": values}
            print(f"{method:7s} {name:7s} {mean_and_spread(table[method][name])}")
    evaluation = EvaluateConfig(runs=1, epochs=options.epochs, network=NetworkConfig(width=options.width))
    report = {
        "date": date.today().isoformat(),
        "device": device_name(device),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "title": options.title or data.name,
        "target": options.target,
        "sources": list(data.leave_out(options.target).sources_train.domain_names),
        "resolution": list(data.resolution),
        "distill": to_dict(distill_config("dm+sgs", 0, options)),
        "evaluate": to_dict(evaluation),
        "seeds": options.seeds,
        "accuracy": table,
    }
    write_atomically(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
