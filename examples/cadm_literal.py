"""CADM as its paper reads: plain PyTorch in float64, one image and one mask at a time.

Read it beside the paper: `activation_scores` is Eq. 5, `masked_channels` Eq. 6, `matching_gradient` Eq. 2
and 7, `regularisation_gradient` Eq. 3, 8, 9 and 12; without masks both are MMD, its baseline. From the
package come the data, the experts (`dgdd_fast.pretrain`: Eq. 4 and 10) and the draws (expert, stage,
augmentation, real images), and none of its shortcuts: every image and every mask is a full pass of its own.
The tests hold the package to these gradients; as a script it trains two small experts and compares:

    python examples/cadm_literal.py --iterations 3
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dgdd_fast import (
    DistillConfig,
    DomainDataset,
    ExpertConfig,
    ExpertPool,
    MaskConfig,
    NetworkConfig,
    PretrainConfig,
    load_dataset,
    pretrain,
)
from dgdd_fast.config import DistillSettings
from dgdd_fast.data import normalise
from dgdd_fast.data.augment import augment, draw_siamese
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.experts import Expert
from dgdd_fast.masking import draw_stage, draw_uniforms
from dgdd_fast.matching.batches import real_batch
from dgdd_fast.matching.expert_matching import draw_expert
from dgdd_fast.matching.registry import build_objective
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.seeds import generator
from dgdd_fast.synthetic.initial import assign_domains, initial_tiles


def activation_scores(maps: Tensor, weight: Tensor, domain: int, per_pixel: bool) -> Tensor:
    """Eq. 5: the part that each channel of `maps` [C, h, w] has in what the discriminator, linear with
    `weight` [D, C], says for `domain`: [C]. With `per_pixel` scaled to [0, 1] over the channels at each pixel
    before the average."""
    parts = weight[domain][:, None, None] * maps
    if per_pixel:
        lowest, highest = parts.amin(0), parts.amax(0)
        parts = torch.where(highest > lowest, (parts - lowest) / (highest - lowest), 1.0)
    return parts.mean((1, 2))


def masked_channels(scores: Tensor, uniforms: Tensor, count: int) -> Tensor:
    """Eq. 6: `count` channels drawn without replacement, with weights that grow with the scores [C]: those
    with the largest keys r^(1 / s), s the scores scaled to [0, 1] and r the `uniforms` [C]."""
    span = scores.max() - scores.min()
    weights = (scores - scores.min()) / span if span > 0 else torch.ones_like(scores)
    # The logarithm of the key, which no small weight brings to 0; a weight of 0 comes last.
    keys = torch.where(weights > 0, uniforms.double().log() / weights, -torch.inf)
    return keys.argsort(descending=True, stable=True)[:count]


def features(
    expert: Expert, image: Tensor, stage: int | None, domain: int, uniforms: Tensor, masks: MaskConfig
) -> Tensor:
    """[1, F] of an image [3, H, W], with some channels after `stage` masked; None masks nothing."""
    if stage is None:
        return expert.network.features(image[None])
    maps = expert.network.forward_to(image[None], stage)
    weight = expert.discriminators[stage - 1].weight
    scores = activation_scores(maps[0].detach(), weight, domain, masks.score == "pixel")
    count = int(masks.share * len(scores))
    keep = torch.ones_like(scores)
    keep[masked_channels(scores, uniforms, count)] = 0
    scale = len(keep) / (len(keep) - count) if masks.rescale else 1.0
    return expert.network.forward_from(maps * keep[:, None, None] * scale, stage)


class Run:
    """A run between two iterations: its settings, data and synthetic tiles."""

    def __init__(self, sources: DomainDataset, config: DistillConfig) -> None:
        self.sources = sources
        self.config: DistillSettings = resolve_distillation(config, sources)
        assert self.config.experts is not None
        self.terms, self.masks = self.config.experts, self.config.masks
        self.pool = ExpertPool.load(self.terms.pool or "")
        self.mean, self.std = sources.channel_statistics()
        self.assigned = assign_domains(sources.counts(), self.config.ipc, self.config.factor)
        self.tiles = initial_tiles(sources, self.assigned, self.config, self.mean, self.std)

    def expert(self, iteration: int, trained: bool) -> Expert:
        """The iteration's expert in float64: between its beginning and its end, or `trained`."""
        index, share = draw_expert(self.config, len(self.pool), iteration)
        expert = self.pool.new_expert()
        self.pool.fill_(expert, index, 1.0 if trained else share)
        return expert.double()

    def augmented(self, images: Tensor, label: int, purpose: str, iteration: int) -> Tensor:
        """Images of one class under the augmentation drawn for it."""
        random = generator(self.config.seed, purpose, iteration)
        draw = draw_siamese(self.config.augment, self.sources.resolution, self.sources.num_classes, random)
        return augment(images, draw, torch.full((len(images),), label))

    def decoded(self, tiles: Tensor) -> Tensor:
        """Tiles enlarged to images (multi-formation, factor rho)."""
        return F.interpolate(
            tiles, scale_factor=float(self.config.factor), mode="bilinear", align_corners=False
        )


def matching_gradient(run: Run, iteration: int, domain: int | None = None) -> Tensor:
    """Eq. 2, with masks of the real images Eq. 7: the gradient at the tiles against all domains or one."""
    config, sources = run.config, run.sources
    expert = run.expert(iteration, trained=False)
    literal = config.union == "literal"
    rows, _ = real_batch(sources.cells(), config.batch_real, config.seed, iteration, literal)
    masks = run.masks if run.terms.matching == "masked" else None
    stage = None if masks is None else draw_stage(masks, 4, config.seed, "matching", iteration)
    channels = expert.network.channels[(stage or 1) - 1]
    draws = masks.draws if masks is not None and stage == len(expert.network.channels) else 1
    uniforms = draw_uniforms(len(rows) * draws, channels, config.seed, "matching", iteration)
    tiles = run.tiles.double().requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for label, own in enumerate(tiles.split(len(tiles) // sources.num_classes)):
        real = []
        for place, row in enumerate(rows.tolist()):
            of_domain = int(sources.domains[row])
            if sources.labels[row] == label and domain in (None, of_domain):
                image = normalise(sources.images[row][None], run.mean, run.std).double()
                image = run.augmented(image, label, "augment", iteration)[0]
                real += [
                    features(expert, image, stage, of_domain, numbers, masks or MaskConfig())
                    for numbers in uniforms[place * draws : (place + 1) * draws]
                ]
        if real:
            synthetic = expert.network.features(run.augmented(run.decoded(own), label, "augment", iteration))
            loss = loss + (torch.cat(real).mean(0) - synthetic.mean(0)).square().sum()
    return torch.autograd.grad(loss, tiles)[0]


def regularisation_gradient(run: Run, iteration: int) -> Tensor:
    """Eq. 3; with masks Eq. 8, and the consistency of two masked answers, Eq. 9, with its weight (Eq. 12)."""
    config, masks = run.config, run.masks
    expert = run.expert(iteration, trained=True)
    stage = None if masks is None else draw_stage(masks, 4, config.seed, "regularisation", iteration)
    channels = expert.network.channels[(stage or 1) - 1]
    uniforms = [
        draw_uniforms(len(run.tiles), channels, config.seed, "regularisation", iteration, copy)
        for copy in range(2)
    ]
    tiles = run.tiles.double().requires_grad_()
    size = len(tiles) // run.sources.num_classes
    loss = torch.zeros((), dtype=torch.float64)
    for label in range(run.sources.num_classes):
        places = range(label * size, (label + 1) * size)
        images = run.decoded(tiles[places.start : places.stop])
        images = run.augmented(images, label, "augment regularisation", iteration)
        targets = torch.full((size,), label)
        answers = []  # plain, then twice masked
        for at_stage, numbers in ((None, uniforms[0]), (stage, uniforms[0]), (stage, uniforms[1])):
            rows = [
                features(expert, image, at_stage, int(run.assigned.flatten()[place]), numbers[place],
                         masks or MaskConfig())
                for image, place in zip(images, places, strict=True)
            ]  # fmt: skip
            answers.append(expert.network.classifier(torch.cat(rows)))
        plain, first, second = answers
        if run.terms.regularisation != "off":
            predictions = [plain]
            if run.terms.regularisation == "masked":
                predictions = [first, second] if run.terms.consistency else [first]
            loss = loss + sum(F.cross_entropy(answer, targets) for answer in predictions) / len(predictions)
        if masks is not None and run.terms.consistency and stage is not None:
            p, q = F.log_softmax(first, 1), F.log_softmax(second, 1)
            both = [
                F.kl_div(one, other, reduction="none", log_target=True).mean()
                for one, other in ((p, q), (q, p))
            ]
            loss = loss + masks.consistency_weight * sum(both) / 2
    return torch.autograd.grad(loss, tiles)[0] if loss.requires_grad else torch.zeros_like(tiles)


def literal_gradient(run: Run, iteration: int) -> Tensor:
    """Eq. 11: the gradient of the whole loss at the tiles [N, 3, h, w]."""
    gradient = regularisation_gradient(run, iteration)
    return gradient + matching_gradient(run, iteration) if run.terms.matching != "off" else gradient


def main() -> None:
    parser = argparse.ArgumentParser(description="compare the package's gradients with the literal ones")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--batch-real", type=int, default=2)
    options = parser.parse_args()
    sources = load_dataset("embedded-digits", resolution=16).leave_out("street").sources_train
    with tempfile.TemporaryDirectory() as folder:
        network = NetworkConfig(architecture="resnet18", width=4)
        pretrain(sources, PretrainConfig(experts=2, epochs=1, network=network), Path(folder))
        for objective in ("mmd", "cadm"):
            experts = ExpertConfig(pool=folder)
            run = Run(
                sources, DistillConfig(objective, experts=experts, ipc=1, batch_real=options.batch_real)
            )
            real = RealImages(sources, run.mean, run.std, torch.device("cpu"))
            package = build_objective(real, run.config, run.assigned.flatten())
            for iteration in range(options.iterations):
                began = time.perf_counter()
                found = package.gradients(run.tiles, iteration, by_domain=False).union_gradient()
                middle = time.perf_counter()
                expected = literal_gradient(run, iteration)
                error = float((found - expected).norm() / expected.norm())
                print(
                    f"{objective}, iteration {iteration}: relative difference {error:.1e}; the package "
                    f"{middle - began:.3f} s, literal {time.perf_counter() - middle:.3f} s"
                )


if __name__ == "__main__":
    main()
