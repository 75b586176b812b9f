"""Gradient matching (DC with DSA) as an objective: in a freshly initialised network every iteration, the
weight gradients of synthetic images are compared with those of real ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import DistillConfig
from ..data import DomainDataset, normalise
from ..data.augment import AugmentDraw, augment, draw_siamese
from ..networks import allow_second_derivatives, build_network, initialise
from ..precision import autocast
from ..seeds import generator
from ..synthetic.gradients import ImageGradients
from ..synthetic.initial import filled_cells, real_batch
from ..synthetic.mosaics import decode
from .feature_matching import chunk_rows
from .losses.gradient import gradient_distance, matched_weights, weight_gradients


class GradientMatching:
    """Compares class by class, as a class's weight gradients come from its images alone.

    A class's synthetic weight gradients, with their graph, are computed once; every domain and the union then
    take a vector-Jacobian product through it. The distance is not linear in the real gradients, so the union
    needs its own.
    """

    terms: tuple[str, ...] = ("matching",)

    def __init__(
        self, sources: DomainDataset, config: DistillConfig, mean: Tensor, std: Tensor, device: torch.device
    ) -> None:
        """`config` is resolved."""
        self.config = config
        self.resolution = sources.resolution
        self.cells = sources.cells()
        self.pixels = sources.images.to(device)
        self.mean, self.std = mean.to(device), std.to(device)
        self.factor = config.factor or 1
        self.tiles_per_class = config.ipc * self.factor**2
        self.labels = torch.arange(sources.num_classes, device=device).repeat_interleave(self.tiles_per_class)
        self.network = build_network(sources.num_classes, sources.resolution, config.network).to(device)
        allow_second_derivatives(self.network)
        self.network.requires_grad_(False)
        self.weights = matched_weights(self.network)
        for weight in self.weights:
            weight.requires_grad_()

    def gradients(self, images: Tensor, iteration: int, by_domain: bool) -> ImageGradients:
        """The gradients at `images` [N, 3, h, w] with the network, augmentation and real batch of
        `iteration`."""
        config = self.config
        initialise(self.network, generator(config.seed, "network", iteration))
        draw = draw_siamese(
            config.augment, self.resolution, len(self.cells), generator(config.seed, "augment", iteration)
        )
        assert config.batch_real is not None
        rows, sizes = real_batch(self.cells, config.batch_real, config.seed, iteration)
        domains = sizes.shape[1]
        batches = torch.split(rows, sizes.flatten().tolist())
        result = images.new_zeros(1 + domains if by_domain else 1, *images.shape)
        losses = []
        for label in range(len(self.cells)):
            own = batches[label * domains : (label + 1) * domains]
            real = {domain: self._real(batch, label, draw) for domain, batch in enumerate(own) if len(batch)}
            share = {domain: len(own[domain]) / int(sizes[label].sum()) for domain in real}
            union = [
                torch.stack([share[domain] * layers[index] for domain, layers in real.items()]).sum(0)
                for index in range(len(self.weights))
            ]
            part = slice(label * self.tiles_per_class, (label + 1) * self.tiles_per_class)
            leaf, synthetic = self._synthetic(images[part], label, draw)
            targets = {0: union}
            if by_domain:
                targets |= {1 + domain: layers for domain, layers in real.items()}
            for position, target in targets.items():
                distance = gradient_distance(synthetic, target)
                (result[position, part],) = torch.autograd.grad(distance, leaf, retain_graph=True)
                if position == 0:
                    losses.append(distance.detach())
        loss = torch.stack(losses).sum()[None]
        if not by_domain:
            return ImageGradients(loss, result[0], None, None)
        valid = filled_cells(sizes, self.labels)
        return ImageGradients(loss, result[0], result[1:], valid)

    def _real(self, rows: Tensor, label: int, draw: AugmentDraw) -> list[Tensor]:
        """The weight gradients of some real images of a class."""
        totals = [torch.zeros_like(weight) for weight in self.weights]
        chunk = chunk_rows(self.network, self.config, graph=True)
        for part in torch.split(rows.to(self.pixels.device), chunk):
            images = normalise(self.pixels[part], self.mean, self.std)
            gradients = self._weight_gradients(images, label, draw, create_graph=False)
            for total, gradient in zip(totals, gradients, strict=True):
                total.add_(gradient, alpha=len(part) / len(rows))
        return totals

    def _synthetic(self, images: Tensor, label: int, draw: AugmentDraw) -> tuple[Tensor, list[Tensor]]:
        leaf = images.detach().requires_grad_()
        return leaf, self._weight_gradients(decode(leaf, self.factor), label, draw, create_graph=True)

    def _weight_gradients(
        self, images: Tensor, label: int, draw: AugmentDraw, create_graph: bool
    ) -> list[Tensor]:
        labels = torch.full((len(images),), label, device=images.device)
        with autocast("float32" if create_graph else self.config.precision, images.device):
            logits = self.network(augment(images, draw, labels))
        return list(weight_gradients(logits.float(), labels, self.weights, create_graph))
