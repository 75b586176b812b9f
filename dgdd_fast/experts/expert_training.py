"""One expert in training: its steps, what was measured, and its checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import PretrainSettings, from_dict
from ..config.bounds import CountOrNone
from ..data.augment import augment, cutmix, draw_batch, draw_cutmix, mixed_labels
from ..data.real_images import RealImages
from ..generalization.fact import draw_partners, mix_normalised
from ..generalization.irm import invariance_penalty
from ..interruption import TrainingDivergedError
from ..json_text import parse_json
from ..networks import initialise, rows_per_chunk
from ..parallel import all_threads, slices, sum_gradients_
from ..precision import autocast
from ..seeds import generator
from ..tensor_file import TensorFile, TensorFileError, check_tensors, content_of, header_of, loaded
from .discriminators import refit_discriminators_
from .pool import Expert, ExpertPoolError

_EARLIER_CHECKPOINT = "checkpoint.safetensors"  # of whichever expert was in training
_FILE = TensorFile("dgdd_fast_expert_in_training", "an expert in training", version=2)
_OLD_KEY = "dgdd-fast expert in training 1"  # the format before, which had no checksum
_RATE_DECAY = 0.2  # of the learning rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class _State:
    """What a checkpoint says beside its tensors, as in `ExpertTraining`."""

    expert: CountOrNone
    steps: CountOrNone
    log: tuple[dict[str, Any], ...]


def checkpoint_file(folder: Path, index: int) -> Path:
    """Where the expert `index` of the pool in `folder` is kept while it is in training."""
    return folder / f"checkpoint_{index:02d}.safetensors"


def clear_checkpoints(folder: Path, finished: int) -> None:
    """Remove those of the first `finished` experts of a pool, and of an expert in an earlier version."""
    for index in range(finished):
        checkpoint_file(folder, index).unlink(missing_ok=True)
    (folder / _EARLIER_CHECKPOINT).unlink(missing_ok=True)


class ExpertTraining:
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

    @property
    def is_done(self) -> bool:
        return self.epoch >= self.epochs

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

    def save(self, folder: Path) -> None:
        """Write a checkpoint: the old file or the new one, whole, is there at any moment."""
        path = checkpoint_file(folder, self.index)
        _FILE.write(path, self._tensors(), {"expert": self.index, "steps": self.steps, "log": self.log})

    def resume(self, folder: Path) -> None:
        """Go on from the checkpoint in `folder`, if there is one; that of an earlier version may be of
        another expert. Raises ExpertPoolError for a damaged one."""
        for path in (folder / _EARLIER_CHECKPOINT, checkpoint_file(folder, self.index)):
            if path.exists():
                self._load(path)

    def _load(self, path: Path) -> None:
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
