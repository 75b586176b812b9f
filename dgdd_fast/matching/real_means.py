"""The real side of matching by means, kept in a file for the runs that share it.

The mean features of an iteration's real images follow from the data, the networks and the draws, not from the
synthetic images nor from how these are moved. Methods that are compared seed by seed (DM and DM with surgery,
at several learning rates and budgets) compute the same ones: here the first of them to reach an iteration
keeps its means, and the others read them, bit for bit.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
import weakref
import zlib
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import DistillSettings, to_dict

HEAD = 16  # bytes
_ROUNDING = 3  # to be raised whenever a version computes the same features in other bits

# What says which synthetic images there are and how they move; all other settings tell files apart.
_OF_THE_IMAGES = frozenset(
    {"surgery", "domain_masks", "ipc", "factor", "init", "iterations", "checkpoint_every"}
    | {"optimizer", "image_lr", "momentum", "clamp", "herding_epochs", "crops"}
    | {"image_weight_decay", "stepping", "plateau"}
)


class RealMeans:
    """The sums of features over each cell, [cells, F] an iteration, in a file of `folder`.

    The file begins with the two numbers of that shape. A row is written whole with its checksum: one that a
    crash cut off, or that was never written, is absent. Processes may read and write the same file at once,
    as they would write the same bytes.
    """

    def __init__(
        self, folder: Path, settings: DistillSettings, fingerprint: str, device: torch.device
    ) -> None:
        kept = {name: value for name, value in to_dict(settings).items() if name not in _OF_THE_IMAGES}
        build = import_module("dgdd_fast._C").build_info()
        machine = [_ROUNDING, torch.__version__]
        machine += [build["cpu_capability"], torch.backends.cpu.get_cpu_capability()]
        machine.append("cpu" if device.type == "cpu" else torch.cuda.get_device_name(device))
        key = hashlib.sha256(json.dumps([kept, fingerprint, machine]).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{key}.means"
        self.file: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, self.file)

    def read(self, iteration: int) -> Tensor | None:
        """The sums of `iteration`, float32 on the CPU; None where they are not kept."""
        head = b"" if self.file is None else os.pread(self.file, HEAD, 0)
        if self.file is None or len(head) < HEAD:
            return None
        cells, features = np.frombuffer(head, np.int64).tolist()
        size = 4 * cells * features
        row = os.pread(self.file, size + 4, HEAD + iteration * (size + 4))
        if len(row) < size + 4 or _checksum(iteration, row[:size]) != row[size:]:
            return None
        return torch.from_numpy(np.frombuffer(row[:size], np.float32).reshape(cells, features).copy())

    def keep(self, iteration: int, sums: Tensor) -> None:
        """Keeps the sums of `iteration`. Where the disk takes no more, it says so once and gives up."""
        if self.file is None:
            return
        values = sums.detach().float().cpu().numpy().tobytes()
        row = values + _checksum(iteration, values)
        try:
            for part, place in (
                (row, HEAD + iteration * len(row)),
                (np.array(sums.shape, np.int64).tobytes(), 0),
            ):
                if os.pwrite(self.file, part, place) < len(part):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            reason = error.strerror
            warnings.warn(f"{self.path} takes no more ({reason}): runs compute their own means", stacklevel=2)
            self.file = None


def _checksum(iteration: int, values: bytes) -> bytes:
    return zlib.crc32(values, iteration + 1).to_bytes(4, "little")
