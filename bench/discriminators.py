"""How well the discriminators of CADM's experts classify domains, and what their masks do to the features.

For each seed one expert is trained on the sources, with the reversed gradient of the paper or another. Then,
on the sources' test images and for each stage: the domain accuracy of its discriminator as trained (joint)
and refitted; and that of a linear probe, fitted to half of the same features: from all channels, under the
masks of the refitted discriminators, and under uniform ones.

Further, on some training images, in the trained expert and between its two ends, for masks by score and
uniform ones at each stage: the domain difference, the squared distance of a domain's mean final features of
a class from the class's mean, without what chance adds, by its value without masks; the shift of the class's
mean itself, in that unit; and the noise, the variance of an image's features over its masks, in units of the
squared class mean. What masks add to the squared distance of two class means is their shift, and the noise
over the number of masks.

    python bench/discriminators.py --data PACS --resolution 32 --target photo --runs runs/pacs \
        --out bench/results/discriminators_pacs_photo.json
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
from timing import commit
from torch import Tensor

from dgdd_fast.analysis.channels import collect_features
from dgdd_fast.analysis.domain_probe import probe_accuracies
from dgdd_fast.config import MaskConfig, NetworkConfig, PretrainConfig, to_dict
from dgdd_fast.data import DomainDataset, load_dataset, normalise
from dgdd_fast.data.real_images import NormalisedImages, RealImages
from dgdd_fast.experts import Expert, ExpertPool
from dgdd_fast.experts.discriminators import refit_discriminators_
from dgdd_fast.experts.pretrain import pretrain
from dgdd_fast.files import write_atomically
from dgdd_fast.masking import draw_uniforms, mask
from dgdd_fast.seeds import generator

DRAWS = 4  # masks an image, for what masks do to the features
SCORES: tuple[Literal["gap", "uniform"], ...] = ("gap", "uniform")
ENDS = {"trained": 1.0, "between": 0.5}
DOMAIN_CLASSIFIERS = ("joint", "refitted", "probe", "probe_behind_masks", "probe_behind_uniform_masks")


def some(data: DomainDataset, count: int) -> DomainDataset:
    """At most `count` images of each class and domain, those that come first."""
    cells = data.labels * data.num_domains + data.domains
    rows = [(cells == cell).nonzero().flatten()[:count] for cell in cells.unique().tolist()]
    return data.select(torch.cat(rows).sort().values.tolist())


@torch.no_grad()
def knowledge(
    pool: ExpertPool, sources: DomainDataset, tested: DomainDataset
) -> tuple[Expert, dict[str, Any]]:
    """The pool's expert, trained, its discriminators refitted; and each domain classifier's accuracy in %."""
    expert = pool.new_expert()
    pool.fill_(expert, 0, 1.0)
    images = NormalisedImages(tested.images, pool.mean, pool.std)

    joint = copy.deepcopy(expert.discriminators)
    real = RealImages(sources, pool.mean, pool.std, torch.device("cpu"))
    refit_discriminators_(expert, real, pool.config, generator(pool.config.seed, "expert", 0, "refit"))
    features = collect_features(expert, images, tested.domains, MaskConfig(), 0)
    told = [
        [
            100 * float((discriminator(views[0]).argmax(1) == tested.domains).float().mean())
            for discriminator, views in zip(stages, features.views, strict=True)
        ]
        for stages in (joint, expert.discriminators)
    ]
    probed = zip(
        *(probe_accuracies(views[0], views, tested.domains) for views in features.views), strict=True
    )
    right = (expert.network.classifier(features.features).argmax(1) == tested.labels).float().mean()
    found = [*told, *map(list, probed)]
    return expert, {"class_accuracy": 100 * float(right), **dict(zip(DOMAIN_CLASSIFIERS, found, strict=True))}


@torch.no_grad()
def effects(expert: Expert, images: Tensor, data: DomainDataset) -> dict[str, dict[str, list[float]]]:
    """What masks do to the final features of the normalised `images` of `data`, by score and stage."""
    plain = _Means(_features(expert, images, data, 0, None)[None], data)
    result: dict[str, dict[str, list[float]]] = {}
    for stage in range(1, len(expert.network.channels) + 1):
        for score in SCORES:
            masked = _Means(_features(expert, images, data, stage, MaskConfig(score=score)), data)
            found = result.setdefault(score, {"difference": [], "shift": [], "noise": []})
            found["difference"].append(masked.difference / plain.difference)
            found["shift"].append(_squared(masked.classes - plain.classes) / plain.difference)
            found["noise"].append(masked.noise / _squared(plain.classes))
    return result


class _Means:
    """Of features [draws, N, F]: the classes' means [K, F], each domain counting alike; the domain difference
    and the noise of one draw."""

    def __init__(self, draws: Tensor, data: DomainDataset) -> None:
        draws = draws.double()
        images = draws.mean(0)
        cells = data.labels * data.num_domains + data.domains
        groups = [images[cells == cell] for cell in range(data.num_classes * data.num_domains)]
        means = torch.stack([group.mean(0) for group in groups])
        means = means.view(data.num_classes, data.num_domains, -1)
        self.classes = means.mean(1)
        self.noise = float(draws.var(0).sum(1).mean()) if len(draws) > 1 else 0.0
        # The variance of a cell's mean, by its images and their masks, is no difference between domains.
        own = torch.stack([group.var(0).sum() / len(group) for group in groups]).mean()
        share = 1 - 1 / data.num_domains
        self.difference = _squared(means - self.classes[:, None]) - share * float(own)


def _squared(vectors: Tensor) -> float:
    return float(vectors.square().sum(-1).mean())


def _features(
    expert: Expert, images: Tensor, data: DomainDataset, stage: int, config: MaskConfig | None
) -> Tensor:
    """[DRAWS, N, F] with masks after `stage`; [N, F] without."""
    network, parts = expert.network, []
    uniforms = [
        draw_uniforms(len(images), network.channels[stage - 1], 0, "effects", stage, draw)
        for draw in range(DRAWS)
    ]
    for rows in torch.split(torch.arange(len(images)), 128):
        maps = network.forward_to(images[rows], stage)
        if config is None:
            parts.append(network.forward_from(maps, stage))
            continue
        masked = (mask(maps, expert, stage, data.domains[rows], own[rows], config)[0] for own in uniforms)
        parts.append(torch.stack([network.forward_from(each, stage) for each in masked]))
    return torch.cat(parts, -2)


def summary(values: list[Any]) -> Any:
    """Mean and deviation over the seeds, of numbers wherever they lie in equal structures."""
    if isinstance(values[0], dict):
        return {name: summary([value[name] for value in values]) for name in values[0]}
    if isinstance(values[0], list):
        columns = [summary(list(column)) for column in zip(*values, strict=True)]
        return {name: [column[name] for column in columns] for name in columns[0]}
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": spread}


def main() -> None:
    parser = argparse.ArgumentParser(description="what CADM's discriminators know, and what their masks do")
    parser.add_argument("--data", required=True, help="a folder of domains, or embedded-digits")
    parser.add_argument("--domains", nargs="+", help="the domains to use (default: all)")
    parser.add_argument("--target", required=True, help="the domain that is held out")
    parser.add_argument("--resolution", type=int, help="side in pixels (default: that of the data)")
    parser.add_argument("--images", type=int, default=100, help="to train on, of each class and domain")
    parser.add_argument("--masked-images", type=int, default=12, help="to mask, of each class and domain")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--reversal", type=float, default=PretrainConfig.reversal_weight)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, required=True, help="folder for the experts")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args()
    parts = load_dataset(options.data, options.resolution, options.domains).leave_out(options.target)
    sources, tested = some(parts.sources_train, options.images), parts.sources_test
    shown = some(sources, options.masked_images)
    told, done = [], []
    for seed in range(options.seeds):
        config = PretrainConfig(
            experts=1,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            batch_size=options.batch,
            cutmix_probability=0.0,
            reversal_weight=options.reversal,
            discriminators="joint",
            network=NetworkConfig(architecture="resnet18", width=options.width),
            seed=seed,
        )
        pool = pretrain(sources, config, options.runs / f"seed{seed}", resume=True)
        expert, found = knowledge(pool, sources, tested)
        told.append(found)
        images = normalise(shown.images[:], pool.mean, pool.std)
        trained = [parameter.detach().clone() for parameter in expert.parameters()]
        initial = pool.new_expert()
        pool.fill_(initial, 0, 0.0)
        found = {}
        for end, share in ENDS.items():
            ends = zip(expert.parameters(), initial.parameters(), trained, strict=True)
            with torch.no_grad():
                for parameter, first, last in ends:
                    parameter.copy_(torch.lerp(first, last, share))
            found[end] = effects(expert, images, shown)
        done.append(found)
        report = {
            "date": date.today().isoformat(),
            "commit": commit(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "data": sources.name,
            "target": options.target,
            "images": {"train": len(sources), "masked": len(shown), "test": len(tested)},
            "largest_domain": 100 * float(tested.domains.bincount().max()) / len(tested),
            "pretrain": to_dict(pool.config),
            "seeds": seed + 1,
            "told": {"summary": summary(told), "by_seed": told},
            "effects": {"summary": summary(done), "by_seed": done},
        }
        write_atomically(options.out, (json.dumps(report, indent=1) + "\n").encode())
        print(json.dumps(report["told"]["summary"]), flush=True)


if __name__ == "__main__":
    main()
