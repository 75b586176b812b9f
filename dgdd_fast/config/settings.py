"""Resolved settings: what the configurations leave open (None) follows from the method and from the data, and
is filled in once, here.

Each type is the configuration that it comes from with the open fields closed, so that it is written and
compared like one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from .bounds import NotNegative, Positive, Size
from .older import renewed_experts
from .schema import (
    AugmentConfig,
    DistillConfig,
    EvaluateConfig,
    ExpertConfig,
    MaskConfig,
    NetworkConfig,
    Precision,
    PretrainConfig,
    Term,
)

SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(NetworkConfig):
    """A network with its width, and its depth where it has one to choose."""

    width: Size


@dataclass(frozen=True, kw_only=True)
class AugmentSettings(AugmentConfig):
    """An augmentation that names its operations, or "none"."""

    strategy: str
    composition: Literal["single", "sequence"]


@dataclass(frozen=True, kw_only=True)
class ExpertSettings(ExpertConfig):
    """The terms of an objective that matches in experts, and in which networks."""

    interpolate: bool
    matching: Term
    regularisation: Term
    consistency: bool


@dataclass(frozen=True, kw_only=True)
class MaskSettings(MaskConfig):
    """Masks, with how many of them an image has."""

    draws: Size


@dataclass(frozen=True, kw_only=True)
class DistillSettings(DistillConfig):
    """A distillation run on data that are known. `experts` and `masks` are there if the method has them."""

    experts: ExpertSettings | None
    masks: MaskSettings | None
    factor: Size
    optimizer: Literal["sgd", "adam"]
    image_lr: Positive
    clamp: bool
    batch_real: Size
    network: NetworkSettings
    augment: AugmentSettings
    precision: Precision = "float32"


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(PretrainConfig):
    """The training of experts on data that are known."""

    network: NetworkSettings
    augment: AugmentSettings
    precision: Precision = "float32"

    renewed = staticmethod(renewed_experts)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(EvaluateConfig):
    """The training of test networks on data that are known."""

    learning_rate: Positive
    weight_decay: NotNegative
    network: NetworkSettings
    augment: AugmentSettings
    precision: Precision = "float32"


def settled(cls: type[SettingsT], config: Any, **values: Any) -> SettingsT:
    """The settings of type `cls` with the values of `config`, and `values` in place of some."""
    own = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    return cast(SettingsT, cast(Any, cls)(**{**own, **values}))
