"""Accuracy on an unseen domain: Random, MMD and CADM at the same budgets, mean and spread over seeds.

A few experts are trained on the source domains, once. The learning rate of the images is chosen by MMD's own
loss on the source domains, for all methods alike. Then each seed is a distillation and a training of its own.
"start" is what MMD and CADM start from: mosaics of shrunken real images.

Every part is kept in the run folder, and the table is written anew after each cell, so that a study stopped
at any moment goes on where it was: the same command again computes only what is missing.

    python bench/accuracy_cadm.py --data PACS --resolution 32 --target photo --width 16 --experts 2 \
        --expert-epochs 10 --expert-lr 0.05 --expert-batch 32 --expert-cutmix 0 --iterations 150 \
        --batch-real 16 --test-width 32 --epochs 500 --runs runs/pacs --out bench/results/cadm_pacs_photo.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import torch
from timing import commit, device_name, require_device

from dgdd_fast.analysis.channels import compare_channels
from dgdd_fast.config import (
    RECIPES,
    DistillConfig,
    EvaluateConfig,
    ExpertConfig,
    MaskConfig,
    NetworkConfig,
    PretrainConfig,
    to_dict,
    with_method,
)
from dgdd_fast.config.run import SET_NAME, SHEET_NAME
from dgdd_fast.data import DomainDataset, LeaveOneOut, load_dataset
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.distillation import Progress, distill
from dgdd_fast.evaluation import evaluate
from dgdd_fast.experts import ExpertPool
from dgdd_fast.experts.pretrain import PretrainProgress, pretrain
from dgdd_fast.files import write_atomically
from dgdd_fast.matching.registry import build_objective
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.synthetic.distilled_set import DistilledSet
from dgdd_fast.synthetic.mosaics import tiles

# "cadm-uniform" masks any channels, whatever the discriminators say.
METHODS = ("random", "start", "mmd", "cadm", "cadm-uniform", "mmd+sgs", "cadm+sgs")
PILOT_SEED, PILOT_DRAWS = 1000, range(100_000, 100_010)


def distill_config(method: str, ipc: int, seed: int, image_lr: float, options: Any) -> DistillConfig:
    """The settings of one distillation; the methods differ in objective and surgery only."""
    config = DistillConfig(
        experts=ExpertConfig(pool=str(options.runs / "experts")),
        ipc=ipc,
        iterations=options.iterations,
        image_lr=image_lr,
        batch_real=options.batch_real,
        checkpoint_every=25,
        seed=seed,
    )
    if method == "start":
        return dataclasses.replace(with_method(config, "random"), factor=2)
    if method == "cadm-uniform":
        return dataclasses.replace(with_method(config, "cadm"), masks=MaskConfig(score="uniform"))
    return with_method(config, method)


def evaluate_config(seed: int, options: Any) -> EvaluateConfig:
    """CADM's inherited protocol with fewer epochs, in a small ConvNet, after the last epoch."""
    network = NetworkConfig(width=options.test_width)
    return dataclasses.replace(RECIPES["ncfm"], runs=1, epochs=options.epochs, network=network, seed=seed)


def train_experts(sources: DomainDataset, options: Any) -> ExpertPool:
    """The experts, trained on the sources alone, or what an earlier call left of them."""
    network = NetworkConfig(architecture="resnet18", width=options.width)
    config = PretrainConfig(
        experts=options.experts,
        epochs=options.expert_epochs,
        learning_rate=options.expert_lr,
        batch_size=options.expert_batch,
        cutmix_probability=options.expert_cutmix,
        discriminators=options.expert_discriminators,
        network=network,
    )

    def tell(state: PretrainProgress) -> None:
        print(f"expert {state.expert}, epoch {state.epoch}: {state.measures}", flush=True)

    return pretrain(
        sources, config, options.runs / "experts", resume=True, device=options.device, progress=tell
    )


def pilot(sources: DomainDataset, options: Any) -> dict[str, float]:
    """MMD's loss on the sources, at draws that no run makes, after a run with each learning rate at the
    smallest budget. Nothing where there is one learning rate only."""
    if len(options.image_lrs) == 1:
        return {}
    path = options.runs / "pilot.json"
    found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    for image_lr in options.image_lrs:
        if f"{image_lr:g}" in found:
            continue
        config = distill_config("mmd", min(options.ipc), PILOT_SEED, image_lr, options)
        folder = options.runs / f"pilot-lr{image_lr:g}"
        distilled = distill(sources, config, run_folder=folder, resume=True, device=options.device)
        resolved = resolve_distillation(config, sources)
        device = torch.device(options.device)
        real = RealImages(sources, *sources.channel_statistics(), device)
        objective = build_objective(real, resolved, distilled.domains)
        images = tiles(distilled.images, distilled.factor).to(device)
        losses = [objective.gradients(images, draw, by_domain=False).losses.sum() for draw in PILOT_DRAWS]
        found[f"{image_lr:g}"] = float(torch.stack(losses).mean())
        print(f"pilot: image learning rate {image_lr:g}: loss {found[f'{image_lr:g}']:.4f}", flush=True)
        write_atomically(path, json.dumps(found).encode())
    return found


def run_cell(
    method: str, ipc: int, seed: int, parts: LeaveOneOut, image_lr: float, options: Any
) -> dict[str, float]:
    """Distils and evaluates one method with one seed, or reads what an earlier call left."""
    folder = options.runs / f"{method}-ipc{ipc}-seed{seed}"
    result_path = folder / "result.json"
    if result_path.exists():
        result: dict[str, float] = json.loads(result_path.read_text())
        return result
    set_path = folder / SET_NAME
    if not set_path.exists():

        def tell(progress: Progress) -> None:
            if progress.iteration % 25 == 0:
                print(f"{folder.name}: {progress.iteration}, {progress.terms}", flush=True)

        distilled = distill(
            parts.sources_train,
            distill_config(method, ipc, seed, image_lr, options),
            run_folder=folder,
            resume=True,
            device=options.device,
            target=options.target,
            progress=tell,
        )
        distilled.save(set_path)
        distilled.contact_sheet(folder / SHEET_NAME)
    evaluation = evaluate(
        DistilledSet.load(set_path),
        {"target": parts.target, "sources": parts.sources_test},
        evaluate_config(seed, options),
        device=options.device,
    )
    result = {name: evaluation.mean(name) for name in ("target", "sources")}
    write_atomically(result_path, json.dumps(result).encode())
    print(f"{folder.name}: {result}", flush=True)
    return result


def distilled_sets(ipc: int, options: Any) -> dict[str, DistilledSet]:
    """The sets of the first seed that were distilled in experts, with the one that they start from."""
    return {
        method: DistilledSet.load(options.runs / f"{method}-ipc{ipc}-seed0" / SET_NAME)
        for method in options.methods
        if method != "random"
    }


def table(cells: dict[int, dict[str, list[dict[str, float]]]]) -> dict[str, Any]:
    """Mean and spread over the seeds that are done, by budget, method and test set."""
    result: dict[str, Any] = {}
    for ipc, methods in cells.items():
        for method, results in methods.items():
            entry: dict[str, Any] = {}
            for name in ("target", "sources"):
                values = [found[name] for found in results]
                spread = statistics.stdev(values) if len(values) > 1 else None
                entry[name] = {"mean": statistics.fmean(values), "std": spread, "seeds": values}
            result.setdefault(str(ipc), {})[method] = entry
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="accuracy of Random, MMD and CADM on an unseen domain")
    parser.add_argument("--data", required=True, help="a folder of domains, or embedded-digits")
    parser.add_argument("--domains", nargs="+", help="the domains to use (default: all)")
    parser.add_argument("--title", help="what the table calls the data (default: their name)")
    parser.add_argument("--target", required=True, help="the domain that is held out")
    parser.add_argument("--resolution", type=int, help="side in pixels (default: that of the data)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS[:4])
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--image-lrs", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2, 3e-2])
    parser.add_argument("--batch-real", type=int, default=341, help="real images of each class and domain")
    parser.add_argument("--experts", type=int, default=20)
    parser.add_argument("--expert-epochs", type=int, default=60)
    parser.add_argument("--expert-lr", type=float, default=PretrainConfig.learning_rate)
    parser.add_argument("--expert-batch", type=int, default=PretrainConfig.batch_size)
    parser.add_argument("--expert-cutmix", type=float, default=PretrainConfig.cutmix_probability)
    parser.add_argument("--expert-discriminators", choices=("refitted", "joint"), default="refitted")
    parser.add_argument("--width", type=int, default=64, help="of the experts")
    parser.add_argument("--test-width", type=int, default=128, help="of the ConvNet that is tested")
    parser.add_argument("--epochs", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--runs", type=Path, required=True, help="folder for experts, checkpoints and sets")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the table")
    options = parser.parse_args()
    device = require_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    data = load_dataset(options.data, resolution=options.resolution, domains=options.domains)
    parts = data.leave_out(options.target)
    pool = train_experts(parts.sources_train, options)
    losses = pilot(parts.sources_train, options)
    image_lr = float(min(losses, key=lambda rate: losses[rate], default=options.image_lrs[0]))
    shown = resolve_distillation(
        distill_config("cadm", options.ipc[-1], 0, image_lr, options), parts.sources_train
    )
    assert shown.experts is not None
    shown = dataclasses.replace(shown, experts=dataclasses.replace(shown.experts, pool=None))
    cells: dict[int, dict[str, list[dict[str, float]]]] = {}
    for seed in range(options.seeds):
        for ipc in options.ipc:
            for method in options.methods:
                found = run_cell(method, ipc, seed, parts, image_lr, options)
                cells.setdefault(ipc, {}).setdefault(method, []).append(found)
                report = {
                    "date": date.today().isoformat(),
                    "device": device_name(device),
                    "commit": commit(),
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "title": options.title or data.name,
                    "target": options.target,
                    "sources": list(parts.sources_train.domain_names),
                    "resolution": list(data.resolution),
                    "experts": {"config": to_dict(pool.config), "log": pool.log},
                    "pilot": {"seed": PILOT_SEED, "method": "mmd", "losses": losses, "chosen": image_lr},
                    "distill": to_dict(shown),
                    "evaluate": to_dict(evaluate_config(0, options)),
                    "seeds": options.seeds,
                    "accuracy": table(cells),
                }
                write_atomically(options.out, (json.dumps(report, indent=1) + "\n").encode())
    report["channels"] = {}
    for ipc in options.ipc:
        found = compare_channels(pool, parts.sources_test, distilled_sets(ipc, options), MaskConfig())
        for stage in found["stages"]:
            del stage["scores"]  # thousands of numbers
        report["channels"][str(ipc)] = found
    write_atomically(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
