"""Pretraining: experts on the real images, for the objectives that match in trained networks (CADM, MMD)."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import PretrainConfig, PretrainSettings, checked, from_dict, settled, to_dict
from ..config.bounds import CountOrNone
from ..data import DomainDataset
from ..data.augment import augment, cutmix, draw_batch, draw_cutmix, mixed_labels, resolve_strategy
from ..data.checks import check_filled
from ..data.real_images import RealImages
from ..data.record import ImageRecord
from ..devices import resolved_device
from ..generalization.fact import draw_partners, mix_normalised
from ..generalization.irm import invariance_penalty
from ..interruption import Interrupted, TrainingDivergedError, stop_at_whole_steps
from ..json_text import parse_json
from ..memory import check_fits
from ..messages import shown
from ..networks import (
    has_stages,
    initialise,
    network_bytes,
    resolve_network,
    rows_per_chunk,
    staged_architectures,
)
from ..parallel import all_threads, side_by_side, slices, sum_gradients_
from ..precision import arithmetic, autocast, resolved_precision
from ..seeds import generator
from ..tensor_file import TensorFile, TensorFileError, check_tensors, content_of, header_of, loaded
from .discriminators import refit_discriminators_
from .pool import POOL_NAME, Expert, ExpertPool, ExpertPoolError

CHECKPOINT_NAME = "checkpoint.safetensors"
_FILE = TensorFile("dgdd_fast_expert_in_training", "an expert in training", version=2)
_OLD_KEY = "dgdd-fast expert in training 1"  # the format before, which had no checksum
_RATE_DECAY = 0.2  # of the learning rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class _State:
    """What a checkpoint says beside its tensors, as in `_Training`."""

    expert: CountOrNone
    steps: CountOrNone
    log: tuple[dict[str, Any], ...]


class PretrainProgress(NamedTuple):
    """The state of a pretraining after an epoch; `measures` are those of ExpertPool.log."""

    expert: int
    experts: int
    epoch: int
    epochs: int
    measures: dict[str, Any]


class PretrainingInterrupted(Interrupted):
    """A signal (see `dgdd_fast.interruption`); the pretraining was left at a whole step."""


def pretrain(
    sources: DomainDataset,
    config: PretrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    device: str | torch.device = "cpu",
    progress: Callable[[PretrainProgress], None] | None = None,
) -> ExpertPool:
    """Trains `config.experts` networks on the images of the source domains.

    The loss is L_cls + `domain_weight` * L_dom (CADM, Eq. 10): cross entropy on the class, and the mean over
    the stages of the cross entropy on the domain, whose gradient is reversed on its way into the
    network. SGD; the learning rate falls to a fifth after two thirds and again after five sixths of the
    epochs. Each batch is augmented with parameters of its own for each image; with `cutmix_probability` it is
    then mixed, and both the class and the domain targets are split between an image and its partner like the
    pixels: a box from another domain shows that domain.

    With `discriminators` "refitted" those that took part in this give way, at the end, to a logistic
    regression on the features of the finished network: see `logistic_regression`.

    With `generalize` "irm" the penalty of `invariance_penalty` is added, and the whole divided by the
    penalty's weight where that is above 1, so that the gradient keeps its size; when the weight changes, the
    momentum starts from zero again. With "fact" each image of a batch first takes over a share of another's
    amplitudes.

    Args:
        sources: the training images of the source domains, the same that are distilled.
        config: the settings.
        folder: where the pool goes: see ExpertPool. Beside it a checkpoint of the expert in training, every
            `config.checkpoint_every` epochs and when interrupted.
        resume: goes on with what is in `folder`, if anything; the finished experts are kept. On the CPU,
            the result is bit for bit that of an uninterrupted run. `experts`
            may be raised to enlarge a pool.
        device: where to train ("auto": on a GPU where there is one), in `config.precision`.
        progress: called after every epoch.

    Raises:
        ValueError: settings that cannot work, a pool in the way, or one of other settings or data.
        TrainingDivergedError: the loss became NaN or infinite.
        PretrainingInterrupted: Ctrl-C, SIGTERM or SIGHUP, after a checkpoint has been written.
    """
    device = resolved_device(device)
    settings = resolve_pretraining(config, sources)
    check_filled(sources)
    # Parameters, where they began, gradients and momentum.
    needed = 4 * network_bytes(sources.num_classes, sources.resolution, settings.network)
    check_fits(f"training an expert of width {settings.network.width}", needed, device)
    folder = Path(folder)
    pool = _open_pool(folder, settings, sources, resume)
    real = RealImages(sources, pool.mean, pool.std, device)
    path = folder / CHECKPOINT_NAME
    with (
        arithmetic(settings.precision, real.device),
        side_by_side(real.device),
        stop_at_whole_steps() as stop,
    ):
        while len(pool) < settings.experts:
            training = _Training(real, settings, len(pool))
            if path.exists():
                training.load(path)
            while training.epoch < training.epochs:
                epoch_ended = training.step()
                if epoch_ended and progress is not None:
                    place = (len(pool), settings.experts, training.epoch, training.epochs)
                    progress(PretrainProgress(*place, training.log[-1]))
                stopped = stop.is_set()
                if stopped or (epoch_ended and training.epoch % settings.checkpoint_every == 0):
                    training.save(path)
                if stopped:
                    raise stop.error(
                        PretrainingInterrupted,
                        f"stopped after {training.epoch} of {training.epochs} epochs of expert "
                        f"{len(pool) + 1} of {settings.experts}; go on from {folder} with resume=True "
                        "(--resume)",
                    )
            if settings.discriminators == "refitted":
                training.refit_discriminators()
            pool.add(training.initial, dict(training.expert.named_parameters()), training.log)
            path.unlink(missing_ok=True)
    return pool


def resolve_pretraining(config: PretrainConfig, sources: DomainDataset) -> PretrainSettings:
    """The settings with what follows from the data written out; raises ValueError for what cannot work."""
    checked(config, "pretrain")
    if not has_stages(config.network.architecture):
        raise ValueError(
            f"experts have domain discriminators behind the stages of their network, and "
            f"{config.network.architecture} has none; take one of {', '.join(staged_architectures())}"
        )
    if config.network.norm == "batch":
        raise ValueError(
            "an expert must normalise each sample by itself (norm 'instance' or 'none'): with batch "
            "statistics the classes and domains of a batch would change each other's features"
        )
    if len(sources) == 0:
        raise ValueError(f"{sources.name} has no images to train experts on")
    return settled(
        PretrainSettings,
        config,
        network=resolve_network(config.network, sources.resolution),
        precision=resolved_precision(config.precision),
        augment=resolve_strategy(config.augment, sources.flip_safe, config.cutmix_probability > 0),
    )


def _open_pool(folder: Path, config: PretrainSettings, sources: DomainDataset, resume: bool) -> ExpertPool:
    """The pool to go on with, or an empty one."""
    path = folder / POOL_NAME
    if not path.exists():
        if any(folder.glob("expert_*.safetensors")):
            raise ExpertPoolError(f"{folder} holds experts, but no {POOL_NAME}: choose another folder")
        mean, std = sources.channel_statistics()
        pool = ExpertPool(
            folder=folder,
            config=config,
            data=sources.name,
            class_names=sources.class_names,
            domain_names=sources.domain_names,
            resolution=sources.resolution,
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            fingerprint=sources.fingerprint(),
            learnt_from=ImageRecord.of(sources).to_json(),
        )
        pool.write()
        return pool
    if not resume:
        raise ValueError(f"{path} exists: go on with it (resume=True, --resume) or choose another folder")
    pool = ExpertPool.read(folder)
    pool.check(sources)
    # Neither changes what an expert becomes.
    kept = dataclasses.replace(pool.config, experts=config.experts, checkpoint_every=config.checkpoint_every)
    found, wanted = to_dict(kept), to_dict(config)
    different = [name for name in wanted if found[name] != wanted[name]]
    if different:
        name = different[0]
        raise ExpertPoolError(
            f"{path} belongs to experts with {name} = {shown(found[name])}, now {shown(wanted[name])}; give "
            "the same settings or choose another folder"
        )
    pool.check_files()
    if len(pool) > config.experts:
        raise ExpertPoolError(f"{folder} already holds {len(pool)} experts, more than {config.experts}")
    if pool.config != config:
        pool.config = config
        pool.write()
    return pool


class _Training:
    """One expert on its way. Every random draw is a function of (seed, expert, step), so the parameters,
    their momentum, the number of steps and what was measured are the whole state."""

    def __init__(self, real: RealImages, config: PretrainSettings, index: int) -> None:
        self.real, self.config, self.index = real, config, index
        self.epochs = config.epochs
        counts = (real.num_classes, real.num_domains)
        self.expert = Expert(*counts, real.resolution, config.network, config.reversal_weight)
        initialise(self.expert.network, self._generator("network"))
        initialise(self.expert.discriminators, self._generator("discriminators"))
        self.initial = {name: value.detach().clone() for name, value in self.expert.named_parameters()}
        self.expert.to(real.device)
        self.parameters = list(self.expert.parameters())
        self.optimizer = torch.optim.SGD(
            self.parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.rows = config.batch_size
        if config.generalize != "irm":
            # No layer mixes the images of a batch: its gradient is summed over parts that are fast to
            # compute.
            self.rows = min(self.rows, rows_per_chunk(self.expert.network, real.device))
        self.steps = 0
        self.log: list[dict[str, Any]] = []
        # Sums over the epoch: class loss and domain loss; and over its batches without CutMix: images, right
        # classes, right domains by stage. They stay on the device: only the end of an epoch waits for it.
        self.sums = torch.zeros(4 + len(self.expert.discriminators), dtype=torch.float64, device=real.device)
        self._begin_epoch()

    @property
    def epoch(self) -> int:
        """The number of whole epochs done."""
        return len(self.log)

    def step(self) -> bool:
        """Learn from one batch; returns whether it was the epoch's last."""
        config, real = self.config, self.real
        batch = self.batches[self.steps % len(self.batches)]
        random = self._generator("batch", self.steps)
        draw = draw_batch(config.augment, real.resolution, len(batch), random)
        mix = draw_cutmix(config.cutmix_probability, real.resolution, len(batch), random)
        if config.generalize == "fact":
            partner, share = draw_partners(len(batch), None, self._generator("fact", self.steps), real.device)
            images = real.take(batch)
            images = mix_normalised(images, images[partner], share, real.mean, real.std)
            images = augment(images, draw)
        else:
            images = real.augmented(batch, draw)
        images = cutmix(images, mix)
        batch = batch.to(real.device)
        labels = mixed_labels(real.labels[batch], mix, real.num_classes)
        domains = mixed_labels(real.domains[batch], mix, real.num_domains)
        if config.generalize == "irm" and self.steps == config.irm_warmup:
            self.optimizer.state.clear()  # another loss from here on

        def losses(part: slice) -> tuple[Tensor, Tensor]:
            """The loss to minimise, and what is added to `sums`."""
            class_targets, domain_targets = labels[part], domains[part]
            with autocast(config.precision, real.device):
                class_logits, domain_logits = (logits.float() for logits in self.expert(images[part]))
            class_loss = F.cross_entropy(class_logits, class_targets, reduction="sum")
            stages = [F.cross_entropy(logits, domain_targets, reduction="sum") for logits in domain_logits]
            domain_loss = torch.stack(stages).mean()
            loss = (class_loss + config.domain_weight * domain_loss) / len(batch)
            if config.generalize == "irm":  # the part is the whole batch
                weight = config.irm_weight if self.steps >= config.irm_warmup else 1.0
                penalty = invariance_penalty(class_logits, class_targets, real.domains[batch])
                # A gradient a hundred times as long makes SGD diverge: the whole is divided by the weight.
                loss = (loss + weight * penalty) / max(weight, 1.0)
            measured = torch.zeros_like(self.sums)
            measured[:2] = torch.stack([class_loss, domain_loss]).detach()
            if mix is None:
                measured[2] = len(class_targets)
                measured[3] = (class_logits.argmax(1) == class_targets).sum()
                measured[4:] = (domain_logits.argmax(2) == domain_targets).sum(1)
            return loss, measured

        with all_threads() if config.generalize == "irm" else contextlib.nullcontext():
            for measured in sum_gradients_(self.parameters, losses, slices(len(batch), self.rows)):
                self.sums += measured
        self.optimizer.step()
        self.steps += 1
        if self.steps % len(self.batches):
            return False
        self._end_epoch()
        return True

    def refit_discriminators(self) -> None:
        """Fit the discriminators to the finished network, and add how well to what was measured last."""
        told = refit_discriminators_(self.expert, self.real, self.config, self._generator("refit"))
        self.log[-1]["refitted_domain_accuracy"] = told

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, to write or to fill; parameters not yet moved have a momentum of 0."""
        tensors = {"sums": self.sums}
        for name, parameter in self.expert.named_parameters():
            state = self.optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            tensors[f"parameter.{name}"] = parameter.detach()
            tensors[f"momentum.{name}"] = state["momentum_buffer"]
        return tensors

    def save(self, path: Path) -> None:
        """Write a checkpoint: the old file or the new one, whole, is there at any moment."""
        _FILE.write(path, self._tensors(), {"expert": self.index, "steps": self.steps, "log": self.log})

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, unless it is of an expert that was finished since."""
        try:
            data = content_of(path)
            header = header_of(data)
            if _OLD_KEY in header:
                tensors, content = loaded(data), parse_json(header[_OLD_KEY])
            else:
                tensors, content = _FILE.unpack(data)
                content.pop("version")
            state = from_dict(_State, content)
            if state.expert != self.index:
                return
            wanted = self._tensors()
            check_tensors(tensors, wanted)
        except (TensorFileError, TypeError, ValueError) as error:
            raise ExpertPoolError(
                f"{path} is damaged or no checkpoint ({error}); delete it to start this expert again"
            ) from error
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(tensors[name])
        self.steps, self.log = state.steps, list(state.log)
        self._begin_epoch()

    def _generator(self, *names: str | int) -> torch.Generator:
        return generator(self.config.seed, "expert", self.index, *names)

    def _begin_epoch(self) -> None:
        order = torch.randperm(len(self.real), generator=self._generator("order", self.epoch))
        self.batches = torch.split(order, self.config.batch_size)
        epochs = self.config.epochs
        falls = (3 * self.epoch >= 2 * epochs) + (6 * self.epoch >= 5 * epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * _RATE_DECAY**falls

    def _end_epoch(self) -> None:
        class_loss, domain_loss, counted, *right = self.sums.tolist()
        count = len(self.real)
        if not math.isfinite(class_loss + domain_loss):
            raise TrainingDivergedError(
                f"the loss of expert {self.index + 1} is {(class_loss + domain_loss) / count} in epoch "
                f"{self.epoch + 1} of {self.epochs}; use a smaller learning rate than "
                f"{self.config.learning_rate:g}"
            )
        accuracy, *domain_accuracy = [100 * sum_ / counted if counted else None for sum_ in right]
        self.log.append(
            {
                "class_loss": class_loss / count,
                "domain_loss": domain_loss / count,
                "accuracy": accuracy,
                "domain_accuracy": domain_accuracy,
            }
        )
        self.sums.zero_()
        self._begin_epoch()
