"""What a distilled set is worth: networks trained on it from scratch, tested on images they never saw."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .config import EvaluateConfig, Precision, to_dict
from .data import DomainDataset, normalise
from .data.augment import augment, cutmix, draw_batch, draw_cutmix, mixed_labels, resolve_strategy
from .generalization import training_loss
from .interruption import TrainingDivergedError
from .networks import Network, build_network, describe_network, initialise, resolve_network, rows_per_chunk
from .precision import arithmetic, autocast
from .seeds import derive_seed, generator
from .synthetic.distilled_set import DistilledSet


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies of several trainings.

    Attributes:
        accuracies: for each test set, by name, the accuracy of every run in percent.
        config: the settings, with what follows from the data (depth, augmentation) written out.
    """

    accuracies: dict[str, list[float]]
    config: EvaluateConfig

    @property
    def runs(self) -> int:
        return len(next(iter(self.accuracies.values())))

    def mean(self, name: str) -> float:
        """Mean accuracy on the test set `name` over the runs, in percent."""
        return statistics.fmean(self.accuracies[name])

    def std(self, name: str) -> float:
        """Sample standard deviation (n - 1) over the runs, in percent; NaN for a single run."""
        return statistics.stdev(self.accuracies[name]) if self.runs > 1 else math.nan

    @property
    def protocol(self) -> str:
        """One line that says how the numbers came about."""
        config = self.config
        count = f"mean and standard deviation of {self.runs} runs" if self.runs > 1 else "a single run"
        rate, decay = _rates(config)
        if config.optimizer == "sgd":
            schedule = f"SGD (learning rate {rate:g}, a tenth after epoch {_full_rate_epochs(config)}, "
            schedule += f"momentum {config.momentum:g}"
        else:
            schedule = f"AdamW (learning rate {rate:g}, halved after each fifth of the epochs"
        changes = f"augmentation {config.augment.strategy}"
        if config.augment.composition == "sequence":
            changes += " in sequence"
        if config.cutmix_probability > 0:
            changes += f", CutMix in {config.cutmix_probability:.0%} of the batches"
        if config.generalize != "none":
            changes += f", {config.generalize}"
        if config.precision != "float32":
            changes += f", in {config.precision}"
        return (
            f"{describe_network(config.network)}, trained from scratch for {config.epochs} epochs by "
            f"{schedule}, weight decay {decay:g}, batch {config.batch_size}), {changes}, tested once after "
            f"the last epoch; {count}, seed {config.seed}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the standard deviation of a single run is None."""
        return {
            "accuracies": {
                name: {
                    "runs": list(values),
                    "mean": self.mean(name),
                    "std": self.std(name) if self.runs > 1 else None,
                }
                for name, values in self.accuracies.items()
            },
            "protocol": self.protocol,
            "config": to_dict(self.config),
        }


def evaluate(
    training: DistilledSet | DomainDataset,
    tests: Mapping[str, DomainDataset],
    config: EvaluateConfig,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Train `config.runs` fresh networks on a distilled set, or on a whole data set, and test each once on
    every test set.

    Args:
        training: the training set. Test images are normalised with its mean and std.
        tests: test sets by the names that the result is to use; they must have the classes and the resolution
            of `training`.
        config: the settings. See `train_network` for the schedule.
        device: where to train and test. On the CPU, with one number of threads, a seed gives the same
            accuracies again.
        progress: called after every epoch with the number of epochs done so far, of ``runs * epochs``.

    Raises:
        ValueError: settings out of range, no test set, or one that does not fit.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    config = resolve(config, training.resolution, training.flip_safe)
    _check_tests(training, tests)
    if isinstance(training, DistilledSet):
        images, labels, _ = training.training_images
        mean, std = torch.tensor(training.mean), torch.tensor(training.std)
    else:
        images, labels = training.images, training.labels
        mean, std = training.channel_statistics()
    accuracies: dict[str, list[float]] = {name: [] for name in tests}
    for run in range(config.runs):
        network = train_network(
            images,
            labels,
            len(training.class_names),
            dataclasses.replace(config, seed=derive_seed(config.seed, "evaluate", run)),
            mean=mean,
            std=std,
            device=device,
            progress=None if progress is None else _shifted(progress, run * config.epochs),
        )
        for name, test in tests.items():
            accuracies[name].append(accuracy(network, test, mean, std, config.precision))
    return Evaluation(accuracies, config)


def resolve(config: EvaluateConfig, resolution: tuple[int, int], flip_safe: bool) -> EvaluateConfig:
    """The settings with what follows from the data and from each other written out.

    Raises ValueError for settings that cannot work.
    """
    for name in ("runs", "epochs", "batch_size"):
        if getattr(config, name) < 1:
            raise ValueError(f"evaluate.{name} must be at least 1, got {getattr(config, name)}")
    rate, decay = _rates(config)
    if not 0 < rate < math.inf:
        raise ValueError(f"evaluate.learning_rate must be positive and finite, got {rate}")
    if not 0 <= config.momentum < 1:
        raise ValueError(f"evaluate.momentum must be at least 0 and less than 1, got {config.momentum}")
    if not 0 <= decay < math.inf:
        raise ValueError(f"evaluate.weight_decay must be finite and not negative, got {decay}")
    if not 0 <= config.cutmix_probability <= 1:
        raise ValueError(f"evaluate.cutmix_probability must lie in [0, 1], got {config.cutmix_probability}")
    if config.cutmix_probability > 0 and config.generalize != "none":
        raise ValueError(
            f"CutMix splits an image's label, {config.generalize} needs it whole: use one of them "
            "(cutmix_probability 0, or generalize 'none')"
        )
    return dataclasses.replace(
        config,
        learning_rate=rate,
        weight_decay=decay,
        network=resolve_network(config.network, resolution),
        augment=resolve_strategy(config.augment, flip_safe, cutmix=config.cutmix_probability > 0),
    )


def train_network(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    config: EvaluateConfig,
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
    mixed with `config.cutmix_probability`. With SGD the learning rate falls to a tenth after ``epochs // 2 +
    1`` epochs and the momentum starts from zero again; with AdamW the rate is halved after each fifth of the
    epochs.

    Args:
        images: [N, 3, H, W], float32 and normalised, or uint8, to be normalised batch by batch.
        labels: int64 [N] in [0, num_classes).
        config: resolved (see `resolve`); `config.runs` is not used.
        mean, std: [3], what the images are normalised with.
        device: where to train, in `config.precision`; the network stays there.
        progress: called after every epoch with the number of epochs done.

    Raises:
        ValueError: no images, a label for each is missing, or `config.generalize` does not fit the network.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    if len(images) == 0 or labels.shape != (len(images),):
        raise ValueError(
            f"training needs images with a label each, got {len(images)} and {list(labels.shape)}"
        )
    device = torch.device(device)
    with arithmetic(config.precision, device):
        return _train(images.to(device), labels.to(device), num_classes, config, mean, std, progress)


def _train(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    config: EvaluateConfig,
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
    progress: Callable[[int], None] | None,
) -> Network:
    device = images.device
    resolution = (images.shape[2], images.shape[3])
    network = build_network(num_classes, resolution, config.network, channels=images.shape[1])
    initialise(network, generator(config.seed, "network"))
    network.to(device)
    orders, draws = generator(config.seed, "order"), generator(config.seed, "augment")
    mixes = generator(config.seed, "cutmix")
    mean, std = (torch.as_tensor(values, device=device) for values in (mean, std))
    loss_of = training_loss(config, network, mean, std, generator(config.seed, "generalize"))
    # Where nothing mixes the images of a batch, its gradient is summed over parts that are fast to compute.
    rows = config.batch_size
    if config.network.norm != "batch" and config.generalize == "none":
        rows = min(rows, rows_per_chunk(network, device))
    optimizer = _optimizer(network, config)
    for epoch in range(config.epochs):
        if config.optimizer == "sgd" and epoch == _full_rate_epochs(config):
            optimizer = _optimizer(network, config)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(config, epoch)
        total = torch.zeros((), device=device)
        order = torch.randperm(len(images), generator=orders).to(device)
        for batch in torch.split(order, config.batch_size):
            draw = draw_batch(config.augment, resolution, len(batch), draws)
            inputs = images[batch]
            if inputs.dtype == torch.uint8:
                inputs = normalise(inputs, mean, std)
            mix = draw_cutmix(config.cutmix_probability, resolution, len(batch), mixes)
            inputs = cutmix(augment(inputs, draw), mix)
            wanted = mixed_labels(labels[batch], mix, num_classes)
            optimizer.zero_grad()
            parts, targets = torch.split(inputs, rows), torch.split(wanted, rows)
            for part, target in zip(parts, targets, strict=True):
                with autocast(config.precision, device):
                    loss = loss_of(part, target, epoch) * len(part) / len(batch)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
            optimizer.step()
        if not math.isfinite(total):
            raise TrainingDivergedError(
                f"the training loss is {total.item()} in epoch {epoch + 1} of {config.epochs}; use a smaller "
                f"learning rate than {_rates(config)[0]:g}, or check the images for NaN and outliers"
            )
        if progress is not None:
            progress(epoch + 1)
    return network.eval()


@torch.inference_mode()
def accuracy(
    network: Network,
    test: DomainDataset,
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
    precision: Precision = "float32",
) -> float:
    """The percentage of `test`, normalised with `mean` and `std`, that the network classifies correctly."""
    device = network.classifier.weight.device
    rows = rows_per_chunk(network, device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    parts = zip(torch.split(test.images, rows), torch.split(test.labels, rows), strict=True)
    with arithmetic(precision, device), autocast(precision, device):
        for images, labels in parts:
            predicted = network(normalise(images.to(device), mean, std)).argmax(1)
            correct += (predicted == labels.to(device)).sum()
    return 100 * correct.item() / len(test)


def _shifted(progress: Callable[[int], None], offset: int) -> Callable[[int], None]:
    return lambda epoch: progress(offset + epoch)


def _full_rate_epochs(config: EvaluateConfig) -> int:
    return config.epochs // 2 + 1


def _rates(config: EvaluateConfig) -> tuple[float, float]:
    """The learning rate at the start and the weight decay."""
    rate, decay = (0.01, 5e-4) if config.optimizer == "sgd" else (1e-3, 0.01)
    return (
        rate if config.learning_rate is None else config.learning_rate,
        decay if config.weight_decay is None else config.weight_decay,
    )


def _learning_rate(config: EvaluateConfig, epoch: int) -> float:
    rate, _ = _rates(config)
    if config.optimizer == "adamw":
        return rate * 0.5 ** (5 * epoch // config.epochs)
    return rate if epoch < _full_rate_epochs(config) else rate / 10


def _optimizer(network: Network, config: EvaluateConfig) -> torch.optim.Optimizer:
    rate, decay = _rates(config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(
        network.parameters(), lr=rate, momentum=config.momentum, weight_decay=decay, fused=True
    )


def _check_tests(training: DistilledSet | DomainDataset, tests: Mapping[str, DomainDataset]) -> None:
    if not tests:
        raise ValueError("evaluate needs at least one test set")
    for name, test in tests.items():
        if len(test) == 0:
            raise ValueError(f"the test set {name!r} has no images")
        if test.class_names != training.class_names:
            raise ValueError(
                f"the test set {name!r} has other classes than the training set: "
                f"{', '.join(test.class_names)} instead of {', '.join(training.class_names)}"
            )
        if test.resolution != training.resolution:
            raise ValueError(
                f"the test set {name!r} has images of {test.resolution} px, the training set of "
                f"{training.resolution} px; load the data at the resolution of the training set"
            )
