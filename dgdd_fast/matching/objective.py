"""What the distillation loop minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..config import DistillSettings, method_name
from ..data.augment import AugmentDraw, draw_siamese
from ..data.real_images import RealImages
from ..plans import on_device
from ..seeds import generator
from ..synthetic.gradients import ImageGradients
from .batches import RealBatch, draw_real_batch
from .real_means import RealMeans


class Objective(ABC):
    """Compares synthetic with real images and says where the synthetic ones should move.

    The loop asks for the gradients of an iteration in three parts: `plan`, `prepare` and `gradients_with`.
    Here the first two do nothing and the last does everything, which is right on any device; an objective
    that tells them apart (`PlannedObjective`) is faster on a GPU.

    Attributes:
        real: the images to compare with.
        config: the settings of the run.
        labels: int64 [N], the class of each synthetic image (tile, where they are mosaics).
        classes: those whose gradients it computes, all unless `take` named others.
        tiles: the images of these, of the N.
        terms: the names of the L terms of the loss.
    """

    terms: tuple[str, ...] = ("matching",)

    def __init__(self, real: RealImages, config: DistillSettings) -> None:
        self.real, self.config = real, config
        per_class = config.ipc * config.factor**2
        self.labels = torch.arange(real.num_classes, device=real.device).repeat_interleave(per_class)
        self._take(slice(0, real.num_classes))

    @abstractmethod
    def gradients(self, images: Tensor, iteration: int, by_domain: bool) -> ImageGradients:
        """The gradients at those of `images` [N, 3, h, w] that are `tiles`, with what `iteration` draws,
        against each domain too if `by_domain`."""

    def take(self, classes: slice) -> None:
        """Compute the gradients of these classes alone, to the same bits as all of them.

        Raises ValueError where the images of a class change the gradients of others.
        """
        raise ValueError(
            f"{method_name(self.config)} cannot share its classes among ranks, as the images of a class "
            "change the gradients of the others: run it in one process"
        )

    def _take(self, classes: slice) -> None:
        per_class = self.config.ipc * self.config.factor**2
        self.classes = classes
        self.tiles = slice(classes.start * per_class, classes.stop * per_class)

    def reaches(self, part: slice) -> bool:
        """Whether any of the images `part` of the N is of the classes taken."""
        return bool(part.start < self.tiles.stop and self.tiles.start < part.stop)

    @property
    def state(self) -> dict[str, Tensor]:
        """What is learnt beside the images, by name, to be kept in checkpoints; written in place."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`, what an earlier one held, among other things."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    def plan(self, iteration: int) -> Any:
        """What the host decides for `iteration`, see `dgdd_fast.plans`."""
        return iteration

    def prepare(self, plan: Any) -> None:  # noqa: B027 (most need nothing)
        """Called before the gradients of an iteration."""

    def gradients_with(self, images: Tensor, plan: Any, by_domain: bool) -> ImageGradients:
        """`gradients` of the iteration that `plan` is for."""
        return self.gradients(images, plan, by_domain)

    def after_step(self, plan: Any) -> None:  # noqa: B027 (most learn nothing beside the images)
        """Called when the images have moved along the gradients of the iteration that `plan` is for."""

    def share_real_means(self, kept: RealMeans) -> None:  # noqa: B027 (most compare more than means)
        """Read the means of real images that `kept` has, and add those that it lacks."""

    def augmentation(self, iteration: int) -> AugmentDraw:
        """The augmentation drawn for the images of each class in `iteration`."""
        random = generator(self.config.seed, "augment", iteration)
        return draw_siamese(self.config.augment, self.real.resolution, self.real.num_classes, random)

    def real_batch(self, iteration: int) -> RealBatch:
        """The real images drawn for `iteration`."""
        return draw_real_batch(self.real, self.config, self.config.batch_real, iteration)


class PlannedObjective(Objective):
    """An objective whose draws are made ahead of the device that follows them.

    * `plan`, on the host and in any thread, makes every draw of an iteration and changes nothing.
    * `prepare` takes the plan when its numbers are on the device, and fills networks with them.
    * `gradients_with` and `after_step` only queue work on the device: they ask it for no number, and what
      they queue follows from the form of the plan (`dgdd_fast.plans`). They may then be captured as a graph
      and repeated for other plans of that form, with other numbers in the same places.
    """

    @abstractmethod
    def plan(self, iteration: int) -> Any: ...

    @abstractmethod
    def prepare(self, plan: Any) -> None: ...

    @abstractmethod
    def gradients_with(self, images: Tensor, plan: Any, by_domain: bool) -> ImageGradients: ...

    def gradients(self, images: Tensor, iteration: int, by_domain: bool) -> ImageGradients:
        plan = on_device(self.plan(iteration), images.device)
        self.prepare(plan)
        return self.gradients_with(images, plan, by_domain)
