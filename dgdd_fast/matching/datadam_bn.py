"""DataDAM with batch normalisation, as released: the images of a pass share its statistics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..config import DistillSettings, Precision
from ..data.augment import AugmentDraw, augment
from ..data.real_images import RealImages
from ..networks import build_staged_network
from ..parallel import all_threads
from ..precision import autocast
from ..synthetic.gradients import ImageGradients
from ..synthetic.mosaics import decode
from .batches import RealBatch, filled_cells
from .fresh_network import FreshNetwork, NetworkPlan
from .losses.attention import attention_vector
from .losses.mean import distribution_matching, group_means
from .objective import PlannedObjective


class AttentionPlan(NamedTuple):
    """What an iteration draws."""

    network: NetworkPlan
    augment: AugmentDraw
    batch: RealBatch


class BatchNormDataDAM(PlannedObjective):
    """Compares in one pass of all synthetic images and one pass of all real images of the iteration; for each
    domain, in a pass of its real images alone.

    As every image of a pass changes the others' features, neither can be computed in parts: an iteration
    needs memory for all its real images at once. Nor is the union gradient the mean of the domains'.
    """

    def __init__(self, real: RealImages, config: DistillSettings) -> None:
        super().__init__(real, config)
        network = build_staged_network(real.num_classes, real.resolution, config.network)
        self.fresh = FreshNetwork(network.to(real.device), config.seed)
        self.network = self.fresh.network

    def plan(self, iteration: int) -> AttentionPlan:
        batch = self.real_batch(iteration)
        return AttentionPlan(self.fresh.plan(iteration), self.augmentation(iteration), batch)

    def prepare(self, plan: AttentionPlan) -> None:
        self.fresh.fill(plan.network)

    def gradients_with(self, images: Tensor, plan: AttentionPlan, by_domain: bool) -> ImageGradients:
        """The gradients at `images` [N, 3, h, w]."""
        config, draw, batch = self.config, plan.augment, plan.batch
        real = self.real.augmented(batch.rows, draw, batch.labels)
        leaf = images.detach().requires_grad_()
        synthetic = self._means(
            augment(decode(leaf, config.factor), draw, self.labels), self.labels, "float32"
        )

        # The union first, then every domain.
        parts = [(real, batch.labels, batch.sizes.sum(1) > 0)]
        if by_domain:
            parts += [
                (
                    batch.of_domain(real, domain),
                    batch.of_domain(batch.labels, domain),
                    batch.sizes[:, domain] > 0,
                )
                for domain in range(self.real.num_domains)
            ]
        result = images.new_zeros(len(parts), *images.shape)
        losses = []
        for position, (part, classes, present) in enumerate(parts):
            with torch.no_grad():
                target = self._means(part, classes, config.precision)
            loss = (distribution_matching(synthetic, target) * present).sum()
            with all_threads():
                (result[position],) = torch.autograd.grad(loss, leaf, retain_graph=True)
            losses.append(loss.detach())
        if not by_domain:
            return ImageGradients(losses[0][None], result[0], None, None)
        valid = filled_cells(batch, self.labels)
        return ImageGradients(losses[0][None], result[0], result[1:], valid)

    def _means(self, images: Tensor, labels: Tensor, precision: Precision) -> Tensor:
        """[K, F], what is compared of each class, from one pass of all `images`."""
        with all_threads(), autocast(precision, images.device):
            activations, features = self.network.activations(images)
            vectors = attention_vector(activations[:-1], features, self.config.attention_power).float()
        return group_means(vectors, labels, self.real.num_classes)
