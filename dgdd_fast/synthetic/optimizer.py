"""The steps that the synthetic images take along their gradients, with surgery or without."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import DistillSettings, SurgeryConfig
from ..surgery import length_ratios, scaled_by_class, surgery_step_, update_direction
from .gradients import ImageGradients

BETAS = (0.9, 0.999)
EPS = 1e-8
PLATEAU_FACTOR, PLATEAU_THRESHOLD = 0.5, 1e-4  # of torch's ReduceLROnPlateau, as NCFM has it
SINCE_LATER = frozenset({"length_ratio"})  # parts of the state that checkpoints once knew nothing of


class ImageOptimizer:
    """SGD with momentum, Adam or AdamW on normalised images; then clamping, if the settings ask for it.

    Adam steps are measured in pixels: as if it worked on images in [0, 1], so that `config.image_lr` is about
    the most that a pixel moves in a step.

    A joint step moves all images once. Steps by class and term move them K or 2K times, along the gradient of
    one class and one term after the other, all found where the iteration began; every step moves the other
    images, too, by what is left of the steps before. Under Adam two terms move an image sqrt(2K) times (one
    of them is all of the gradient) to 2 sqrt(K) times (they are alike) as far as a joint step does at the
    same rate: a class's gradient comes once in 2K steps, so its root mean square is smaller than itself.

    Args:
        mean, std: float32 [3], of the normalisation.
        domain_index: int64 [N], the domain assigned to each image, for the surgery.
        images: those to move, class by class.
        classes: how many.

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
        classes: int,
    ) -> None:
        self.config, self.classes = config, classes
        self.mean, self.std = (part.view(3, 1, 1).to(images) for part in (mean, std))
        self.domain_index = domain_index.to(images.device)
        names = ("momentum",) if config.optimizer == "sgd" else ("first_moment", "second_moment")
        self.state = {name: torch.zeros_like(images) for name in names}
        if config.surgery is not None:
            # The sum of |update| / |g| over the iterations, and their number.
            self.state["length_ratio"] = torch.zeros(2, dtype=torch.float64, device=images.device)
        if config.plateau is not None:
            # The lowest loss, the iterations since, and the factor of the learning rate.
            worst = torch.finfo(torch.float64).max
            self.state["plateau"] = torch.tensor([worst, 0, 1], dtype=torch.float64)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`, what an earlier one held, among other things."""
        for name, tensor in self.state.items():
            if name in state or name not in SINCE_LATER:
                tensor.copy_(state[name])

    @property
    def length_ratio(self) -> float | None:
        """How long the surgery's update was, in lengths of the gradient g: the mean over classes and
        iterations, before `surgery.length` scaled it. None without surgery.

        At this multiple of the learning rate the objective alone takes steps as long as the surgery's."""
        if "length_ratio" not in self.state:
            return None
        total, count = self.state["length_ratio"].tolist()
        return total / count if count else None

    def step_(self, images: Tensor, gradients: ImageGradients, iteration: int) -> None:
        """Moves `images` [N, 3, h, w] in place; `iteration` counts from 0."""
        surgery = self.config.surgery
        if self.config.stepping == "class":
            self._step_by_class_(images, gradients, iteration)
        elif self.config.optimizer == "adam":
            self._adam_step_(images, self._direction(gradients), iteration + 1)
        elif surgery is None or gradients.by_domain is None or surgery.length != "free":
            self._sgd_step_(images, self._direction(gradients))
        else:
            self._fused_step_(images, gradients, gradients.by_domain, surgery)
        if self.config.clamp:
            images.clamp_(-self.mean / self.std, (1 - self.mean) / self.std)
        if self.config.plateau is not None:
            self._watch(float(gradients.losses.sum()), self.config.plateau)

    @property
    def rate(self) -> float:
        """The learning rate of the images now."""
        factor = float(self.state["plateau"][2]) if "plateau" in self.state else 1.0
        return self.config.image_lr * factor

    def _watch(self, loss: float, patience: int) -> None:
        best, stale, factor = self.state["plateau"].tolist()
        if loss < best * (1 - PLATEAU_THRESHOLD):
            best, stale = loss, 0
        else:
            stale += 1
        if stale > patience:
            stale, factor = 0, factor * PLATEAU_FACTOR
        self.state["plateau"].copy_(torch.tensor([best, stale, factor], dtype=torch.float64))

    def _step_by_class_(self, images: Tensor, gradients: ImageGradients, iteration: int) -> None:
        terms = [self._direction(gradients)]
        surgery = self.config.surgery
        if gradients.apart is not None and (surgery is None or surgery.union):  # else it is no part of it
            terms = [terms[0] - gradients.apart, gradients.apart]
        per_class = len(images) // self.classes
        step = iteration * len(terms) * self.classes
        for term in terms:
            for label in range(self.classes):
                of_class = torch.zeros_like(term)
                rows = slice(label * per_class, (label + 1) * per_class)
                of_class[rows] = term[rows]
                step += 1
                if self.config.optimizer == "adam":
                    self._adam_step_(images, of_class, step)
                else:
                    self._sgd_step_(images, of_class)

    def _direction(self, gradients: ImageGradients) -> Tensor:
        surgery = self.config.surgery
        if surgery is None or gradients.by_domain is None:
            return gradients.union_gradient()
        update = update_direction(
            gradients.by_domain, gradients.union, self.domain_index, gradients.valid, surgery
        )
        ratios = self._noted(update, gradients)
        return scaled_by_class(update, ratios) if surgery.length == "gradient" else update

    def _noted(self, update: Tensor, gradients: ImageGradients) -> Tensor:
        """The `length_ratios` of a surgery's update, taken into their mean."""
        ratios = length_ratios(update, gradients.union_gradient(), self.classes)
        mean = ratios.nanmean()
        total = self.state["length_ratio"]
        total += torch.stack([mean.nan_to_num(), mean.isfinite().to(mean)])
        return ratios

    def _sgd_step_(self, images: Tensor, gradient: Tensor) -> None:
        buffer = self.state["momentum"]
        buffer.mul_(self.config.momentum).add_(gradient)
        images.add_(buffer, alpha=-self.rate)

    def _fused_step_(
        self, images: Tensor, gradients: ImageGradients, by_domain: Tensor, surgery: SurgeryConfig
    ) -> None:
        config, buffer = self.config, self.state["momentum"]
        before = buffer.clone()
        surgery_step_(
            images,
            buffer,
            by_domain,
            gradients.union,
            self.domain_index,
            gradients.valid,
            surgery,
            self.rate,
            config.momentum,
        )
        self._noted(buffer - config.momentum * before, gradients)

    def _adam_step_(self, images: Tensor, gradient: Tensor, step: int) -> None:
        first, second = self.state["first_moment"], self.state["second_moment"]
        if decay := self.rate * self.config.image_weight_decay:
            images.mul_(1 - decay).sub_(decay * self.mean / self.std)  # towards black, not towards the mean
        in_pixels = gradient / self.std
        first.lerp_(in_pixels, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(in_pixels, in_pixels, value=1 - BETAS[1])
        scale = (second / (1 - BETAS[1] ** step)).sqrt_().add_(EPS).mul_(self.std)
        images.addcdiv_(first, scale, value=-self.rate / (1 - BETAS[0] ** step))
