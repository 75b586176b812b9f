"""Gradient matching (DC with DSA) as an objective: in a freshly initialised network every iteration, the
weight gradients of synthetic images are compared with those of real ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..config import DistillSettings
from ..data.augment import AugmentDraw, augment
from ..data.real_images import RealImages
from ..networks import allow_second_derivatives, build_network
from ..parallel import each
from ..precision import autocast
from ..synthetic.gradients import ImageGradients
from ..synthetic.mosaics import decode
from .batches import RealBatch, chunk_rows, filled_cells
from .fresh_network import FreshNetwork, NetworkPlan
from .losses.gradient import gradient_distance, matched_weights, weight_gradients
from .objective import PlannedObjective


class GradientPlan(NamedTuple):
    """What an iteration draws."""

    network: NetworkPlan
    augment: AugmentDraw
    batch: RealBatch


class GradientMatching(PlannedObjective):
    """Compares class by class, as a class's weight gradients come from its images alone.

    A class's synthetic weight gradients, with their graph, are computed once; every domain and the union then
    take a vector-Jacobian product through it. The distance is not linear in the real gradients, so the union
    needs its own.
    """

    def __init__(self, real: RealImages, config: DistillSettings) -> None:
        super().__init__(real, config)
        network = build_network(real.num_classes, real.resolution, config.network)
        self.fresh = FreshNetwork(network.to(real.device), config.seed)
        self.network = self.fresh.network
        allow_second_derivatives(self.network)
        self.weights = matched_weights(self.network)
        for weight in self.weights:
            weight.requires_grad_()

    def take(self, classes: slice) -> None:
        self._take(classes)

    def plan(self, iteration: int) -> GradientPlan:
        batch = self.real_batch(iteration)
        return GradientPlan(self.fresh.plan(iteration), self.augmentation(iteration), batch)

    def prepare(self, plan: GradientPlan) -> None:
        self.fresh.fill(plan.network)

    def gradients_with(self, images: Tensor, plan: GradientPlan, by_domain: bool) -> ImageGradients:
        """The gradients at those of `images` [N, 3, h, w] that are `tiles`."""
        draw, batch = plan.augment, plan.batch
        layout = batch.layout
        classes, domains = layout.classes, layout.domains
        per_class = len(self.labels) // classes
        result = images.new_zeros(1 + domains if by_domain else 1, *images.shape)

        def add_class(label: int) -> Tensor:
            held = [domain for domain in range(domains) if layout.count(label, domain)]
            real = {
                domain: self._real(batch.rows[layout.rows(label, domain)], label, draw) for domain in held
            }
            share = {domain: layout.count(label, domain) / layout.count(label) for domain in held}
            union = [
                torch.stack([share[domain] * layers[index] for domain, layers in real.items()]).sum(0)
                for index in range(len(self.weights))
            ]
            part = slice(label * per_class, (label + 1) * per_class)
            leaf, synthetic = self._synthetic(images[part], label, draw)
            targets = {0: union}
            if by_domain:
                targets |= {1 + domain: layers for domain, layers in real.items()}
            for position, target in targets.items():
                distance = gradient_distance(synthetic, target)
                (result[position, part],) = torch.autograd.grad(distance, leaf, retain_graph=True)
                if position == 0:
                    loss = distance.detach()
            return loss

        losses = images.new_zeros(1, classes)
        losses[0, self.classes] = torch.stack(each(add_class, range(classes)[self.classes]))
        result = result[:, self.tiles]
        if not by_domain:
            return ImageGradients(losses, result[0], None, None)
        valid = filled_cells(batch, self.labels[self.tiles])
        return ImageGradients(losses, result[0], result[1:], valid)

    def _real(self, rows: Tensor, label: int, draw: AugmentDraw) -> list[Tensor]:
        """The weight gradients of some real images of a class."""
        totals = [torch.zeros_like(weight) for weight in self.weights]
        chunk = chunk_rows(self.network, self.config, graph=True)
        for part in torch.split(rows, chunk):
            labels = torch.full((len(part),), label, device=self.real.device)
            images = self.real.augmented(part, draw, labels)
            gradients = self._weight_gradients(images, labels, create_graph=False)
            for total, gradient in zip(totals, gradients, strict=True):
                total.add_(gradient, alpha=len(part) / len(rows))
        return totals

    def _synthetic(self, images: Tensor, label: int, draw: AugmentDraw) -> tuple[Tensor, list[Tensor]]:
        leaf = images.detach().requires_grad_()
        decoded = decode(leaf, self.config.factor)
        labels = torch.full((len(decoded),), label, device=decoded.device)
        return leaf, self._weight_gradients(augment(decoded, draw, labels), labels, create_graph=True)

    def _weight_gradients(self, images: Tensor, labels: Tensor, create_graph: bool) -> list[Tensor]:
        with autocast("float32" if create_graph else self.config.precision, images.device):
            logits = self.network(images)
        return list(weight_gradients(logits.float(), labels, self.weights, create_graph))
