"""Objectives by name: how each is built, and where others are registered. No other module compares names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import METHODS, MODIFIERS, DistillConfig, DistillSettings, MethodSpec
from ..config.methods import OTHER_ROWS
from ..data import DomainDataset
from ..data.real_images import RealImages
from ..networks import has_stages, staged_architectures
from ..plugins import check_new_name
from .comparison import HyperbolicComparison, KernelComparison
from .datadam_bn import BatchNormDataDAM
from .domain_masks import DomainMasks
from .expert_matching import ExpertMatching
from .expert_settings import resolve_experts
from .feature_matching import FeatureMatching
from .feature_spaces import RandomAttention
from .gradient_matching import GradientMatching
from .objective import Objective
from .starts import Start, cropped_start, herded_start, initial_start, random_start

Build = Callable[[RealImages, DistillSettings, Tensor], Objective]
Resolve = Callable[[DistillConfig, DomainDataset], DistillConfig]
Begin = Callable[[DomainDataset, Tensor, DistillSettings, Tensor, Tensor, torch.device], Start]


class Entry(NamedTuple):
    """What an objective does.

    Attributes:
        build: the objective, of the real images, the settings and the domain assigned to each synthetic
            image (tile), int64 [N].
        resolve: changes or refuses (ValueError) settings that no other objective would; it sees the data.
        begin: the images that a run begins with, and for a coreset keeps.
    """

    build: Build
    resolve: Resolve | None = None
    begin: Begin = initial_start


def register_objective(
    spec: MethodSpec, build: Build, resolve: Resolve | None = None, begin: Begin = initial_start
) -> None:
    """Make an objective of your own known, to Python, the command, studies and tables.

    Args:
        spec: its name, the modifiers it takes and its own default settings.
        build, resolve, begin: see `Entry`.

    Raises ValueError for a name that is taken or that commands cannot write.
    """
    check_new_name("method", spec.name, {*METHODS, *MODIFIERS, *OTHER_ROWS})
    METHODS[spec.name] = spec
    OBJECTIVES[spec.name] = Entry(build, resolve, begin)


def build_objective(real: RealImages, config: DistillSettings, domain_index: Tensor) -> Objective:
    """The objective that the run minimises.

    Args:
        domain_index: int64 [N], the domain assigned to each synthetic image (tile, where they are mosaics).

    Raises ValueError where experts are needed and not named.
    """
    objective = OBJECTIVES[config.objective].build(real, config, domain_index)
    if config.domain_masks is None:
        return objective
    matching = objective.matching if isinstance(objective, ExpertMatching) else objective
    if not isinstance(matching, FeatureMatching):
        raise ValueError(f"{config.objective} compares no features, so there is nothing to mask by domain")
    return DomainMasks(objective, matching, config, config.domain_masks)


def _means(real: RealImages, config: DistillSettings, _: Tensor) -> Objective:
    return FeatureMatching(real, config)


def _kernel(real: RealImages, config: DistillSettings, _: Tensor) -> Objective:
    comparison = KernelComparison(shared_bandwidth=config.kernel_bandwidth == "union")
    return FeatureMatching(real, config, comparison=comparison)


def _staged_only(config: DistillConfig, _: DomainDataset) -> DistillConfig:
    if not has_stages(config.network.architecture):
        raise ValueError(
            f"{config.objective} takes the attention maps of a network with stages "
            f"({', '.join(staged_architectures())}), got {config.network.architecture}"
        )
    return config


def _batch_norm(config: DistillConfig, sources: DomainDataset) -> DistillConfig:
    config = _staged_only(config, sources)
    return dataclasses.replace(config, network=dataclasses.replace(config.network, norm="batch"))


def _real_images_only(config: DistillConfig, _: DomainDataset) -> DistillConfig:
    if config.init == "noise":
        raise ValueError(
            f"{config.objective} chooses real images: init must be 'uniform' or 'random', got 'noise'"
        )
    return config


OBJECTIVES: dict[str, Entry] = {
    "dm": Entry(_means),
    "hdd": Entry(lambda real, config, _: FeatureMatching(real, config, comparison=HyperbolicComparison())),
    "datadam": Entry(
        lambda real, config, _: FeatureMatching(real, config, RandomAttention(real, config)), _staged_only
    ),
    "datadam-bn": Entry(lambda real, config, _: BatchNormDataDAM(real, config), _batch_norm),
    "m3d": Entry(_kernel),
    "dc": Entry(lambda real, config, _: GradientMatching(real, config)),
    "mmd": Entry(ExpertMatching, resolve_experts),
    "cadm": Entry(ExpertMatching, resolve_experts),
    # Coresets stay as they begin; what would move them is asked for when their gradients are shown.
    "random": Entry(_means, begin=random_start),
    "herding": Entry(_means, _real_images_only, begin=herded_start),
    "rded": Entry(_means, _real_images_only, begin=cropped_start),
}
