"""Gradients of a matching objective with respect to the synthetic images: the union's (SGS, Eq. 4) and each
domain's (Eq. 6)."""

from __future__ import annotations

from typing import Any, NamedTuple

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
from .objective import PlannedObjective
from .real_means import RealMeans


class MatchingPlan(NamedTuple):
    """What an iteration compares, and how.

    Attributes:
        space: of the feature space.
        known: the sums of the real features, where an earlier run kept them; then they are not computed.
        iteration: its number, where its sums are to be kept.
    """

    augment: AugmentDraw
    batch: RealBatch
    space: Any
    known: Tensor | None = None
    iteration: int | None = None


class FeatureMatching(PlannedObjective):
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

    def plan(self, iteration: int) -> MatchingPlan:
        """The features, augmentation and real batch of `iteration`."""
        batch = self.real_batch(iteration)
        plan = MatchingPlan(self.augmentation(iteration), batch, self.space.plan(iteration, batch))
        if self.kept is None or not isinstance(self.comparison, MeanComparison):
            return plan
        known = self.kept.read(iteration)
        return plan._replace(known=known, iteration=iteration if known is None else None)

    def prepare(self, plan: MatchingPlan) -> None:
        self.space.prepare(plan.space)

    def gradients_with(self, images: Tensor, plan: MatchingPlan, by_domain: bool) -> ImageGradients:
        """The gradients at those of `images` [N, 3, h, w] that are `tiles`.

        With some classes taken, every pass is still one that all classes together would take, whole: how many
        images a pass has may change the last bits of each. What of it is of other classes is left out.

        Against the domains there is a backward pass each, one after another: they need the memory of one, and
        what the launches cost the host is gone where the iteration is a captured graph.
        """
        config, space, comparison = self.config, self.space, self.comparison
        draw, batch = plan.augment, plan.batch
        sizes = batch.sizes
        self._add_real(plan)

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
        cotangents = [_gradient(value, features) for value in objectives]
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
        valid = filled_cells(batch, labels)
        if not comparison.linear:
            return ImageGradients(losses, result[-1], result[:-1], valid)
        if batch.layout.even:
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
    def _add_real(self, plan: MatchingPlan) -> None:
        """Hands the features of the real batch to the comparison, or what is known of them."""
        self.comparison.begin(plan.batch, self._real_parts(plan.batch)[0].start)
        means = self.comparison if isinstance(self.comparison, MeanComparison) else None
        if means is not None and plan.known is not None:
            means.sums = plan.known
            return
        self._real_features(plan.batch, plan.augment)
        if means is not None and self.kept is not None and plan.iteration is not None:
            self.kept.keep(plan.iteration, means.sums)

    def _real_features(self, batch: RealBatch, draw: AugmentDraw) -> None:
        def features_of(part: slice) -> Tensor:
            images = self.real.augmented(batch.rows[part], draw, batch.labels[part])
            with autocast(self.config.precision, images.device):
                return self.space.real(images, part).float()

        parts = self._real_parts(batch)
        for part, features in zip(parts, one_by_one(features_of, parts), strict=True):
            self.comparison.add(features, batch.cells[part])

    def _real_parts(self, batch: RealBatch) -> list[slice]:
        """The real images in parts to be passed through the network, those that hold some of the classes
        taken."""
        first = batch.layout.rows(self.classes.start).start
        end = batch.layout.rows(self.classes.stop - 1).stop
        parts = slices(len(batch.cells), chunk_rows(self.space.network, self.config, graph=False))
        return [part for part in parts if part.start < end and first < part.stop]


def _gradient(value: Tensor, features: Tensor) -> Tensor:
    """Of `value` in the `features`; zero for what is compared with no real image at all."""
    if not value.requires_grad:
        return torch.zeros_like(features)
    return torch.autograd.grad(value, features, retain_graph=True)[0]
