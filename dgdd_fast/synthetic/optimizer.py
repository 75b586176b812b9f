"""The steps that the synthetic images take along their gradients, with surgery or without."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import DistillSettings
from ..surgery import surgery_step_, update_direction
from .gradients import ImageGradients

BETAS = (0.9, 0.999)
EPS = 1e-8


class ImageOptimizer:
    """SGD with momentum, or Adam, on normalised images; then clamping, if the settings ask for it.

    Adam steps are measured in pixels: as if it worked on images in [0, 1], so that `config.image_lr` is about
    the most that a pixel moves in an iteration.

    Args:
        mean, std: float32 [3], of the normalisation.
        domain_index: int64 [N], the domain assigned to each image, for the surgery.

    Attributes:
        state: what it remembers of the steps before, by name, to be kept in checkpoints.
    """

    def __init__(
        self,
        config: DistillSettings,
        mean: Tensor,
        std: Tensor,
        domain_index: Tensor,
        images: Tensor,
    ) -> None:
        self.config = config
        self.mean, self.std = (part.view(3, 1, 1).to(images) for part in (mean, std))
        self.domain_index = domain_index.to(images.device)
        names = ("momentum",) if config.optimizer == "sgd" else ("first_moment", "second_moment")
        self.state = {name: torch.zeros_like(images) for name in names}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`, what an earlier one held, among other things."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    def step_(self, images: Tensor, gradients: ImageGradients, iteration: int) -> None:
        """Moves `images` [N, 3, h, w] in place; `iteration` counts from 0."""
        if self.config.optimizer == "sgd":
            self._sgd_step_(images, gradients)
        else:
            self._adam_step_(images, self._direction(gradients), iteration + 1)
        if self.config.clamp:
            images.clamp_(-self.mean / self.std, (1 - self.mean) / self.std)

    def _direction(self, gradients: ImageGradients) -> Tensor:
        surgery = self.config.surgery
        if surgery is None or gradients.by_domain is None:
            return gradients.union_gradient()
        return update_direction(
            gradients.by_domain, gradients.union, self.domain_index, gradients.valid, surgery
        )

    def _sgd_step_(self, images: Tensor, gradients: ImageGradients) -> None:
        config, buffer = self.config, self.state["momentum"]
        if config.surgery is None or gradients.by_domain is None:
            buffer.mul_(config.momentum).add_(self._direction(gradients))
            images.add_(buffer, alpha=-config.image_lr)
            return
        surgery_step_(
            images,
            buffer,
            gradients.by_domain,
            gradients.union,
            self.domain_index,
            gradients.valid,
            config.surgery,
            config.image_lr,
            config.momentum,
        )

    def _adam_step_(self, images: Tensor, gradient: Tensor, step: int) -> None:
        first, second = self.state["first_moment"], self.state["second_moment"]
        in_pixels = gradient / self.std
        first.lerp_(in_pixels, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(in_pixels, in_pixels, value=1 - BETAS[1])
        scale = (second / (1 - BETAS[1] ** step)).sqrt_().add_(EPS).mul_(self.std)
        images.addcdiv_(first, scale, value=-self.config.image_lr / (1 - BETAS[0] ** step))
