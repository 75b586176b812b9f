"""Distillations and pretrainings to be watched in TensorBoard, alone and as jobs of a grid."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..extras import extra

if TYPE_CHECKING:
    from ..distillation import Progress
    from ..experts.pretrain import PretrainProgress

FOLDER = "tensorboard"  # in the folder of the run, of the experts or of the job
SCALARS_EVERY = 10  # iterations
IMAGES_EVERY = 500


def summary_writer() -> Any:
    """What writes for TensorBoard. Raises MissingExtraError where that is not installed."""
    with extra("logging", "--log tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter


class TensorBoardLog:
    """Of a run, scalars every few iterations, the contact sheet now and then, both after the last iteration;
    of experts, scalars after every epoch. A context manager; what is resumed takes back what was logged after
    its checkpoint.

    Raises MissingExtraError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._new_writer = summary_writer()
        self._folder = folder / FOLDER
        self._writer: Any = None  # none before the first iteration, so that a refused run leaves no file

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, state: Progress) -> None:
        """What `distill` reports after an iteration."""
        step, is_last = state.iteration, state.iteration == state.iterations
        self._begin(step)
        if step % SCALARS_EVERY == 0 or is_last:
            self._writer.add_scalar("loss", state.loss, step)
            if len(state.terms) > 1:
                for name, value in state.terms.items():
                    self._writer.add_scalar(f"loss/{name}", value, step)
            self._writer.add_scalar("seconds per iteration", state.seconds_per_iteration, step)
        if step % IMAGES_EVERY == 0 or is_last:
            sheet = Image.open(io.BytesIO(state.images_so_far().contact_sheet_png()))
            self._writer.add_image("images", np.asarray(sheet), step, dataformats="HWC")
            self._writer.flush()

    def add_epoch(self, state: PretrainProgress) -> None:
        """What `pretrain` reports after an epoch; the steps are the epochs of all experts so far."""
        step = state.expert * state.epochs + state.epoch
        self._begin(step)
        measures, name = state.measures, f"expert {state.expert + 1}"
        scalars = {"class loss": measures["class_loss"], "domain loss": measures["domain_loss"]}
        if measures["accuracy"] is not None:
            scalars["accuracy in %"] = measures["accuracy"]
            for stage, told in enumerate(measures["domain_accuracy"], start=1):
                scalars[f"domain told in %, stage {stage}"] = told
        for kind, value in scalars.items():
            self._writer.add_scalar(f"{name}/{kind}", value, step)
        self._writer.flush()

    def _begin(self, step: int) -> None:
        if self._writer is None:
            self._writer = self._new_writer(str(self._folder), purge_step=step)
