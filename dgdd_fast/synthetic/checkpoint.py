"""Checkpoints of a distillation run: the images, their optimiser's state and the iteration, in one file
written atomically.

Every random draw is a function of (seed, name, iteration), so there is no generator state to keep.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import DistillConfig, DistillSettings, from_dict, to_dict
from ..config.bounds import CountOrNone, Size
from ..data import DomainDataset
from ..data.record import ImageRecord
from ..json_text import parse_json
from ..messages import shown
from ..parallel import thread_count
from ..tensor_file import TensorFile, TensorFileError, check_tensors, content_of, header_of, loaded
from .optimizer import SINCE_LATER

FILE = TensorFile("dgdd_fast_checkpoint", "a checkpoint", version=5)
_OLD_KEY = "dgdd-fast checkpoint 2"  # the format before, which had no checksum
STATE = "optimizer."  # what the names of the optimiser's tensors begin with


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What a checkpoint says beside its tensors, as in `Checkpoint`."""

    iteration: CountOrNone
    config: dict[str, Any]
    fingerprint: str
    threads: Size
    learnt_from: dict[str, Any] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `iteration` iterations.

    Attributes:
        images: float32 [N, 3, h, w]: tiles, where the images are mosaics.
        optimizer: the state of the images' optimiser, and what is learnt beside the images, by name.
        losses: float32 [iteration, L], of each iteration.
        config: the settings of the run as nested dictionaries.
        fingerprint: of the source data, and of the experts if there are any.
        threads: CPU threads the run used; with batch normalisation another number rounds differently.
        learnt_from: `ImageRecord.to_json` of the source data; None in a checkpoint of an earlier version.
    """

    iteration: int
    images: Tensor
    optimizer: dict[str, Tensor]
    losses: Tensor
    config: dict[str, Any]
    fingerprint: str
    threads: int
    learnt_from: dict[str, Any] | None = None

    def save(self, path: Path) -> None:
        """Writes the checkpoint; a crash leaves either the old file or the new one, whole."""
        tensors = {"images": self.images, "losses": self.losses}
        tensors |= {STATE + name: tensor for name, tensor in self.optimizer.items()}
        FILE.write(path, tensors, {item.name: getattr(self, item.name) for item in fields(_Facts)})

    @staticmethod
    def load(path: Path) -> Checkpoint:
        """Reads a checkpoint. Raises CheckpointError where the file is not one or is damaged."""
        try:
            tensors, description, version = _unpacked(content_of(path))
            facts = from_dict(_Facts, description)
            images, losses = tensors.pop("images"), tensors.pop("losses")
            _check(images, losses, facts.iteration)
            if strange := [name for name in tensors if not name.startswith(STATE)]:
                raise TensorFileError(f"the tensor {shown(strange[0])} is not known")
            state = {name.removeprefix(STATE): part for name, part in tensors.items()}
            settings = {item.name: getattr(facts, item.name) for item in fields(_Facts)}
            checkpoint = Checkpoint(images=images, optimizer=state, losses=losses, **settings)
            of_old_loss = version < 4 and checkpoint.config["objective"] == "hdd"
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is damaged or no checkpoint ({error}); delete it to start the run again"
            ) from error
        if of_old_loss:
            raise CheckpointError(
                f"{path} belongs to a run of hdd before the length of its features was cut off at 10, which "
                "is another loss; delete it to start the run again"
            )
        return checkpoint

    @staticmethod
    def load_to_resume(
        path: Path, config: DistillSettings, fingerprint: str, sources: DomainDataset
    ) -> Checkpoint:
        """The checkpoint of the run with these settings, on the data `sources` and the experts of
        `fingerprint`.

        Raises CheckpointError where it is of another run or beyond `config.iterations`. Warns where the run
        used another number of CPU threads and that may matter.
        """
        checkpoint = Checkpoint.load(path)
        if checkpoint.fingerprint != fingerprint:
            what = _other_data(checkpoint, fingerprint, sources)
            raise CheckpointError(f"{path} belongs to a run {what}; choose another folder")
        try:
            # A setting that did not exist yet was at what is now its default.
            there, wanted = to_dict(from_dict(DistillConfig, checkpoint.config)), to_dict(config)
        except ValueError as error:
            raise CheckpointError(
                f"{path} is of a run with other settings than there are: {error}"
            ) from error
        for name in ("iterations", "checkpoint_every"):  # neither changes what an iteration computes
            there[name] = wanted[name]
        if wanted["experts"] is not None and there["experts"] is not None:
            there["experts"]["pool"] = wanted["experts"]["pool"]  # the fingerprint tells which
        for name, value in wanted.items():
            if there[name] != value:
                raise CheckpointError(
                    f"{path} belongs to a run with {name} = {shown(there[name])}, now {shown(value)}; give "
                    "the same settings or choose another folder"
                )
        if checkpoint.iteration > config.iterations:
            raise CheckpointError(
                f"{path} is already at iteration {checkpoint.iteration}, beyond {config.iterations}"
            )
        # Only passes that cannot be taken apart round otherwise with another number of threads.
        if config.network.norm == "batch" and checkpoint.threads != thread_count():
            warnings.warn(
                f"the run used {checkpoint.threads} CPU threads and goes on with {thread_count()}: "
                "with batch normalisation results may differ by rounding",
                stacklevel=3,
            )
        return checkpoint

    def check_fits(self, path: Path, images: Tensor, state: dict[str, Tensor]) -> None:
        """Raises CheckpointError unless the images and what was learnt are of the names, types and shapes of
        those that the run begins with."""
        absent = SINCE_LATER - self.optimizer.keys()
        try:
            check_tensors({"images": self.images}, {"images": images})
            check_tensors(self.optimizer, {name: state[name] for name in state.keys() - absent})
        except TensorFileError as error:
            raise CheckpointError(
                f"{path} does not fit this run ({error}); delete it to start the run again"
            ) from error


def _other_data(checkpoint: Checkpoint, fingerprint: str, sources: DomainDataset) -> str:
    if checkpoint.fingerprint.partition(" ")[0] == fingerprint.partition(" ")[0]:
        return "with other experts"
    record = ImageRecord.from_json(checkpoint.learnt_from)
    if record is None:
        return "on other data (which images are others, checkpoints of earlier versions do not tell)"
    return f"on other data: of {sources.name}, {record.difference(sources)}"


def _unpacked(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """The tensors, the rest, and the version of the format."""
    header = header_of(data)
    if _OLD_KEY in header:
        return loaded(data), parse_json(header[_OLD_KEY]), 2
    tensors, settings = FILE.unpack(data)
    return tensors, settings, settings.pop("version")


def _check(images: Tensor, losses: Tensor, iteration: int) -> None:
    if images.dtype != torch.float32 or images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
        raise TensorFileError(f"images must be float32 [N, 3, h, w], got {images.dtype} {list(images.shape)}")
    if (
        losses.dtype != torch.float32
        or losses.shape[0] != iteration
        or losses.ndim != (2 if iteration else 1)
    ):
        raise TensorFileError(
            f"losses must be float32 [{iteration}, L], got {losses.dtype} {list(losses.shape)}"
        )
