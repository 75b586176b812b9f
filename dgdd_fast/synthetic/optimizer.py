"""The steps that the synthetic images take along their gradients, with surgery or without."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import DistillSettings, SurgeryConfig
from ..surgery import length_ratios, scaled_by_class, surgery_step_, update_direction
from .gradients import ImageGradients, summed

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
        images: all of them, class by class.
        classes: how many.
        moved: the classes whose images it moves; None: all.

    Attributes:
        state: what it remembers of the steps before, by name, to be kept in checkpoints. A tensor as large as
            the images is true of those moved alone.
    """

    def __init__(
        self,
        config: DistillSettings,
        mean: Tensor,
        std: Tensor,
        domain_index: Tensor,
        images: Tensor,
        classes: int,
        moved: slice | None = None,
    ) -> None:
        self.config, self.classes = config, classes
        self.moved = range(classes) if moved is None else range(classes)[moved]
        self.per_class = len(images) // classes
        self.tiles = slice(self.moved.start * self.per_class, self.moved.stop * self.per_class)
        self.mean, self.std = (part.view(3, 1, 1).to(images) for part in (mean, std))
        self.domain_index = domain_index.to(images.device)[self.tiles]
        names = ("momentum",) if config.optimizer == "sgd" else ("first_moment", "second_moment")
        self.state = {name: torch.zeros_like(images) for name in names}
        self.moments = {name: self.state[name][self.tiles] for name in names}  # views
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

    @property
    def reads_losses(self) -> bool:
        """Whether the host must know the loss of an iteration before the next."""
        return self.config.plateau is not None

    def corrections(self, iteration: int) -> Tensor:
        """What the steps of `iteration`, counted from 0, take from the host: float64 [S, 2] on the CPU, for
        each of Adam's steps what its two moments lack of their size, 1 - beta^step.

        One row for a joint step; for steps by class those of K steps, as gradients of one term have, then
        those of 2K, for two terms. None for SGD.
        """
        steps: list[int] = []
        if self.config.optimizer == "adam" and self.config.stepping == "class":
            for count in (self.classes, 2 * self.classes):
                steps += range(iteration * count + 1, (iteration + 1) * count + 1)
        elif self.config.optimizer == "adam":
            steps.append(iteration + 1)
        rows = [[1 - beta**step for beta in BETAS] for step in steps]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(BETAS))

    def step_(self, images: Tensor, gradients: ImageGradients, corrections: Tensor) -> None:
        """Moves `images` [N, 3, h, w] in place along the gradients of all, with the `corrections` of the
        iteration, where the images are."""
        self.note(summed(gradients.losses), self.move_(images, gradients, corrections))

    def move_(self, images: Tensor, gradients: ImageGradients, corrections: Tensor) -> Tensor | None:
        """Moves those of `images` [N, 3, h, w] that are of the classes moved, in place, along their
        gradients. Returns the `length_ratios` of these classes with surgery, to be noted with those of all.
        """
        images = images[self.tiles]
        surgery = self.config.surgery
        ratios = None
        if surgery is not None and gradients.by_domain is not None and self._is_fused(surgery):
            ratios = self._fused_step_(images, gradients, gradients.by_domain, surgery)
        else:
            direction, ratios = self._direction(gradients)
            if self.config.stepping == "class":
                self._step_by_class_(images, direction, gradients, corrections)
            elif self.config.optimizer == "adam":
                self._adam_step_(images, direction, corrections[0])
            else:
                self._sgd_step_(images, direction)
        if self.config.clamp:
            images.clamp_(-self.mean / self.std, (1 - self.mean) / self.std)
        return ratios

    def note(self, terms: Tensor, ratios: Tensor | None) -> None:
        """Takes note of the terms [L] of the loss and of the length ratios [K] of all classes, if any."""
        if ratios is not None:
            mean = ratios.nanmean()
            total = self.state["length_ratio"]
            total += torch.stack([mean.nan_to_num(), mean.isfinite().to(mean)])
        if self.config.plateau is not None:
            self._watch(float(terms.sum()), self.config.plateau)

    def _is_fused(self, surgery: SurgeryConfig) -> bool:
        return self.config.stepping != "class" and self.config.optimizer == "sgd" and surgery.length == "free"

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

    def _step_by_class_(
        self, images: Tensor, direction: Tensor, gradients: ImageGradients, corrections: Tensor
    ) -> None:
        terms = [direction]
        surgery = self.config.surgery
        if gradients.apart is not None and (surgery is None or surgery.union):  # else it is no part of it
            terms = [terms[0] - gradients.apart, gradients.apart]
        of_steps = iter(corrections[(len(terms) - 1) * self.classes :])
        for term in terms:
            for label in range(self.classes):
                of_class = torch.zeros_like(term)
                if label in self.moved:
                    first = (label - self.moved.start) * self.per_class
                    rows = slice(first, first + self.per_class)
                    of_class[rows] = term[rows]
                if self.config.optimizer == "adam":
                    self._adam_step_(images, of_class, next(of_steps))
                else:
                    self._sgd_step_(images, of_class)

    def _direction(self, gradients: ImageGradients) -> tuple[Tensor, Tensor | None]:
        """Where to move, and the `length_ratios` of surgery."""
        surgery = self.config.surgery
        if surgery is None or gradients.by_domain is None:
            return gradients.union_gradient(), None
        update = update_direction(
            gradients.by_domain, gradients.union, self.domain_index, gradients.valid, surgery
        )
        ratios = length_ratios(update, gradients.union_gradient(), len(self.moved))
        return scaled_by_class(update, ratios) if surgery.length == "gradient" else update, ratios

    def _sgd_step_(self, images: Tensor, gradient: Tensor) -> None:
        buffer = self.moments["momentum"]
        buffer.mul_(self.config.momentum).add_(gradient)
        images.add_(buffer, alpha=-self.rate)

    def _fused_step_(
        self, images: Tensor, gradients: ImageGradients, by_domain: Tensor, surgery: SurgeryConfig
    ) -> Tensor:
        config, buffer = self.config, self.moments["momentum"]
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
        update = buffer - config.momentum * before
        return length_ratios(update, gradients.union_gradient(), len(self.moved))

    def _adam_step_(self, images: Tensor, gradient: Tensor, correction: Tensor) -> None:
        first, second = self.moments["first_moment"], self.moments["second_moment"]
        if decay := self.rate * self.config.image_weight_decay:
            images.mul_(1 - decay).sub_(decay * self.mean / self.std)  # towards black, not towards the mean
        in_pixels = gradient / self.std
        first.lerp_(in_pixels, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(in_pixels, in_pixels, value=1 - BETAS[1])
        scale = (second / correction[1]).sqrt_().add_(EPS).mul_(self.std)
        images.add_((first * (-self.rate / correction[0])).div_(scale))
