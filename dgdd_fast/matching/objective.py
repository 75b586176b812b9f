"""What the distillation loop minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..config import DistillSettings, method_name
from ..data.augment import AugmentDraw, draw_siamese
from ..data.real_images import RealImages
from ..seeds import generator
from ..synthetic.gradients import ImageGradients
from .batches import RealBatch, draw_real_batch
from .real_means import RealMeans


class Objective(ABC):
    """Compares synthetic with real images and says where the synthetic ones should move.

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

    def after_step(self, iteration: int) -> None:  # noqa: B027 (most learn nothing beside the images)
        """Called when the images have moved along the gradients of `iteration`."""

    def share_real_means(self, kept: RealMeans) -> None:  # noqa: B027 (most compare more than means)
        """Read the means of real images that `kept` has, and add those that it lacks."""

    def augmentation(self, iteration: int) -> AugmentDraw:
        """The augmentation drawn for the images of each class in `iteration`."""
        random = generator(self.config.seed, "augment", iteration)
        draw = draw_siamese(self.config.augment, self.real.resolution, self.real.num_classes, random)
        return draw.to(self.real.device)

    def real_batch(self, iteration: int) -> RealBatch:
        """The real images drawn for `iteration`."""
        return draw_real_batch(self.real, self.config, self.config.batch_real, iteration)
