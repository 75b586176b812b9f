"""Matching and regularisation in pretrained networks: MMD, and with masks CADM."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import DistillSettings, ExpertSettings
from ..data.augment import AugmentDraw, augment, draw_siamese
from ..data.real_images import RealImages
from ..experts import ExpertPool
from ..masking import draw_stage, draw_uniforms, mask
from ..parallel import each, slices
from ..plans import Aside
from ..seeds import generator
from ..synthetic.gradients import ImageGradients
from ..synthetic.mosaics import decode
from .batches import RealBatch, chunk_rows
from .feature_matching import FeatureMatching, MatchingPlan
from .objective import PlannedObjective
from .real_means import RealMeans


def draw_expert(config: DistillSettings, experts: int, iteration: int) -> tuple[int, float]:
    """Which of the pool's experts an iteration compares features in, and how far along its training."""
    random = generator(config.seed, "expert", iteration)
    index = int(torch.randint(experts, (), generator=random))
    share = float(torch.rand((), generator=random, dtype=torch.float64))
    return index, share if _terms(config).interpolate else 1.0


def _terms(config: DistillSettings) -> ExpertSettings:
    if config.experts is None:
        raise ValueError(f"{config.objective} matches in experts, and their settings are missing")
    return config.experts


class ExpertPlan(NamedTuple):
    """The expert of an iteration and how far along its training; the stage whose channels are masked (None:
    none), and for the real images their domains [B] and the uniform numbers of their masks [B, draws, C]."""

    expert: Aside
    stage: int | None = None
    domains: Tensor | None = None
    uniforms: Tensor | None = None


class ExpertFeatures:
    """The `FeatureSpace` of MMD and CADM: the average-pooled features of an expert, for real images with some
    domain-sensitive channels of one stage masked (CADM, Eq. 7), averaged over the masks of an image."""

    def __init__(self, config: DistillSettings, pool: ExpertPool, device: torch.device) -> None:
        self.config = config
        self.masks = config.masks if _terms(config).matching == "masked" else None
        self.pool = pool
        self.expert = pool.new_expert(device)
        self.network = self.expert.network

    def plan(self, iteration: int, batch: RealBatch) -> ExpertPlan:
        config, stages = self.config, len(self.network.channels)
        plan = ExpertPlan(Aside(draw_expert(config, len(self.pool), iteration)))
        if self.masks is None:
            return plan
        stage = draw_stage(self.masks, stages, config.seed, "matching", iteration)
        if stage is None:
            return plan
        channels = self.network.channels[stage - 1]
        draws = self.masks.draws if stage == stages else 1
        uniforms = draw_uniforms(len(batch.cells) * draws, channels, config.seed, "matching", iteration)
        return ExpertPlan(plan.expert, stage, batch.domains, uniforms.view(-1, draws, channels))

    def prepare(self, plan: ExpertPlan) -> None:
        self.drawn = plan
        self.pool.fill_(self.expert, *plan.expert.value)

    def synthetic(self, images: Tensor, rows: slice) -> Tensor:
        return self.network.features(images)

    def real(self, images: Tensor, rows: slice) -> Tensor:
        _, stage, domains, uniforms = self.drawn
        if stage is None or domains is None or uniforms is None or self.masks is None:
            return self.network.features(images)
        maps = self.network.forward_to(images, stage)
        # one after another, so that they take no more memory than one
        features = [
            self.network.forward_from(
                mask(maps, self.expert, stage, domains[rows], numbers, self.masks)[0], stage
            )
            for numbers in uniforms[rows].unbind(1)
        ]
        return torch.stack(features).mean(0)


class RegularisationPlan(NamedTuple):
    """The expert and augmentation of an iteration, the stage whose channels are masked, and the uniform
    numbers [N, C] of each masked copy: none, one or two."""

    expert: Aside
    augment: AugmentDraw
    stage: int
    uniforms: list[Tensor]


class Regularisation:
    """How a trained expert classifies the synthetic images: the cross entropy with their class and, with
    masks, how far apart two masked predictions are (CADM, Eq. 3, 8, 9, 12).

    An image's masks follow from the domain assigned to it. All passes share the stages up to the masked one.
    Where an iteration draws no masking there is one plain pass and no divergence. Means over images are taken
    class by class and summed over the classes, as the matching loss is, so that the weight of one against the
    other does not depend on the number of classes.
    """

    def __init__(
        self, config: DistillSettings, pool: ExpertPool, labels: Tensor, domain_index: Tensor
    ) -> None:
        self.config = config
        self.terms = _terms(config)
        self.pool = pool
        self.expert = pool.new_expert(labels.device)
        self.labels = labels
        self.domain_index = domain_index

    def plan(self, iteration: int) -> RegularisationPlan:
        config = self.config
        index, _ = draw_expert(config, len(self.pool), iteration)
        random = generator(config.seed, "augment regularisation", iteration)
        draw = draw_siamese(config.augment, self.pool.resolution, len(self.pool.class_names), random)
        return RegularisationPlan(Aside(index), draw, *self._draw_masks(len(self.labels), iteration))

    def prepare(self, plan: RegularisationPlan) -> None:
        self.pool.fill_(self.expert, plan.expert.value, 1.0)

    def gradients(
        self, images: Tensor, plan: RegularisationPlan, reaches: Callable[[slice], bool] = lambda part: True
    ) -> tuple[Tensor, Tensor]:
        """The losses [2, K] of each class, cross entropy and weighted divergence, and their gradient [N, 3,
        h, w] at `images` [N, 3, h, w].

        0 where the part that an image is in is not needed, as `reaches` says of its rows."""
        config, network = self.config, self.expert.network
        _, draw, stage, uniforms = plan
        classes = len(self.pool.class_names)
        gradient = torch.zeros_like(images)
        if self.terms.regularisation == "off" and len(uniforms) < 2:
            return images.new_zeros(2, classes), gradient
        losses = images.new_zeros(len(images), 2)
        size = max(1, chunk_rows(network, config, graph=True) // max(1, len(uniforms)))

        def add(rows: slice) -> None:
            leaf = images[rows].detach().requires_grad_()
            decoded = augment(decode(leaf, config.factor), draw, self.labels[rows])
            maps = network.forward_to(decoded, stage)
            parts = self._losses(maps, stage, [copy[rows] for copy in uniforms], rows)
            parts = parts * (classes / len(images))
            (gradient[rows],) = torch.autograd.grad(parts.sum(), leaf)
            losses[rows] = parts.detach()

        each(add, [rows for rows in slices(len(images), size) if reaches(rows)])
        return losses.view(classes, -1, 2).sum(1).T, gradient

    def _draw_masks(self, images: int, iteration: int) -> tuple[int, list[Tensor]]:
        """The stage, and uniform numbers for each of the masked copies: none, one or two."""
        masks, channels = self.config.masks, self.expert.network.channels
        copies = 2 if self.terms.consistency else int(self.terms.regularisation == "masked")
        stage = None
        if masks is not None and copies:
            stage = draw_stage(masks, len(channels), self.config.seed, "regularisation", iteration)
        if stage is None:
            return len(channels), []
        return stage, [
            draw_uniforms(images, channels[stage - 1], self.config.seed, "regularisation", iteration, copy)
            for copy in range(copies)
        ]

    def _losses(self, maps: Tensor, stage: int, uniforms: list[Tensor], rows: slice) -> Tensor:
        """The two losses [n, 2] of each of the images `rows`, whose maps after `stage` are given."""
        config, network = self.config, self.expert.network
        labels, domains = self.labels[rows], self.domain_index[rows]
        entropy = divergence = maps.new_zeros(len(maps))
        masked = []
        if config.masks is not None:
            for numbers in uniforms:
                copy, _ = mask(maps, self.expert, stage, domains, numbers, config.masks)
                masked.append(network.classifier(network.forward_from(copy, stage)))
        if self.terms.regularisation != "off":
            predictions = masked
            if self.terms.regularisation == "plain" or not masked:
                predictions = [network.classifier(network.forward_from(maps, stage))]
            entropies = [F.cross_entropy(logits, labels, reduction="none") for logits in predictions]
            entropy = torch.stack(entropies).mean(0)
        if config.masks is not None and len(masked) == 2:
            first, second = (F.log_softmax(logits, 1) for logits in masked)
            # half the sum of both directions, averaged over the classes
            apart = ((first.exp() - second.exp()) * (first - second)).mean(1) / 2
            divergence = config.masks.consistency_weight * apart
        return torch.stack([entropy, divergence], 1)


class ExpertMatchingPlan(NamedTuple):
    """Of the regularisation, and of the matching (None: there is none)."""

    regularisation: RegularisationPlan
    matching: MatchingPlan | None


class ExpertMatching(PlannedObjective):
    """MMD (CADM, Eq. 2 and 3) and, with masks, CADM (Eq. 7, 11 and 12): matching and regularisation in one
    gradient.

    The matching loss is linear in the real features, so its union gradient is the mean of the domain
    gradients, weighted by their shares in the batch, masks or not. The regularisation knows no real images:
    its gradient is part of the union gradient alone.
    """

    terms: tuple[str, ...] = ("matching", "regularisation", "consistency")

    def __init__(self, real: RealImages, config: DistillSettings, domain_index: Tensor) -> None:
        """`domain_index`, int64 [N], is the domain assigned to each synthetic image."""
        super().__init__(real, config)
        experts = _terms(config)
        if experts.pool is None:
            raise ValueError(
                f"{config.objective} compares features in networks trained on the source domains: train them "
                "with `dgdd pretrain`, then name their folder (--experts FOLDER, or experts.pool in the "
                "settings)"
            )
        pool = ExpertPool.load(experts.pool)
        self.matches = experts.matching != "off"
        self.regularises = experts.regularisation != "off" or experts.consistency
        self.matching = FeatureMatching(real, config, ExpertFeatures(config, pool, real.device))
        self.regularisation = Regularisation(config, pool, self.labels, domain_index.to(real.device))

    def share_real_means(self, kept: RealMeans) -> None:
        self.matching.share_real_means(kept)

    def take(self, classes: slice) -> None:
        self._take(classes)
        self.matching.take(classes)

    def plan(self, iteration: int) -> ExpertMatchingPlan:
        """The expert, augmentations, masks and real batch of `iteration`."""
        matching = self.matching.plan(iteration) if self.matches else None
        return ExpertMatchingPlan(self.regularisation.plan(iteration), matching)

    def prepare(self, plan: ExpertMatchingPlan) -> None:
        self.regularisation.prepare(plan.regularisation)
        if plan.matching is not None:
            self.matching.prepare(plan.matching)

    def gradients_with(self, images: Tensor, plan: ExpertMatchingPlan, by_domain: bool) -> ImageGradients:
        """The gradients at those of `images` [N, 3, h, w] that are `tiles`."""
        losses, apart = self.regularisation.gradients(images, plan.regularisation, self.reaches)
        others = torch.ones(losses.shape[1], dtype=torch.bool, device=losses.device)
        others[self.classes] = False
        losses = losses.masked_fill(others, 0)  # a part may hold images of other classes
        apart = apart[self.tiles]
        if plan.matching is None:
            return ImageGradients(torch.cat([torch.zeros_like(losses[:1]), losses]), apart, None, None)
        matched = self.matching.gradients_with(images, plan.matching, by_domain)
        return matched._replace(
            losses=torch.cat([matched.losses, losses]),
            union=matched.union_gradient() + apart,
            apart=apart if self.regularises else None,
        )
