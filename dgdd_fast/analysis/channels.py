"""Which channels of the experts are domain-sensitive: on real images, under CADM's masks, and on distilled
sets (CADM, Fig. 1b and 3b)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..config import MaskConfig
from ..data import DomainDataset
from ..data.real_images import NormalisedImages
from ..experts import Expert, ExpertPool
from ..experts.discriminators import rows_to_examine
from ..masking import draw_uniforms, mask
from ..networks import rows_per_chunk
from ..parallel import slices
from ..seeds import generator
from ..steps import counted
from ..synthetic.distilled_set import DistilledSet
from .domain_probe import halves, probe_accuracies

REAL = "real"  # what real images are called beside the sets of a comparison


class ExpertDiagnostics(NamedTuple):
    """How one expert classifies real images it was not trained on; shares in percent, one a stage.

    The domain is predicted from a stage's average-pooled channels: from all of them, from those that a mask
    of each image leaves, and, as a control, from those that a uniform random mask of the same share leaves. A
    mask is drawn for an image's own domain: accuracy under it may well be below chance.

    Attributes:
        accuracy: images of the right class.
        domain_accuracy, masked_domain_accuracy, uniform_domain_accuracy: images whose domain the stage's
            discriminator predicts correctly.
        probe_accuracy, masked_probe_accuracy, uniform_probe_accuracy: images whose domain a fresh linear
            classifier predicts correctly, fitted to all channels of half of the images and tested on the
            other half.
        masked_share: channels that the masks zeroed.
    """

    accuracy: float
    domain_accuracy: list[float]
    masked_domain_accuracy: list[float]
    uniform_domain_accuracy: list[float]
    probe_accuracy: list[float]
    masked_probe_accuracy: list[float]
    uniform_probe_accuracy: list[float]
    masked_share: list[float]


@torch.inference_mode()
def examine_experts(pool: ExpertPool, real: DomainDataset, masks: MaskConfig) -> list[ExpertDiagnostics]:
    """Every expert of the pool, trained, on the images `real`, best those that were held in, or on 30,000
    drawn from them.

    Raises ExpertPoolError where the classes, domains or resolution are not those of the pool, ValueError
    where there are not two images of each domain.
    """
    pool.check_names(real)
    real = real.select(rows_to_examine(len(real), generator(0, "report", "images")))
    halves(real.domains)  # refuses what no probe can be tested on before anything is computed
    images = NormalisedImages(real.images, pool.mean, pool.std)
    expert = pool.new_expert()
    result = []
    for index in counted("examining experts", range(len(pool))):
        pool.fill_(expert, index, 1.0)
        found = collect_features(expert, images, real.domains, masks, index)
        by_stage = []
        for views, kept, discriminator in zip(found.views, found.kept, expert.discriminators, strict=True):
            told = [_percent(discriminator(view).argmax(1) == real.domains) for view in views]
            probed = probe_accuracies(views[0], views, real.domains)
            by_stage.append([*told, *probed, _percent(kept == 0)])
        right = _percent(expert.network.classifier(found.features).argmax(1) == real.labels)
        result.append(ExpertDiagnostics(right, *map(list, zip(*by_stage, strict=True))))
    return result


class StageFeatures(NamedTuple):
    """`features` [N, F]; by stage the pooled channels [N, C] without, with and with uniform masks, and the
    masks [N, C] of the second."""

    features: Tensor
    views: list[list[Tensor]]
    kept: list[Tensor]


def collect_features(
    expert: Expert, images: Tensor | NormalisedImages, domains: Tensor, masks: MaskConfig, index: int
) -> StageFeatures:
    """The features and masks of normalised images [N, 3, H, W] of the domains int64 [N] in an
    expert; `index`, its place in the pool, seeds the masks."""
    network, control = expert.network, dataclasses.replace(masks, score="uniform")
    uniforms = [
        draw_uniforms(len(images), channels, 0, "report", index, stage)
        for stage, channels in enumerate(network.channels, start=1)
    ]
    size = rows_per_chunk(network, torch.device("cpu"))
    features, views, kept = [], [], []
    for rows in torch.split(torch.arange(len(images)), size):
        maps = network.forward_to(images[rows], 0)
        for stage, blocks in enumerate(network.stages, start=1):
            maps = blocks(maps)
            drawn = (domains[rows], uniforms[stage - 1][rows])
            masked, left = mask(maps, expert, stage, *drawn, masks)
            uniform_masked, _ = mask(maps, expert, stage, *drawn, control)
            views.append([seen.mean((2, 3)) for seen in (maps, masked, uniform_masked)])
            kept.append(left)
        features.append(network.forward_from(maps, len(network.channels)))
    # The parts of a stage, one from each chunk, lie as far apart as there are stages.
    stages = [slice(stage, None, len(network.channels)) for stage in range(len(network.channels))]
    return StageFeatures(
        torch.cat(features),
        [[torch.cat(parts) for parts in zip(*views[stage], strict=True)] for stage in stages],
        [torch.cat(kept[stage]) for stage in stages],
    )


def _percent(hits: Tensor) -> float:
    return 100 * float(hits.double().mean())


class Stability(NamedTuple):
    """How much the channels of a stage depend on the domain, over all experts.

    Attributes:
        scores: float32 [E, D, C], the mean activation score (CADM, Eq. 5) of each domain's images for their
            own domain.
        deviation: [E, C], the standard deviation of the scores over the domains.
    """

    scores: Tensor
    deviation: Tensor

    def unstable(self, threshold: Tensor) -> list[int]:
        """How many channels of each expert deviate by more than its `threshold` [E]."""
        return (self.deviation > threshold[:, None]).sum(1).tolist()


@torch.inference_mode()
def stability(pool: ExpertPool, images: Tensor | NormalisedImages, domains: Tensor, stage: int) -> Stability:
    """The channels' stability after `stage` on normalised images [N, 3, H, W] of the domains int64 [N].

    Raises ValueError where a domain has no image.
    """
    missing = set(range(len(pool.domain_names))) - set(domains.tolist())
    if missing:
        raise ValueError(f"no image of the domain {pool.domain_names[min(missing)]!r} to score")
    expert = pool.new_expert()
    member = torch.nn.functional.one_hot(domains, len(pool.domain_names)).float()
    scores = []
    for index in range(len(pool)):
        pool.fill_(expert, index, 1.0)
        scores.append((member / member.sum(0)).T @ _scores(expert, images, domains, stage))
    of_experts = torch.stack(scores)
    return Stability(of_experts, of_experts.std(1, correction=0))


def _scores(expert: Expert, images: Tensor | NormalisedImages, domains: Tensor, stage: int) -> Tensor:
    """The activation scores [N, C] of each image for its own domain."""
    weight: Tensor = expert.discriminator(stage).weight
    size = rows_per_chunk(expert.network, torch.device("cpu"))
    return torch.cat(
        [
            ops.channel_scores(expert.network.forward_to(images[part], stage), weight, domains[part])
            for part in slices(len(images), size)
        ]
    )


def compare_channels(
    pool: ExpertPool, real: DomainDataset, sets: dict[str, DistilledSet], masks: MaskConfig
) -> dict[str, Any]:
    """JSON values: the experts on `real`, and for each stage how many channels are unstable there and on the
    training images of each set. "scores" are those of the channels by domain, in the first expert (Fig. 3b):
    the channels of different experts have nothing to do with each other.

    The paper does not say from which deviation on a channel is unstable. Here it is the mean deviation of the
    expert's channels on the real images plus their standard deviation: the same threshold for all sets.

    Raises ValueError for a set of other domains than the experts'.
    """
    for name, distilled in sets.items():
        if distilled.domain_names != pool.domain_names:
            raise ValueError(
                f"{name} has the domains {', '.join(distilled.domain_names)}, and the experts score those of "
                f"{', '.join(pool.domain_names)}: leave it out, or take experts of its own sources"
            )
    stages = []
    normalised = NormalisedImages(real.images, pool.mean, pool.std)
    for stage in counted("scoring channels", range(1, len(pool.new_expert().network.channels) + 1)):
        reference = stability(pool, normalised, real.domains, stage)
        threshold = reference.deviation.mean(1) + reference.deviation.std(1)
        found = {REAL: reference}
        for name, distilled in sets.items():
            images, _, domains = distilled.training_images
            found[name] = stability(pool, images, domains, stage)
        stages.append(
            {
                "channels": reference.deviation.shape[1],
                "threshold": threshold.tolist(),
                "unstable": {name: each.unstable(threshold) for name, each in found.items()},
                "deviation": {name: each.deviation.mean(1).tolist() for name, each in found.items()},
                "scores": {
                    name: dict(zip(pool.domain_names, each.scores[0].tolist(), strict=True))
                    for name, each in found.items()
                },
            }
        )
    diagnostics = examine_experts(pool, real, masks)
    return {"experts": [part._asdict() for part in diagnostics], "stages": stages}
