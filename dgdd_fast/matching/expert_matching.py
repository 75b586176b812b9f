"""Matching and regularisation in pretrained networks: MMD, and with masks CADM."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import DistillConfig, ExpertConfig, MaskConfig, NetworkConfig
from ..data import DomainDataset
from ..data.augment import augment, draw_siamese
from ..experts import ExpertPool
from ..masking import draw_stage, draw_uniforms, mask
from ..seeds import generator
from ..synthetic.gradients import ImageGradients
from ..synthetic.mosaics import decode
from .feature_matching import Matching, chunk_rows


def resolve_experts(config: DistillConfig, sources: DomainDataset) -> DistillConfig:
    """The settings of "mmd" or "cadm" with those of experts and masks made explicit. Without the name of a
    pool the network stays as it is.

    Raises ValueError for settings that cannot work, and where the pool is missing or is not for `sources`.
    """
    experts = config.experts or ExpertConfig()
    masks = config.masks or MaskConfig()
    if config.objective == "mmd":
        if config.masks is not None:
            raise ValueError("masks are for cadm; mmd is cadm without them")
        terms = [experts.match, experts.regularise]
    else:
        for name in ("share", "activation_probability"):
            value = getattr(masks, name)
            if not 0 <= value <= 1:
                raise ValueError(f"masks.{name} must lie in [0, 1], got {value}")
        if masks.share == 1:
            raise ValueError("masks.share must be below 1, or no channel is left")
        if not 0 <= masks.consistency_weight < math.inf:
            raise ValueError(f"masks.consistency_weight must be 0 or more, got {masks.consistency_weight}")
        terms = [experts.match, experts.regularise, masks.consistency]
    if not any(terms):
        raise ValueError("experts.match and experts.regularise are both off: nothing is left to descend")
    if config.surgery is not None and not experts.match:
        raise ValueError("surgery acts on the domains' matching gradients: experts.match must be on")
    return dataclasses.replace(
        config,
        experts=experts,
        masks=masks if config.objective == "cadm" else None,
        network=config.network if experts.pool is None else _network_of(experts.pool, config, sources),
    )


def _network_of(folder: str, config: DistillConfig, sources: DomainDataset) -> NetworkConfig:
    """The network of the experts in `folder`, which must be for `sources`."""
    try:
        pool = ExpertPool.load(folder)
    except FileNotFoundError as error:
        raise ValueError(
            f"there are no experts in {folder}: train them with `dgdd pretrain --out {folder}`"
        ) from error
    pool.check(sources)
    if config.network not in (NetworkConfig(), pool.config.network):
        raise ValueError(
            f"{config.objective} compares features in its experts, which are {pool.config.network}; leave "
            f"`network` alone, got {config.network}"
        )
    return pool.config.network


def draw_expert(config: DistillConfig, experts: int, iteration: int) -> tuple[int, float]:
    """Which of the pool's experts an iteration compares features in, and how far along its training."""
    assert config.experts is not None
    random = generator(config.seed, "expert", iteration)
    index = int(torch.randint(experts, (), generator=random))
    share = float(torch.rand((), generator=random, dtype=torch.float64))
    return index, share if config.experts.interpolate else 1.0


class ExpertFeatures:
    """The `FeatureSpace` of MMD and CADM: the average-pooled features of an expert, for real images with some
    domain-sensitive channels of one stage masked (CADM, Eq. 7)."""

    def __init__(self, config: DistillConfig, pool: ExpertPool, device: torch.device) -> None:
        self.config = config
        self.pool = pool
        self.expert = pool.new_expert(device)
        self.network = self.expert.network

    def prepare(self, iteration: int, real_domains: Tensor) -> None:
        config, device = self.config, self.network.classifier.weight.device
        self.pool.fill_(self.expert, *draw_expert(config, len(self.pool), iteration))
        self.stage = None
        if config.masks is not None and config.masks.matching:
            stages = len(self.network.channels)
            self.stage = draw_stage(config.masks, stages, config.seed, "matching", iteration)
        if self.stage is not None:
            channels = self.network.channels[self.stage - 1]
            uniforms = draw_uniforms(len(real_domains), channels, config.seed, "matching", iteration)
            self.real_domains, self.uniforms = real_domains.to(device), uniforms.to(device)

    def synthetic(self, images: Tensor, rows: slice) -> Tensor:
        return self.network.features(images)

    def real(self, images: Tensor, rows: slice) -> Tensor:
        if self.stage is None:
            return self.network.features(images)
        assert self.config.masks is not None
        maps = self.network.forward_to(images, self.stage)
        domains, uniforms = self.real_domains[rows], self.uniforms[rows]
        masked, _ = mask(maps, self.expert, self.stage, domains, uniforms, self.config.masks)
        return self.network.forward_from(masked, self.stage)


class Regularisation:
    """What a trained expert says about the synthetic images: the cross entropy with their class and, with
    masks, how far apart two masked predictions are (CADM, Eq. 3, 8, 9, 12).

    An image's masks follow from the domain assigned to it. All passes share the stages up to the masked one.
    Where an iteration draws no masking there is one plain pass and no divergence. Means over images are taken
    class by class and summed over the classes, as the matching loss is, so that the weight of one against the
    other does not depend on the number of classes.
    """

    def __init__(self, config: DistillConfig, pool: ExpertPool, labels: Tensor, domain_index: Tensor) -> None:
        self.config = config
        self.pool = pool
        self.expert = pool.new_expert(labels.device)
        self.labels = labels
        self.domain_index = domain_index

    def gradients(self, images: Tensor, iteration: int) -> tuple[Tensor, Tensor]:
        """The losses [2], cross entropy and weighted divergence, and their gradient [N, 3, h, w] at `images`
        [N, 3, h, w], with the expert, masks and an augmentation of `iteration`."""
        config, network = self.config, self.expert.network
        assert config.factor is not None
        assert config.experts is not None
        index, _ = draw_expert(config, len(self.pool), iteration)
        self.pool.fill_(self.expert, index, 1.0)
        classes = len(self.pool.class_names)
        random = generator(config.seed, "augment regularisation", iteration)
        draw = draw_siamese(config.augment, self.pool.resolution, classes, random)
        stage, uniforms = self._draw_masks(len(images), iteration)
        losses = images.new_zeros(2)
        gradient = torch.zeros_like(images)
        if not config.experts.regularise and len(uniforms) < 2:
            return losses, gradient
        size = max(1, chunk_rows(network, config, graph=True) // max(1, len(uniforms)))
        for first in range(0, len(images), size):
            rows = slice(first, first + size)
            leaf = images[rows].detach().requires_grad_()
            decoded = augment(decode(leaf, config.factor), draw, self.labels[rows])
            maps = network.forward_to(decoded, stage)
            parts = self._losses(maps, stage, [copy[rows] for copy in uniforms], rows)
            parts = parts * (classes / len(images))
            (gradient[rows],) = torch.autograd.grad(parts.sum(), leaf)
            losses += parts.detach()
        return losses, gradient

    def _draw_masks(self, images: int, iteration: int) -> tuple[int, list[Tensor]]:
        """The stage, and uniform numbers for each of the masked copies: none, one or two."""
        masks, channels = self.config.masks, self.expert.network.channels
        stage = None
        if masks is not None and (masks.regularisation or masks.consistency):
            stage = draw_stage(masks, len(channels), self.config.seed, "regularisation", iteration)
        if masks is None or stage is None:
            return len(channels), []
        copies = 2 if masks.consistency else 1
        return stage, [
            draw_uniforms(
                images, channels[stage - 1], self.config.seed, "regularisation", iteration, copy
            ).to(self.labels.device)
            for copy in range(copies)
        ]

    def _losses(self, maps: Tensor, stage: int, uniforms: list[Tensor], rows: slice) -> Tensor:
        """The two losses [2], summed over the images `rows` whose maps after `stage` are given."""
        config, network = self.config, self.expert.network
        assert config.experts is not None
        labels, domains = self.labels[rows], self.domain_index[rows]
        entropy = divergence = maps.new_zeros(())
        masked = []
        if config.masks is not None:
            for numbers in uniforms:
                copy, _ = mask(maps, self.expert, stage, domains, numbers, config.masks)
                masked.append(network.classifier(network.forward_from(copy, stage)))
        if config.experts.regularise:
            judged = masked
            if config.masks is None or not config.masks.regularisation or not masked:
                judged = [network.classifier(network.forward_from(maps, stage))]
            entropies = [F.cross_entropy(logits, labels, reduction="sum") for logits in judged]
            entropy = torch.stack(entropies).mean()
        if config.masks is not None and len(masked) == 2:
            first, second = (F.log_softmax(logits, 1) for logits in masked)
            # half the sum of both directions, averaged over the classes
            apart = ((first.exp() - second.exp()) * (first - second)).mean(1).sum() / 2
            divergence = config.masks.consistency_weight * apart
        return torch.stack([entropy, divergence])


class ExpertMatching:
    """MMD (CADM, Eq. 2 and 3) and, with masks, CADM (Eq. 7, 11 and 12): matching and regularisation in one
    gradient.

    The matching loss is linear in the real features, so its union gradient is the mean of the domain
    gradients, weighted by their shares in the batch, masks or not. The regularisation knows no real images:
    its gradient is part of the union gradient alone.
    """

    terms: tuple[str, ...] = ("matching", "regularisation", "consistency")

    def __init__(
        self,
        sources: DomainDataset,
        config: DistillConfig,
        mean: Tensor,
        std: Tensor,
        domain_index: Tensor,
        device: torch.device,
    ) -> None:
        """`config` is resolved; `domain_index`, int64 [N], is the domain assigned to each synthetic image."""
        assert config.experts is not None
        if config.experts.pool is None:
            raise ValueError(
                f"{config.objective} compares features in networks trained on the source domains: train them "
                "with `dgdd pretrain`, then name their folder (--experts FOLDER, or experts.pool in the "
                "settings)"
            )
        pool = ExpertPool.load(config.experts.pool)
        self.config = config.experts
        self.matching = Matching(sources, config, mean, std, device, ExpertFeatures(config, pool, device))
        self.labels = self.matching.labels
        self.regularisation = Regularisation(config, pool, self.labels, domain_index.to(device))

    def gradients(self, images: Tensor, iteration: int, by_domain: bool) -> ImageGradients:
        """The gradients at `images` [N, 3, h, w] with the expert, augmentations, masks and real batch of
        `iteration`."""
        losses, union = self.regularisation.gradients(images, iteration)
        if not self.config.match:
            return ImageGradients(torch.cat([losses.new_zeros(1), losses]), union, None, None)
        matched = self.matching.gradients(images, iteration, by_domain)
        union += matched.of_union()
        return matched._replace(losses=torch.cat([matched.losses, losses]), union=union)
