"""What the folder names of a grid hash: the settings, so that earlier results are found again as long as they
mean the same, and no longer."""

from __future__ import annotations

from typing import Any

from ..config import DistillConfig, to_dict

# Settings that came later. At these values a run is what it was without them.
LATER: dict[str, Any] = {"union": "balanced"}


def hashed_distillation(config: DistillConfig) -> dict[str, Any]:
    """What decides the images of a distillation, of its settings."""
    settings = to_dict(config)
    content = {name: value for name, value in settings.items() if LATER.get(name, ...) != value}
    content["checkpoint_every"] = None  # how often a checkpoint is written decides nothing
    if config.objective == "hdd":
        content["revision"] = "the length of the features is cut off"
    return content
