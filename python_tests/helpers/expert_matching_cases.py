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


def settings(folder: str, objective: str = "cadm", **changes: object) -> DistillConfig:
    config = DistillConfig(
        objective=objective,
        experts=ExpertConfig(pool=folder),
        ipc=2,
        iterations=6,
        image_lr=0.02,
        batch_real=5,
        checkpoint_every=2,
    )
    return dataclasses.replace(config, **changes)


def masks(config: DistillConfig, **changes: object) -> DistillConfig:
    return dataclasses.replace(config, masks=MaskConfig(**changes))


def experts(config: DistillConfig, **changes: object) -> DistillConfig:
    assert config.experts is not None
    return dataclasses.replace(config, experts=dataclasses.replace(config.experts, **changes))
