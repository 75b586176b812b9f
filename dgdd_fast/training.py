"""A network trained from scratch, on distilled or on real images, and its accuracy."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .config import EvaluateConfig, EvaluateSettings, Precision, checked, filled, settled
from .data import DomainDataset, normalise
from .data.augment import augmented_rows, cutmix, draw_batch, draw_cutmix, mixed_labels, resolve_strategy
from .data.image_rows import Images
from .data.real_images import DeviceImages
from .generalization import training_loss
from .interruption import TrainingDivergedError
from .memory import check_fits
from .networks import (
    Network,
    build_network,
    initialise,
    network_bytes,
    network_on_meta,
    resolve_network,
    rows_per_chunk,
)
from .parallel import all_threads, one_by_one, side_by_side, slices, sum_gradients_
from .precision import arithmetic, autocast
from .seeds import generator
from .steps import counted, tell


class Schedule(Protocol):
    """An optimizer and how its learning rate falls.

    Attributes:
        own_rate, own_decay: learning rate and weight decay where the settings leave them open.
        fresh_starts: the epochs, counted from 0, before which the optimizer forgets its momentum.
    """

    own_rate: float
    own_decay: float
    fresh_starts: tuple[int, ...]

    def __init__(self, config: EvaluateSettings) -> None: ...

    def optimizer(self, network: Network) -> torch.optim.Optimizer:
        """A new one for the parameters of `network`."""

    def rate(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 0."""

    def __str__(self) -> str:
        """As results describe it: "SGD (learning rate 0.01, ...)"."""


class SteppedSGD:
    """SGD with momentum, the learning rate falling to a tenth after ``epochs // 2 + 1`` epochs, where the
    momentum starts from zero again (DM, SGS)."""

    own_rate, own_decay = 0.01, 5e-4

    def __init__(self, config: EvaluateSettings) -> None:
        self.config = config
        self.full_rate_epochs = config.epochs // 2 + 1
        self.fresh_starts: tuple[int, ...] = (0, self.full_rate_epochs)

    def optimizer(self, network: Network) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            network.parameters(),
            lr=self.config.learning_rate,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
            fused=True,
        )

    def rate(self, epoch: int) -> float:
        rate = self.config.learning_rate
        return rate if epoch < self.full_rate_epochs else rate / 10

    def __str__(self) -> str:
        return (
            f"SGD (learning rate {self.config.learning_rate:g}, a tenth after epoch {self.full_rate_epochs}, "
            f"momentum {self.config.momentum:g}, weight decay {self.config.weight_decay:g}, "
            f"batch {self.config.batch_size})"
        )


class HalvedAdamW:
    """AdamW, the learning rate halved after each fifth of the epochs (NCFM)."""

    own_rate, own_decay = 1e-3, 0.01

    def __init__(self, config: EvaluateSettings) -> None:
        self.config = config
        self.fresh_starts: tuple[int, ...] = (0,)

    def optimizer(self, network: Network) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            network.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )

    def rate(self, epoch: int) -> float:
        return self.config.learning_rate * 0.5 ** (5 * epoch // self.config.epochs)

    def __str__(self) -> str:
        return (
            f"AdamW (learning rate {self.config.learning_rate:g}, halved after each fifth of the epochs, "
            f"weight decay {self.config.weight_decay:g}, batch {self.config.batch_size})"
        )


SCHEDULES: dict[str, type[SteppedSGD | HalvedAdamW]] = {"sgd": SteppedSGD, "adamw": HalvedAdamW}


def resolve_training(
    config: EvaluateConfig, resolution: tuple[int, int], flip_safe: bool
) -> EvaluateSettings:
    """The settings with what follows from the data and from each other written out.

    Raises ValueError for settings that cannot work.
    """
    checked(config, "evaluate")
    if config.cutmix_probability > 0 and config.generalize != "none":
        raise ValueError(
            f"CutMix splits an image's label, {config.generalize} needs it whole: use one of them "
            "(cutmix_probability 0, or generalize 'none')"
        )
    schedule = SCHEDULES[config.optimizer]
    return settled(
        EvaluateSettings,
        filled(config, learning_rate=schedule.own_rate, weight_decay=schedule.own_decay),
        network=resolve_network(config.network, resolution),
        augment=resolve_strategy(config.augment, flip_safe, cutmix=config.cutmix_probability > 0),
    )


def check_training(
    config: EvaluateSettings,
    num_classes: int,
    resolution: tuple[int, int],
    device: str | torch.device = "cpu",
) -> None:
    """Raise ValueError for a network that cannot be trained with these settings, or does not fit into the
    memory of the device; takes none for it."""
    # Parameters, gradients and momentum.
    needed = 3 * network_bytes(num_classes, resolution, config.network)
    check_fits(f"training a network of width {config.network.width}", needed, device)
    network = network_on_meta(num_classes, resolution, config.network)
    if network is not None:
        nothing = torch.zeros(3, device="meta")
        training_loss(config, network, nothing, nothing, generator(config.seed, "generalize"))


def train_network(
    images: Images,
    labels: Tensor,
    num_classes: int,
    config: EvaluateSettings,
    *,
    mean: Tensor | Sequence[float] = (0.0, 0.0, 0.0),
    std: Tensor | Sequence[float] = (1.0, 1.0, 1.0),
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Network:
    """Train a fresh network, drawn from `config.seed`, on cross entropy or the loss that `config.generalize`
    makes of it.

    There are exactly `config.epochs` epochs, each in a new random order; its last batch is as small as it
    comes. Each batch is augmented by the same operations, with parameters of its own for each image, and
    mixed with `config.cutmix_probability`. The learning rate falls as the optimizer's `Schedule` says.

    Args:
        images: [N, 3, H, W], float32 and normalised, or uint8, to be normalised batch by batch; a tensor or
            `ImageRows`.
        labels: int64 [N] in [0, num_classes).
        config: `config.runs` is not used.
        mean, std: [3], what the images are normalised with.
        device: where to train, in `config.precision`; the network stays there.
        progress: called after every epoch with the number of epochs done; None: told as a step (see `steps`).

    Raises:
        ValueError: no images, a label for each is missing, or `config.generalize` does not fit the network.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    if len(images) == 0 or labels.shape != (len(images),):
        raise ValueError(
            f"training needs images with a label each, got {len(images)} and {list(labels.shape)}"
        )
    device = torch.device(device)
    with arithmetic(config.precision, device), side_by_side(device):
        there = DeviceImages(images, device)
        return _train(there, labels.to(device), num_classes, config, mean, std, progress)


def _train(
    images: DeviceImages,
    labels: Tensor,
    num_classes: int,
    config: EvaluateSettings,
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
    progress: Callable[[int], None] | None,
) -> Network:
    device = images.device
    channels, *sides = images.shape
    resolution = (sides[0], sides[1])
    network = build_network(num_classes, resolution, config.network, channels=channels)
    initialise(network, generator(config.seed, "network"))
    network.to(device)
    orders, draws = generator(config.seed, "order"), generator(config.seed, "augment")
    mixes = generator(config.seed, "cutmix")
    mean, std = (torch.as_tensor(values, device=device) for values in (mean, std))
    loss_of = training_loss(config, network, mean, std, generator(config.seed, "generalize"))
    # Where nothing mixes the images of a batch, its gradient is summed over parts that are fast to compute.
    mixed = config.network.norm == "batch" or config.generalize != "none"
    rows = config.batch_size if mixed else min(config.batch_size, rows_per_chunk(network, device))

    def weighted_loss(inputs: Tensor, wanted: Tensor, epoch: int, part: slice) -> tuple[Tensor, Tensor]:
        with autocast(config.precision, device):
            loss = loss_of(inputs[part], wanted[part], epoch) * len(inputs[part]) / len(inputs)
        return loss, loss.detach()

    parameters = list(network.parameters())
    schedule = SCHEDULES[config.optimizer](config)
    for epoch in range(config.epochs):
        if epoch in schedule.fresh_starts:
            optimizer = schedule.optimizer(network)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(epoch)
        total = torch.zeros((), device=device)
        order = torch.randperm(len(images), generator=orders)
        for batch in torch.split(order, config.batch_size):
            draw = draw_batch(config.augment, resolution, len(batch), draws)
            mix = draw_cutmix(config.cutmix_probability, resolution, len(batch), mixes)
            inputs = cutmix(augmented_rows(*images.at(batch), mean, std, draw), mix)
            wanted = mixed_labels(labels[batch.to(device)], mix, num_classes)
            passed = functools.partial(weighted_loss, inputs, wanted, epoch)
            with all_threads() if mixed else contextlib.nullcontext():
                total += torch.stack(sum_gradients_(parameters, passed, slices(len(batch), rows))).sum()
            optimizer.step()
        if not math.isfinite(total):
            raise TrainingDivergedError(
                f"the training loss is {total.item()} in epoch {epoch + 1} of {config.epochs}; use a smaller "
                f"learning rate than {config.learning_rate:g}, or check the images for NaN and outliers"
            )
        if progress is None:
            tell("training a network", epoch + 1, config.epochs)
        else:
            progress(epoch + 1)
    return network.eval()


def accuracy(
    network: Network,
    test: DomainDataset,
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
    precision: Precision = "float32",
) -> float:
    """The percentage of `test`, normalised with `mean` and `std`, that the network classifies correctly."""
    device = network.classifier.weight.device

    def correct(part: slice) -> Tensor:
        with torch.inference_mode(), autocast(precision, device):
            predicted = network(normalise(test.images[part].to(device), mean, std)).argmax(1)
            right: Tensor = (predicted == test.labels[part].to(device)).sum()
            return right

    with arithmetic(precision, device), side_by_side(device):
        parts = slices(len(test), rows_per_chunk(network, device))
        counts = list(counted("testing", one_by_one(correct, parts), len(parts)))
    return 100 * float(sum(counts)) / len(test)
