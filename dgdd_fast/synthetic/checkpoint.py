"""Checkpoints of a distillation run: the images, their optimiser's state and the iteration, in one file
written atomically.

Every random draw is a function of (seed, name, iteration), so there is no generator state to keep.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import write_atomically

FORMAT = "dgdd-fast checkpoint 2"
STATE = "optimizer."  # what the names of the optimiser's tensors begin with


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `iteration` iterations.

    Attributes:
        images: float32 [N, 3, h, w]: tiles, where the images are mosaics.
        optimizer: the state of the images' optimiser, and what is learnt beside the images, by name.
        losses: float32 [iteration, L], of each iteration.
        config: the settings of the run as nested dictionaries.
        fingerprint: of the source data, and of the experts if there are any.
        threads: CPU threads the run used; another number rounds differently.
    """

    iteration: int
    images: Tensor
    optimizer: dict[str, Tensor]
    losses: Tensor
    config: dict[str, Any]
    fingerprint: str
    threads: int

    def save(self, path: Path) -> None:
        """Writes the checkpoint; a crash leaves either the old file or the new one, whole."""
        tensors = {"images": self.images, "losses": self.losses}
        tensors |= {STATE + name: tensor for name, tensor in self.optimizer.items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # One key: safetensors keeps no order of several, and the same state is to give the same bytes.
        settings = {name: getattr(self, name) for name in ("iteration", "config", "fingerprint", "threads")}
        metadata = {FORMAT: json.dumps(settings)}
        write_atomically(path, save(tensors, metadata))

    @staticmethod
    def load(path: Path) -> Checkpoint:
        """Reads a checkpoint. Raises CheckpointError where the file is not one or is damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if FORMAT not in metadata:
                    found = ", ".join(metadata) or "nothing"
                    raise CheckpointError(
                        f"{path} is not a checkpoint: it calls itself {found!r}, not {FORMAT!r}"
                    )
                settings = json.loads(metadata[FORMAT])
                state = {
                    name.removeprefix(STATE): file.get_tensor(name)
                    for name in file.keys()  # noqa: SIM118 (no mapping)
                    if name.startswith(STATE)
                }
                images, losses = file.get_tensor("images"), file.get_tensor("losses")
                return Checkpoint(images=images, optimizer=state, losses=losses, **settings)
        except (SafetensorError, TypeError, json.JSONDecodeError) as error:
            raise CheckpointError(
                f"{path} is damaged or no checkpoint ({error}); delete it to start the run again"
            ) from error
