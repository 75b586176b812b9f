"""Gradients of a matching objective with respect to the synthetic images: the union's (SGS, Eq. 4) and each
domain's (Eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import DistillSettings
from ..data.augment import AugmentDraw, augment
from ..data.real_images import RealImages
from ..parallel import each, one_by_one, slices
from ..precision import autocast
from ..synthetic.gradients import ImageGradients
from ..synthetic.mosaics import decode
from .batches import RealBatch, budget_rows, chunk_rows, filled_cells
from .comparison import Comparison, MeanComparison
from .feature_spaces import FeatureSpace, MixedAmplitudes, RandomNetwork
from .objective import Objective
from .real_means import RealMeans


class FeatureMatching(Objective):
    """Compares the synthetic with the real images of every class and domain at once.

    Exact shortcuts over the literal class-by-class, domain-by-domain form, all of them properties of features
    that treat each image by itself:

    * one batched real forward, in chunks and without autograd;
    * one synthetic forward whatever the number of domains, then a vector-Jacobian product a domain;
    * where the comparison is linear, the union gradient is the mean of the domain gradients, weighted by the
      domains' shares in the batch, and costs no backward pass of its own.
    """

    def __init__(
        self,
        real: RealImages,
        config: DistillSettings,
        space: FeatureSpace | None = None,
        comparison: Comparison | None = None,
    ) -> None:
        """`space` is where to compare, a random network unless given; `comparison` how, by means unless
        given."""
        super().__init__(real, config)
        space = RandomNetwork(real, config) if space is None else space
        self.space = MixedAmplitudes(space, real, len(self.labels), config) if config.fact else space
        self.comparison = MeanComparison() if comparison is None else comparison
        self.kept: RealMeans | None = None

    def share_real_means(self, kept: RealMeans) -> None:
        self.kept = kept

    def take(self, classes: slice) -> None:
        self._take(classes)

    def gradients(self, images: Tensor, iteration: int, by_domain: bool) -> ImageGradients:
        """The gradients at those of `images` [N, 3, h, w] that are `tiles`, with the features, augmentation
        and real batch of `iteration`.

        With some classes taken, every pass is still one that all classes together would take, whole: how many
        images a pass has may change the last bits of each. What of it is of other classes is left out.
        """
        config, space, comparison = self.config, self.space, self.comparison
        draw = self.augmentation(iteration)
        batch = self.real_batch(iteration)
        sizes = batch.sizes
        space.prepare(iteration, batch.domains)
        comparison.begin(sizes)
        self._add_real(batch, draw, iteration)

        chunks = [chunk for chunk in self.chunks() if self.reaches(chunk)]
        # The graphs of all chunks are kept where they fit the memory budget; else each is built a second time
        # for its backward.
        keep = len(images) <= budget_rows(space.network, config, graph=True)
        passes = each(lambda chunk: self.synthetic_pass(images, chunk, draw, graph=keep), chunks)
        features = self._whole([output.detach() for _, output in passes], chunks).requires_grad_()
        by_class = comparison.losses(features, self.labels)[self.classes]
        objectives = []
        if by_domain:
            objectives = [
                comparison.losses(features, self.labels, domain)[self.classes].sum()
                for domain in range(sizes.shape[1])
            ]
        if not (by_domain and comparison.linear):
            objectives.append(by_class.sum())
        cotangents = [torch.autograd.grad(value, features, retain_graph=True)[0] for value in objectives]
        result = images.new_empty(len(cotangents), *images.shape)

        def go_back(index: int) -> None:
            chunk = chunks[index]
            leaf, output = passes[index] if keep else self.synthetic_pass(images, chunk, draw, graph=True)
            for position, cotangent in enumerate(cotangents):
                last = position == len(cotangents) - 1
                (gradient,) = torch.autograd.grad(output, leaf, cotangent[chunk], retain_graph=not last)
                result[position, chunk] = gradient
            passes[index] = (leaf.detach(), output.detach())

        each(go_back, range(len(chunks)))
        losses = by_class.new_zeros(1, len(sizes))
        losses[0, self.classes] = by_class.detach()
        result, labels = result[:, self.tiles], self.labels[self.tiles]
        if not by_domain:
            return ImageGradients(losses, result[0], None, None)
        valid = filled_cells(sizes, labels)
        if not comparison.linear:
            return ImageGradients(losses, result[-1], result[:-1], valid)
        if bool((sizes == sizes[:1, :1]).all()):
            return ImageGradients(losses, None, result, None)
        weights = (sizes / sizes.sum(1, keepdim=True))[labels].T.to(result.dtype)
        union = (weights[:, :, None, None, None] * result).sum(0)
        return ImageGradients(losses, union, result, valid)

    def _whole(self, parts: list[Tensor], chunks: list[slice]) -> Tensor:
        """The features of all images, [N, F], 0 where no chunk has them."""
        if chunks[0].start == 0 and chunks[-1].stop == len(self.labels):
            return torch.cat(parts)
        features = parts[0].new_zeros(len(self.labels), parts[0].shape[1])
        features[chunks[0].start : chunks[-1].stop] = torch.cat(parts)
        return features

    def chunks(self) -> list[slice]:
        """The synthetic images in parts to be passed through the network with a graph."""
        return slices(len(self.labels), chunk_rows(self.space.network, self.config, graph=True))

    def synthetic_pass(
        self, images: Tensor, chunk: slice, draw: AugmentDraw, graph: bool
    ) -> tuple[Tensor, Tensor]:
        """A leaf with the images `chunk` and their features, with the graph between if asked for."""
        leaf = images[chunk].detach().requires_grad_(graph)
        with torch.set_grad_enabled(graph):
            decoded = augment(decode(leaf, self.config.factor), draw, self.labels[chunk])
            return leaf, self.space.synthetic(decoded, chunk)

    @torch.no_grad()
    def _add_real(self, batch: RealBatch, draw: AugmentDraw, iteration: int) -> None:
        """Hands the features of the real batch to the comparison, or what is known of them."""
        if self.kept is None or not isinstance(self.comparison, MeanComparison):
            self._real_features(batch, draw)
            return
        known = self.kept.read(iteration)
        if known is not None:
            self.comparison.sums = known.to(self.real.device)
            return
        self._real_features(batch, draw)
        self.kept.keep(iteration, self.comparison.sums)

    def _real_features(self, batch: RealBatch, draw: AugmentDraw) -> None:
        def features_of(part: slice) -> Tensor:
            images = self.real.augmented(batch.rows[part], draw, batch.labels[part])
            with autocast(self.config.precision, images.device):
                return self.space.real(images, part).float()

        parts = slices(len(batch.rows), chunk_rows(self.space.network, self.config, graph=False))
        if self.classes != slice(0, len(batch.sizes)):
            ends = [0, *batch.sizes.sum(1).cumsum(0).tolist()]
            first, end = ends[self.classes.start], ends[self.classes.stop]
            parts = [part for part in parts if part.start < end and first < part.stop]
        for part, features in zip(parts, one_by_one(features_of, parts), strict=True):
            self.comparison.add(features, batch.cells[part])
