"""Named seeds: every random draw of a run has its own generator, so that a run that is repeated or resumed
draws the same."""

from __future__ import annotations

import hashlib
import operator

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the draw called `names` in the run with `seed`: ``derive_seed(0, "network",
    iteration)``."""
    text = "\x1f".join([str(operator.index(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded with ``derive_seed(seed, *names)``, which draws on `device`. Draws made on the CPU
    are the same for every device that they are brought to; a GPU draws other numbers, and other models of GPU
    draw others again."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *names))
