"""The domain-aware module (DAM; Choi et al., 2025): a view of every synthetic image for each domain."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..config import DistillConfig
from ..synthetic.gradients import ImageGradients
from ..synthetic.optimizer import ImageOptimizer
from .comparison import MeanComparison
from .feature_matching import Matching, Objective

INITIAL_MASK = 0.01
_STATE = "domain masks"  # what the names of its tensors in a checkpoint begin with


class DomainMasks:
    """An objective with the domain-aware module: the loss of its host, and the squared distance between the
    mean features of all images' views for a domain and those of the domain's real images, summed over the
    domains.

    The views of an image are its products with masks that add up to one at every value: the softmax, over the
    domains, of what is learnt. They are learnt like the images, by the same kind of steps, and dropped at the
    end. Network, real images and augmentation are those of the host's iteration.

    Attributes:
        state: what is learnt and its optimiser's state, by name, to be kept in checkpoints.
    """

    def __init__(self, host: Objective, matching: Matching, images: Tensor, config: DistillConfig) -> None:
        """`matching` is the host, or the host's; `images` [N, 3, h, w] are like those to be distilled;
        `config` is resolved."""
        assert config.domain_masks is not None
        self.host, self.matching, self.config = host, matching, config.domain_masks
        self.labels, self.terms = host.labels, (*host.terms, "domains")
        masks = images.new_full((matching.num_domains, *images.shape), INITIAL_MASK)
        learning_rate = self.config.learning_rate or config.image_lr
        steps = dataclasses.replace(config, clamp=False, image_lr=learning_rate)
        nothing, one = torch.zeros(3), torch.ones(3)
        self.optimizer = ImageOptimizer(steps, nothing, one, self.labels[:0], masks.flatten(0, 1))
        self.masks = masks
        self.state = {f"{_STATE}.values": masks} | {
            f"{_STATE}.{name}": part for name, part in self.optimizer.state.items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`, what an earlier one held, among other things."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    def gradients(self, images: Tensor, iteration: int, by_domain: bool) -> ImageGradients:
        """The host's gradients at `images` [N, 3, h, w], with that of the domain loss in the union's; finds
        the gradient of the masks too, for `learn_`."""
        found = self.host.gradients(images, iteration, by_domain)
        weights = (self.masks / self.config.temperature).softmax(0)
        loss, of_views = self._view_gradients(weights * images, iteration)
        # Through the product, and for the masks through the softmax.
        of_images = (weights * of_views).sum(0)
        of_weights = images * of_views
        centred = of_weights - (weights * of_weights).sum(0)
        self.mask_gradient = weights * centred / self.config.temperature
        losses = torch.cat([found.losses, loss[None]])
        return found._replace(losses=losses, union=found.of_union() + of_images)

    def learn_(self, iteration: int) -> None:
        """Moves the masks along the gradient that `gradients` found last."""
        gradient = self.mask_gradient.flatten(0, 1)
        found = ImageGradients(gradient.new_zeros(0), gradient, None, None)
        self.optimizer.step_(self.masks.flatten(0, 1), found, iteration)

    def _view_gradients(self, views: Tensor, iteration: int) -> tuple[Tensor, Tensor]:
        """The weighted domain loss and its gradient at the views, both [D, N, 3, h, w]."""
        matching = self.matching
        assert isinstance(matching.comparison, MeanComparison)
        targets = matching.comparison.domain_means()
        draw, chunks = matching.augmentation(iteration), matching.chunks()
        loss, gradient = views.new_zeros(()), torch.zeros_like(views)
        for domain, target in targets.items():
            total = torch.zeros_like(target)
            for chunk in chunks:
                total += matching.synthetic_pass(views[domain], chunk, draw, graph=False)[1].sum(0)
            difference = total / views.shape[1] - target
            loss += self.config.weight * difference.square().sum()
            cotangent = 2 * self.config.weight / views.shape[1] * difference
            for chunk in chunks:
                leaf, features = matching.synthetic_pass(views[domain], chunk, draw, graph=True)
                cotangents = cotangent.expand_as(features)
                (gradient[domain, chunk],) = torch.autograd.grad(features, leaf, cotangents)
        return loss, gradient
