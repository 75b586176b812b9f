"""Which channels of the experts tell the domains apart: on real images, under CADM's masks, and on distilled
sets (CADM, Fig. 1b and 3b)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..config import MaskConfig
from ..data import DomainDataset, normalise
from ..distilled_set import DistilledSet
from ..experts import Expert, ExpertPool
from ..masking import draw_uniforms, mask
from ..networks import rows_per_chunk


class ExpertSight(NamedTuple):
    """What one expert makes of real images it was not trained on; shares in percent, one a stage.

    Attributes:
        accuracy: images of the right class.
        domain_accuracy: images whose domain the stage's discriminator tells, from all channels.
        masked_domain_accuracy: the same from the channels that a mask of each image leaves.
        masked_share: channels that the masks zeroed.
    """

    accuracy: float
    domain_accuracy: list[float]
    masked_domain_accuracy: list[float]
    masked_share: list[float]


@torch.inference_mode()
def examine_experts(pool: ExpertPool, real: DomainDataset, masks: MaskConfig) -> list[ExpertSight]:
    """Every expert of the pool, trained, on the images `real`, best those that were held in.

    Raises ExpertPoolError where the classes, domains or resolution are not those of the pool.
    """
    pool.check_names(real)
    expert = pool.new_expert()
    result = []
    for index in range(len(pool)):
        pool.fill_(expert, index, 1.0)
        right = torch.zeros(())
        told, told_masked, zeroed = (torch.zeros(len(expert.network.channels)) for _ in range(3))
        size = rows_per_chunk(expert.network, torch.device("cpu"))
        for first in range(0, len(real), size):
            rows = slice(first, first + size)
            maps = expert.network.forward_to(normalise(real.images[rows], pool.mean, pool.std), 0)
            domains = real.domains[rows]
            for stage, blocks in enumerate(expert.network.stages, start=1):
                maps = blocks(maps)
                uniforms = draw_uniforms(*maps.shape[:2], 0, "report", index, stage, first)
                masked, kept = mask(maps, expert, stage, domains, uniforms, masks)
                discriminator = expert.discriminators[stage - 1]
                for counts, seen in ((told, maps), (told_masked, masked)):
                    counts[stage - 1] += (discriminator(seen.mean((2, 3))).argmax(1) == domains).sum()
                zeroed[stage - 1] += (kept == 0).float().mean(1).sum()
            features = expert.network.forward_from(maps, len(told))
            right += (expert.network.classifier(features).argmax(1) == real.labels[rows]).sum()
        shares = [(100 * counts / len(real)).tolist() for counts in (told, told_masked, zeroed)]
        result.append(ExpertSight(float(100 * right / len(real)), *shares))
    return result


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
def stability(pool: ExpertPool, images: Tensor, domains: Tensor, stage: int) -> Stability:
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


def _scores(expert: Expert, images: Tensor, domains: Tensor, stage: int) -> Tensor:
    """The activation scores [N, C] of each image for its own domain."""
    weight = expert.discriminators[stage - 1].weight
    assert isinstance(weight, Tensor)
    size = rows_per_chunk(expert.network, torch.device("cpu"))
    return torch.cat(
        [
            ops.channel_scores(expert.network.forward_to(part, stage), weight, own)
            for part, own in zip(torch.split(images, size), torch.split(domains, size), strict=True)
        ]
    )


def compare_channels(
    pool: ExpertPool, real: DomainDataset, sets: dict[str, DistilledSet], masks: MaskConfig
) -> dict[str, Any]:
    """JSON values: the experts on `real`, and for each stage how many channels are unstable there and on the
    training images of each set.

    The paper does not say from which deviation on a channel is unstable. Here it is the mean deviation of the
    expert's channels on the real images plus their standard deviation: the same threshold for all sets.
    """
    stages = []
    normalised = normalise(real.images, pool.mean, pool.std)
    for stage in range(1, len(pool.new_expert().network.channels) + 1):
        reference = stability(pool, normalised, real.domains, stage)
        threshold = reference.deviation.mean(1) + reference.deviation.std(1)
        found = {"real": reference}
        for name, distilled in sets.items():
            images, _, domains = distilled.training_images
            found[name] = stability(pool, images, domains, stage)
        stages.append(
            {
                "channels": reference.deviation.shape[1],
                "threshold": threshold.tolist(),
                "unstable": {name: each.unstable(threshold) for name, each in found.items()},
                "deviation": {name: each.deviation.mean(1).tolist() for name, each in found.items()},
            }
        )
    sights = examine_experts(pool, real, masks)
    return {"experts": [sight._asdict() for sight in sights], "stages": stages}
