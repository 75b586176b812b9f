"""Small runs of MMD and CADM."""

from __future__ import annotations

import dataclasses

from toy_data import toy_domains

from dgdd_fast.config import (
    DistillConfig,
    ExpertConfig,
    MaskConfig,
)

DATA = toy_domains(per_cell=8)


# Of an image, where the last stage is masked: so small a batch has 32 otherwise, and each is a pass.
MASKS = MaskConfig(draws=2)


def settings(folder: str, objective: str = "cadm", **changes: object) -> DistillConfig:
    config = DistillConfig(
        objective=objective,
        experts=ExpertConfig(pool=folder),
        masks=MASKS if objective == "cadm" else None,
        ipc=2,
        iterations=6,
        image_lr=0.02,
        batch_real=5,
        checkpoint_every=2,
    )
    return dataclasses.replace(config, **changes)


def masks(config: DistillConfig, **changes: object) -> DistillConfig:
    return dataclasses.replace(config, masks=dataclasses.replace(MASKS, **changes))


def without_masks(config: DistillConfig) -> DistillConfig:
    """The same of MMD."""
    return dataclasses.replace(config, objective="mmd", masks=None)


def experts(config: DistillConfig, **changes: object) -> DistillConfig:
    assert config.experts is not None
    return dataclasses.replace(config, experts=dataclasses.replace(config.experts, **changes))
