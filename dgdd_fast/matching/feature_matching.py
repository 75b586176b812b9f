"""Gradients of a matching objective with respect to the synthetic images: the union's (SGS, Eq. 4) and each
domain's (Eq. 6)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..config import DistillConfig
from ..data import DomainDataset, normalise
from ..data.augment import AugmentDraw, augment, draw_siamese
from ..networks import Network, bytes_per_image, rows_per_chunk
from ..precision import autocast
from ..seeds import generator
from ..synthetic.gradients import ImageGradients
from ..synthetic.initial import filled_cells, real_batch
from ..synthetic.mosaics import decode
from .comparison import comparison_of
from .feature_spaces import FeatureSpace, MixedAmplitudes, RandomAttention, RandomNetwork


class Objective(Protocol):
    """What the distillation loop descends: `Matching`, `BatchMatching`, `GradientMatching` or
    `ExpertMatching`.

    Attributes:
        labels: int64 [N], the class of each synthetic image.
        terms: the names of the L terms of the loss.
    """

    labels: Tensor
    terms: tuple[str, ...]

    def gradients(self, images: Tensor, iteration: int, by_domain: bool) -> ImageGradients:
        """The gradients at `images` [N, 3, h, w] with what `iteration` draws."""


class Matching:
    """Compares the synthetic with the real images of every class and domain at once.

    Exact shortcuts over the literal class-by-class, domain-by-domain form, all of them properties of features
    that treat each image by itself:

    * one batched real forward, in chunks and without autograd;
    * one synthetic forward whatever the number of domains, then a vector-Jacobian product a domain;
    * where the comparison is linear, the union gradient is the mean of the domain gradients, weighted by the
      domains' shares in the batch, and costs no backward pass of its own.
    """

    terms: tuple[str, ...] = ("matching",)

    def __init__(
        self,
        sources: DomainDataset,
        config: DistillConfig,
        mean: Tensor,
        std: Tensor,
        device: torch.device,
        space: FeatureSpace | None = None,
    ) -> None:
        """`config` is resolved; `space` is where to compare, a random network unless given."""
        self.config = config
        self.resolution = sources.resolution
        self.cells = sources.cells()
        self.num_domains = sources.num_domains
        self.domains = sources.domains
        self.pixels = sources.images.to(device)
        self.mean, self.std = mean.to(device), std.to(device)
        self.factor = config.factor or 1
        tiles_per_class = config.ipc * self.factor**2
        self.labels = torch.arange(sources.num_classes, device=device).repeat_interleave(tiles_per_class)
        if space is None:
            kind = RandomAttention if config.objective == "datadam" else RandomNetwork
            space = kind(sources, config, device)
        if config.fact:
            parts = (self.pixels, self.domains, len(self.labels), self.mean, self.std)
            space = MixedAmplitudes(space, *parts, config)
        self.space = space
        self.comparison = comparison_of(config)

    def gradients(self, images: Tensor, iteration: int, by_domain: bool) -> ImageGradients:
        """The gradients at `images` [N, 3, h, w] with the features, augmentation and real batch of
        `iteration`."""
        config, space, comparison = self.config, self.space, self.comparison
        draw = self.augmentation(iteration)
        assert config.batch_real is not None
        rows, sizes = real_batch(self.cells, config.batch_real, config.seed, iteration)
        sizes = sizes.to(images.device)
        space.prepare(iteration, self.domains[rows])
        comparison.begin(sizes)
        self._add_real(rows, sizes, draw)

        chunks = self.chunks()
        # The graphs of all chunks are kept where they fit the memory budget; else each is built a second time
        # for its backward.
        keep = len(images) <= budget_rows(space.network, config, graph=True)
        passes = [self.synthetic_pass(images, chunk, draw, graph=keep) for chunk in chunks]
        features = torch.cat([output.detach() for _, output in passes]).requires_grad_()
        loss = comparison.losses(features, self.labels).sum()
        objectives = []
        if by_domain:
            objectives = [
                comparison.losses(features, self.labels, domain).sum() for domain in range(sizes.shape[1])
            ]
        if not (by_domain and comparison.linear):
            objectives.append(loss)
        cotangents = [torch.autograd.grad(value, features, retain_graph=True)[0] for value in objectives]
        result = images.new_empty(len(cotangents), *images.shape)
        for index, chunk in enumerate(chunks):
            leaf, output = passes[index] if keep else self.synthetic_pass(images, chunk, draw, graph=True)
            for position, cotangent in enumerate(cotangents):
                last = position == len(cotangents) - 1
                (gradient,) = torch.autograd.grad(output, leaf, cotangent[chunk], retain_graph=not last)
                result[position, chunk] = gradient
            passes[index] = (leaf.detach(), output.detach())
        losses = loss.detach()[None]
        if not by_domain:
            return ImageGradients(losses, result[0], None, None)
        valid = filled_cells(sizes, self.labels)
        if not comparison.linear:
            return ImageGradients(losses, result[-1], result[:-1], valid)
        if bool((sizes == sizes[:1, :1]).all()):
            return ImageGradients(losses, None, result, None)
        weights = (sizes / sizes.sum(1, keepdim=True))[self.labels].T.to(result.dtype)
        union = (weights[:, :, None, None, None] * result).sum(0)
        return ImageGradients(losses, union, result, valid)

    def augmentation(self, iteration: int) -> AugmentDraw:
        """What befalls the images of each class in `iteration`."""
        random = generator(self.config.seed, "augment", iteration)
        return draw_siamese(self.config.augment, self.resolution, len(self.cells), random)

    def chunks(self) -> list[slice]:
        """The synthetic images in parts to be passed through the network with a graph."""
        count, size = len(self.labels), chunk_rows(self.space.network, self.config, graph=True)
        return [slice(first, min(first + size, count)) for first in range(0, count, size)]

    def synthetic_pass(
        self, images: Tensor, chunk: slice, draw: AugmentDraw, graph: bool
    ) -> tuple[Tensor, Tensor]:
        """A leaf with the images `chunk` and their features, with the graph between if asked for."""
        leaf = images[chunk].detach().requires_grad_(graph)
        with torch.set_grad_enabled(graph):
            decoded = augment(decode(leaf, self.factor), draw, self.labels[chunk])
            return leaf, self.space.synthetic(decoded, chunk)

    @torch.no_grad()
    def _add_real(self, rows: Tensor, sizes: Tensor, draw: AugmentDraw) -> None:
        """Hands the features of the real batch to the comparison."""
        rows = rows.to(self.pixels.device)
        cell_of_row = torch.arange(sizes.numel(), device=rows.device).repeat_interleave(sizes.flatten())
        size = chunk_rows(self.space.network, self.config, graph=False)
        for first_row in range(0, len(rows), size):
            batch = slice(first_row, first_row + size)
            cells = cell_of_row[batch]
            pixels = normalise(self.pixels[rows[batch]], self.mean, self.std)
            images = augment(pixels, draw, cells // sizes.shape[1])
            with autocast(self.config.precision, rows.device):
                features = self.space.real(images, batch).float()
            self.comparison.add(features, cells)


def budget_rows(network: Network, config: DistillConfig, graph: bool) -> int:
    """How many images' activations fit the memory budget, those that autograd keeps if `graph`."""
    return max(1, config.memory_budget_mib * 2**20 // bytes_per_image(network, graph))


def chunk_rows(network: Network, config: DistillConfig, graph: bool) -> int:
    """How many images a pass should take at once: within the budget, and no more than is fast."""
    device = network.classifier.weight.device
    return min(rows_per_chunk(network, device), budget_rows(network, config, graph))
