"""What a distilled set is worth: networks trained on it from scratch, tested on images they never saw."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import statistics
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .config import EvaluateConfig, EvaluateSettings, from_dict, to_dict
from .data import DomainDataset
from .data.image_rows import Images
from .devices import resolved_device
from .networks import describe_network
from .ranks import Ranks, here
from .seeds import derive_seed
from .synthetic.distilled_set import DistilledSet
from .synthetic.source_data import record_of
from .training import (
    SCHEDULES,
    accuracy,
    check_training,
    resolve_training,
    train_networks,
    train_together,
)

MOST_AT_ONCE = 10  # trainings: so many ConvNets keep a GPU busy
# What must stand beside every number of theirs.
SOFT_LABELS = (
    "Soft labels are what a network trained on all real training images of the sources predicts: such a row "
    "has that network's knowledge beside its images, the others have their images alone."
)


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies of several trainings.

    Attributes:
        accuracies: for each test set, by name, the accuracy of every run in percent.
        config: the settings, with what follows from the data (depth, augmentation) written out.
        soft_labels: whether the networks were trained on the soft labels of the set.
    """

    accuracies: dict[str, list[float]]
    config: EvaluateSettings
    soft_labels: bool = False

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
    def description(self) -> str:
        """One line that says how the numbers came about."""
        config = self.config
        count = f"mean and standard deviation of {self.runs} runs" if self.runs > 1 else "a single run"
        changes = f"augmentation {config.augment.strategy}"
        if config.augment.composition == "sequence":
            changes += " in sequence"
        if config.cutmix_probability > 0:
            changes += f", CutMix in {config.cutmix_probability:.0%} of the batches"
        if config.generalize != "none":
            changes += f", {config.generalize}"
        if config.precision != "float32":
            changes += f", in {config.precision}"
        if self.soft_labels:
            changes += ", on soft labels"
        return (
            f"{describe_network(config.network)}, trained from scratch for {config.epochs} epochs by "
            f"{SCHEDULES[config.optimizer](config)}, {changes}, tested once after the last epoch; {count}, "
            f"seed {config.seed}"
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
            "description": self.description,
            "config": to_dict(self.config),
            "soft_labels": self.soft_labels,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evaluation:
        """What `to_dict` gave. Raises ValueError, KeyError or TypeError for anything else."""
        accuracies = {
            name: [float(run) for run in part["runs"]] for name, part in values["accuracies"].items()
        }
        if len({len(runs) for runs in accuracies.values()}) != 1:
            raise ValueError("the test sets differ in the number of runs")
        soft = values.get("soft_labels", False)  # which earlier versions did not have
        if not isinstance(soft, bool):
            raise ValueError("soft_labels must be true or false")
        return cls(accuracies, from_dict(EvaluateSettings, values["config"]), soft)


def evaluate(
    training: DistilledSet | DomainDataset,
    tests: Mapping[str, DomainDataset],
    config: EvaluateConfig,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
    done: Evaluation | None = None,
    keep: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Train `config.runs` fresh networks on a distilled set, or on a whole data set, and test each once on
    every test set.

    Where `torch.distributed` is initialised, its processes share the runs: all call this alike, `progress`
    and `keep` are called in the first of them, and all get the result, that of one process.

    Args:
        training: the training set. Test images are normalised with its mean and std. Soft labels are trained
            on where it has them, unless `config.hard_labels`.
        tests: test sets by the names that the result is to use; they must have the classes and the resolution
            of `training`.
        config: the settings. See `train_network` for the schedule.
        device: where to train and test. On the CPU of one machine a seed gives the same accuracies again.
        progress: called after every epoch with the number of epochs done so far, of ``runs * epochs``.
            On a GPU the runs of ConvNets are trained at once, up to ten of them, and so counted.
        done: the first runs, from an evaluation that was interrupted; only the others are trained.
        keep: called after every run, or all that were trained at once, with the evaluation so far.

    Warns of test images that are pixel for pixel among those that the set was distilled from.

    Raises:
        ValueError: settings out of range, no test set, or one that does not fit, a network that cannot be
            trained, or runs that were done with other settings or tests.
        TrainingDivergedError: the loss became NaN or infinite.
        RankLostError: another of the processes that share the runs has ended.
    """
    device, ranks = resolved_device(device), here()
    settings = resolve_training(config, training.resolution, training.flip_safe)
    check_training(settings, len(training.class_names), training.resolution, device)
    _check_tests(training, tests)
    images: Images
    soft = None
    if isinstance(training, DistilledSet):
        images, labels, _ = training.training_images
        soft = None if settings.hard_labels else training.soft_labels
        mean, std = torch.tensor(training.mean), torch.tensor(training.std)
    else:
        images, labels = training.images, training.labels
        mean, std = training.channel_statistics()
    accuracies: dict[str, list[float]] = {name: [] for name in tests}
    if done is not None:
        _check_done(done, settings, tests)
        if done.soft_labels != (soft is not None):
            raise ValueError("the runs done have the other of hard and soft labels")
        accuracies = {name: list(done.accuracies[name]) for name in tests}
    first = 0 if done is None else done.runs
    _check_ranks(ranks, training, tests, settings, first)
    told = progress if ranks.rank == 0 else None
    at_once = 1
    if train_together(settings, device):
        at_once = max(1, min(MOST_AT_ONCE, -(-(settings.runs - first) // ranks.count)))

    def trained(runs: range) -> list[dict[str, float]]:
        """The accuracies of each of the runs by test set."""
        if not runs:
            return []
        networks = train_networks(
            images,
            labels if soft is None else soft,
            len(training.class_names),
            [dataclasses.replace(settings, seed=derive_seed(settings.seed, "evaluate", run)) for run in runs],
            mean=mean,
            std=std,
            device=device,
            progress=None if told is None else _shifted(told, runs[0] * settings.epochs, len(runs)),
        )
        return [
            {name: accuracy(network, test, mean, std, settings.precision) for name, test in tests.items()}
            for network in networks
        ]

    for begin in range(first, settings.runs, ranks.count * at_once):
        own = range(begin + ranks.rank * at_once, begin + (ranks.rank + 1) * at_once)
        for of_rank in ranks.gathered(trained(range(own.start, min(own.stop, settings.runs)))):
            for found in of_rank:
                for name, percent in found.items():
                    accuracies[name].append(percent)
        if told is not None and ranks.count > 1:
            told(min(begin + ranks.count * at_once, settings.runs) * settings.epochs)
        if keep is not None and ranks.rank == 0:
            so_far = {name: list(values) for name, values in accuracies.items()}
            keep(Evaluation(so_far, settings, soft is not None))
    return Evaluation(accuracies, settings, soft is not None)


def _check_ranks(
    ranks: Ranks,
    training: DistilledSet | DomainDataset,
    tests: Mapping[str, DomainDataset],
    settings: EvaluateSettings,
    first: int,
) -> None:
    """Raises ValueError where ranks differ in anything that the result depends on."""
    if ranks.count > 1:
        if isinstance(training, DistilledSet):
            learnt = [training.images, *([] if training.soft_labels is None else [training.soft_labels])]
            content = b"".join(tensor.numpy().tobytes() for tensor in learnt)
            learnt_from = hashlib.sha256(content).hexdigest()
        else:
            learnt_from = training.fingerprint()
        ranks.agree(
            {
                "the settings": to_dict(settings),
                "the images to learn from": learnt_from,
                "the images to test on": {name: test.fingerprint() for name, test in tests.items()},
                "the number of runs done": first,
            }
        )


def _shifted(progress: Callable[[int], None], offset: int, runs: int) -> Callable[[int], None]:
    """Of `runs` at once."""
    return lambda epoch: progress(offset + runs * epoch)


def _check_done(done: Evaluation, settings: EvaluateSettings, tests: Mapping[str, DomainDataset]) -> None:
    if set(done.accuracies) != set(tests):
        raise ValueError(f"the runs done have the tests {', '.join(done.accuracies)}, not {', '.join(tests)}")
    if name := other_setting(done.config, settings):
        raise ValueError(f"the runs done have another {name}")


def other_setting(done: EvaluateSettings, wanted: EvaluateSettings) -> str | None:
    """The first setting in which two evaluations differ so that they cannot be one; None where none is."""
    there, here = to_dict(dataclasses.replace(done, runs=wanted.runs)), to_dict(wanted)
    return next((name for name in here if there[name] != here[name]), None)


def _check_tests(training: DistilledSet | DomainDataset, tests: Mapping[str, DomainDataset]) -> None:
    record = record_of(training) if isinstance(training, DistilledSet) else None
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
        known = 0 if record is None else record.without(test)[1]
        if known:
            warnings.warn(
                f"{known} of the {len(test)} images of the test set {name!r} are among those that the set "
                "was distilled from",
                stacklevel=3,
            )
