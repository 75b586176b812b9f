"""A network trained from scratch, on distilled or on real images, and its accuracy."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import EvaluateConfig, EvaluateSettings, Precision, checked, filled, settled
from .data import DomainDataset, normalise
from .data.augment import augmented_rows, cutmix, draw_batch, draw_cutmix, mixed_labels, resolve_strategy
from .data.image_rows import Images
from .data.real_images import DeviceImages
from .generalization import Loss, training_loss
from .interruption import TrainingDivergedError
from .memory import check_fits
from .networks import (
    ConvNet,
    Network,
    StackedConvNet,
    build_network,
    can_be_stacked,
    initialise,
    network_bytes,
    network_on_meta,
    resolve_network,
    rows_per_chunk,
)
from .parallel import all_threads, one_by_one, side_by_side, slices, sum_gradients_
from .precision import arithmetic, at_least_float32, autocast, resolved_precision
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

    def optimizer(self, network: torch.nn.Module) -> torch.optim.Optimizer:
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

    def optimizer(self, network: torch.nn.Module) -> torch.optim.Optimizer:
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

    def optimizer(self, network: torch.nn.Module) -> torch.optim.Optimizer:
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
        precision=resolved_precision(config.precision),
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
        labels: int64 [N] in [0, num_classes), or soft: float32 [N, num_classes], what the cross entropy is
            taken against.
        config: `config.runs` is not used.
        mean, std: [3], what the images are normalised with.
        device: where to train, in `config.precision`; the network stays there.
        progress: called after every epoch with the number of epochs done; None: told as a step (see `steps`).

    Raises:
        ValueError: no images, a label for each is missing, or `config.generalize` does not fit the network.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    if len(images) == 0 or labels.shape not in ((len(images),), (len(images), num_classes)):
        raise ValueError(
            f"training needs images with a label each, or {num_classes} probabilities, got {len(images)} and "
            f"{list(labels.shape)}"
        )
    return train_networks(
        images, labels, num_classes, [config], mean=mean, std=std, device=device, progress=progress
    )[0]


def train_together(config: EvaluateSettings, device: torch.device) -> bool:
    """Whether several trainings are faster as one: those of ConvNets on a GPU, which one of them does not
    keep busy. Methods that combine the images of a batch take one network."""
    stacked = can_be_stacked(config.network.architecture) and config.generalize == "none"
    return device.type == "cuda" and stacked


def train_networks(
    images: Images,
    labels: Tensor,
    num_classes: int,
    configs: Sequence[EvaluateSettings],
    *,
    mean: Tensor | Sequence[float] = (0.0, 0.0, 0.0),
    std: Tensor | Sequence[float] = (1.0, 1.0, 1.0),
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
) -> list[Network]:
    """The networks that `train_network` gives for each of `configs`, which differ in their seeds alone,
    trained at once: one batch for each passes through a `StackedConvNet`.

    Every draw is that of the single training, so that the networks are the same to rounding. More than one:
    ConvNets without `generalize`.
    """
    device = torch.device(device)
    with arithmetic(configs[0].precision, device), side_by_side(device):
        there = DeviceImages(images, device)
        return _train(there, labels.to(device), num_classes, configs, mean, std, progress)


class _Batches:
    """What one training sees: augmented images and what is wanted of them, labels or probabilities."""

    def __init__(
        self,
        images: DeviceImages,
        labels: Tensor,
        num_classes: int,
        config: EvaluateSettings,
        mean: Tensor,
        std: Tensor,
    ) -> None:
        self.images, self.labels, self.num_classes = images, labels, num_classes
        self.config, self.mean, self.std = config, mean, std
        self.orders, self.draws = generator(config.seed, "order"), generator(config.seed, "augment")
        self.mixes = generator(config.seed, "cutmix")

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        config, (_, height, width) = self.config, self.images.shape
        order = torch.randperm(len(self.images), generator=self.orders)
        for batch in torch.split(order, config.batch_size):
            draw = draw_batch(config.augment, (height, width), len(batch), self.draws)
            mix = draw_cutmix(config.cutmix_probability, (height, width), len(batch), self.mixes)
            inputs = augmented_rows(*self.images.at(batch), self.mean, self.std, draw)
            wanted = self.labels[batch.to(self.labels.device)]
            yield cutmix(inputs, mix), mixed_labels(wanted, mix, self.num_classes)


def _beside(batches: Sequence[tuple[Tensor, Tensor]], num_classes: int) -> tuple[Tensor, Tensor]:
    """One batch as it is; of several the images [N, R, C, H, W], and the labels [N, R] or, where a batch is
    mixed, the probabilities [N, R, K]."""
    if len(batches) == 1:
        return batches[0]
    inputs, wanted = zip(*batches, strict=True)
    if any(targets.dim() == 2 for targets in wanted):
        wanted = tuple(
            F.one_hot(targets, num_classes).float() if targets.dim() == 1 else targets for targets in wanted
        )
    return torch.stack(inputs, 1), torch.stack(wanted, 1)


def _stacked_loss(network: StackedConvNet) -> Loss:
    """The sum of all networks' losses, each the mean over its images."""

    def loss(images: Tensor, wanted: Tensor, epoch: int) -> Tensor:
        logits = at_least_float32(network(images)).flatten(0, 1)
        return F.cross_entropy(logits, wanted.flatten(0, 1)) * images.shape[1]

    return loss


def _train(
    images: DeviceImages,
    labels: Tensor,
    num_classes: int,
    configs: Sequence[EvaluateSettings],
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
    progress: Callable[[int], None] | None,
) -> list[Network]:
    config, device = configs[0], images.device
    channels, height, width = images.shape
    networks = []
    for seeded in configs:
        network = build_network(num_classes, (height, width), config.network, channels=channels)
        initialise(network, generator(seeded.seed, "network"))
        networks.append(network.to(device))
    mean, std = (torch.as_tensor(values, device=device) for values in (mean, std))
    batches = [_Batches(images, labels, num_classes, seeded, mean, std) for seeded in configs]
    trained: torch.nn.Module = networks[0]
    loss_of: Loss
    if len(networks) == 1:
        random = generator(config.seed, "generalize")
        loss_of = training_loss(config, networks[0], mean, std, random)
    else:
        trained = StackedConvNet(cast("list[ConvNet]", networks))
        loss_of = _stacked_loss(trained)
    # Where nothing mixes the images of a batch, its gradient is summed over parts that are fast to compute:
    # with the gradients of weights, which pass over all of them for each part, twice those of a forward.
    mixed = config.network.norm == "batch" or config.generalize != "none"
    fast = max(1, 2 * rows_per_chunk(networks[0], device) // len(networks))
    rows = config.batch_size if mixed else min(config.batch_size, fast)

    def weighted_loss(inputs: Tensor, wanted: Tensor, epoch: int, part: slice) -> tuple[Tensor, Tensor]:
        with autocast(config.precision, device):
            loss = loss_of(inputs[part], wanted[part], epoch) * len(inputs[part]) / len(inputs)
        return loss, loss.detach()

    parameters = list(trained.parameters())
    schedule = SCHEDULES[config.optimizer](config)
    for epoch in range(config.epochs):
        if epoch in schedule.fresh_starts:
            optimizer = schedule.optimizer(trained)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(epoch)
        total = torch.zeros((), device=device)
        for together in zip(*(run.epoch() for run in batches), strict=True):
            inputs, wanted = _beside(together, num_classes)
            passed = functools.partial(weighted_loss, inputs, wanted, epoch)
            with all_threads() if mixed else contextlib.nullcontext():
                total += torch.stack(sum_gradients_(parameters, passed, slices(len(inputs), rows))).sum()
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
    if isinstance(trained, StackedConvNet):
        trained.unstack_()
    return [network.eval() for network in networks]


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
