"""`dgdd distill --log tensorboard`: a run to be watched in TensorBoard."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..extras import extra

if TYPE_CHECKING:
    from ..distillation import Progress

FOLDER = "tensorboard"  # in the run folder
SCALARS_EVERY = 10  # iterations
IMAGES_EVERY = 500


class TensorBoardLog:
    """Scalars every few iterations, the contact sheet now and then, both after the last iteration. A context
    manager; a resumed run takes back what was logged after its checkpoint.

    Raises MissingExtraError where TensorBoard is not installed.
    """

    def __init__(self, run_folder: Path) -> None:
        with extra("logging", "--log tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._new_writer: Any = SummaryWriter
        self._folder = run_folder / FOLDER
        self._writer: Any = None  # none before the first iteration, so that a refused run leaves no file

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, state: Progress) -> None:
        """What `distill` reports after an iteration."""
        step, is_last = state.iteration, state.iteration == state.iterations
        if self._writer is None:
            self._writer = self._new_writer(str(self._folder), purge_step=step)
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
