"""The domain-aware module (DAM; Choi et al., 2025): a view of every synthetic image for each domain."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import DistillSettings, DomainMaskConfig
from ..data.augment import AugmentDraw
from ..parallel import each
from ..synthetic.gradients import ImageGradients, summed
from ..synthetic.optimizer import ImageOptimizer
from .comparison import MeanComparison
from .feature_matching import FeatureMatching
from .objective import Objective, PlannedObjective
from .real_means import RealMeans

INITIAL_MASK = 0.01
_STATE = "domain masks"  # what the names of its tensors in a checkpoint begin with


class MaskPlan(NamedTuple):
    """The plan of the host, its augmentation, and what the step of the masks needs."""

    host: Any
    augment: AugmentDraw
    corrections: Tensor


class DomainMasks(PlannedObjective):
    """An objective with the domain-aware module: the loss of its host, and the squared distance between the
    mean features of all images' views for a domain and those of the domain's real images, summed over the
    domains.

    The views of an image are its products with masks that add up to one at every value: the softmax, over the
    domains, of what is learnt. They are learnt like the images, by the same kind of steps, and dropped at the
    end. Network, real images and augmentation are those of the host's iteration.
    """

    def __init__(
        self, host: Objective, matching: FeatureMatching, config: DistillSettings, module: DomainMaskConfig
    ) -> None:
        """`matching` is the host, or the host's, and compares means."""
        super().__init__(host.real, config)
        if not isinstance(matching.comparison, MeanComparison):
            raise ValueError("domain masks belong to objectives that compare means")
        self.host, self.matching, self.module = host, matching, module
        self.means = matching.comparison
        self.terms = (*host.terms, "domains")
        sides = (side // config.factor for side in host.real.resolution)
        masks = torch.full((host.real.num_domains, len(self.labels), 3, *sides), INITIAL_MASK)
        masks = masks.to(host.real.device)
        rate = module.learning_rate or config.image_lr
        plain = dataclasses.replace(config, surgery=None, image_weight_decay=0.0, plateau=None, clamp=False)
        steps = dataclasses.replace(plain, image_lr=rate)
        nothing, one = torch.zeros(3), torch.ones(3)
        self.optimizer = ImageOptimizer(steps, nothing, one, self.labels[:0], masks.flatten(0, 1), classes=1)
        self.masks = masks

    @property
    def state(self) -> dict[str, Tensor]:
        """What is learnt, and its optimiser's state."""
        learnt = {"values": self.masks, **self.optimizer.state}
        return {f"{_STATE}.{name}": part for name, part in learnt.items()}

    def share_real_means(self, kept: RealMeans) -> None:
        self.host.share_real_means(kept)

    def plan(self, iteration: int) -> MaskPlan:
        augmentation = self.matching.augmentation(iteration)
        return MaskPlan(self.host.plan(iteration), augmentation, self.optimizer.corrections(iteration))

    def prepare(self, plan: MaskPlan) -> None:
        self.host.prepare(plan.host)

    def gradients_with(self, images: Tensor, plan: MaskPlan, by_domain: bool) -> ImageGradients:
        """The host's gradients at `images` [N, 3, h, w], with that of the domain loss in the union's; finds
        the gradient of the masks too, for `after_step`."""
        found = self.host.gradients_with(images, plan.host, by_domain)
        weights = (self.masks / self.module.temperature).softmax(0)
        loss, of_views = self._view_gradients(weights * images, plan.augment)
        # Through the product, and for the masks through the softmax.
        of_images = (weights * of_views).sum(0)
        of_weights = images * of_views
        centred = of_weights - (weights * of_weights).sum(0)
        self.mask_gradient = weights * centred / self.module.temperature
        losses = torch.cat([summed(found.losses), loss[None]])
        return found._replace(losses=losses, union=found.union_gradient() + of_images)

    def after_step(self, plan: MaskPlan) -> None:
        """Moves the masks along the gradient that was found last."""
        gradient = self.mask_gradient.flatten(0, 1)
        found = ImageGradients(gradient.new_zeros(0), gradient, None, None)
        self.optimizer.step_(self.masks.flatten(0, 1), found, plan.corrections)

    def _view_gradients(self, views: Tensor, draw: AugmentDraw) -> tuple[Tensor, Tensor]:
        """The weighted domain loss and its gradient at the views, both [D, N, 3, h, w]."""
        loss, gradient = views.new_zeros(()), torch.zeros_like(views)
        for domain, target in self.means.domain_means().items():
            part, gradient[domain] = self._gradient_of_views(views[domain], target, draw)
            loss += part
        return loss, gradient

    def _gradient_of_views(self, views: Tensor, target: Tensor, draw: AugmentDraw) -> tuple[Tensor, Tensor]:
        """The same for a domain with the mean features `target` [F]: views and gradient [N, 3, h, w]."""
        matching, weight = self.matching, self.module.weight
        chunks = matching.chunks()

        def total_of(chunk: slice) -> Tensor:
            return matching.synthetic_pass(views, chunk, draw, graph=False)[1].sum(0)

        difference = torch.stack(each(total_of, chunks)).sum(0) / len(views) - target
        cotangent = 2 * weight / len(views) * difference

        def gradient_of(chunk: slice) -> Tensor:
            leaf, features = matching.synthetic_pass(views, chunk, draw, graph=True)
            return torch.autograd.grad(features, leaf, cotangent.expand_as(features))[0]

        return weight * difference.square().sum(), torch.cat(each(gradient_of, chunks))
