"""What is known of a method before anything is computed: a table of objectives, and the modifiers they take.

A method is an objective, then modifiers: "dm+sgs". How an objective compares images is in
`dgdd_fast.matching.registry`, which is where another one is registered.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

DEFAULT_METHOD = "dm+sgs"
MODIFIERS = ("dam", "fact", "soft", "sgs")
RANDOM = "random"  # the baseline beside every number
# What else the names of a table's rows are made of, and how it is written.
OTHER_ROWS = {
    "mosaics": "mosaics",
    "soft": "soft labels",
    "whole": "Whole data",
    "imported": "Imported",
}


@dataclass(frozen=True)
class MethodSpec:
    """An objective as settings, commands, studies and tables see it.

    Attributes:
        name: as --method says it.
        label: as tables write it; None: the name in capitals.
        family: "matching" compares in networks drawn anew; "experts" in networks trained on the real images
            (`dgdd pretrain`); "coreset" chooses real images and optimises nothing.
        modifiers: those of `MODIFIERS` that it takes.
        masks: whether it masks channels, and has the settings of that.
        batch_statistics: whether the images of a pass are to share the statistics of a batch.
        acting: for a coreset, the settings that change what it chooses; others need not be tuned or swept.
        factor, optimizer, image_lr, clamp, batch_real, strategy, composition: its own values of the settings
            of `DistillConfig` and of its augmentation.
        revision: what it does differently from earlier versions under the same settings, so that no grid
            takes their sets for its own; None: nothing.
        real_per_class: in place of `batch_real`, real images of a class, split evenly among the domains of a
            balanced union.
    """

    name: str
    label: str | None = None
    family: Literal["matching", "experts", "coreset"] = "matching"
    modifiers: tuple[str, ...] = ("fact", "sgs")
    masks: bool = False
    batch_statistics: bool = False
    acting: tuple[str, ...] = ()
    factor: int = 1
    optimizer: Literal["sgd", "adam"] = "sgd"
    image_lr: float = 1.0
    clamp: bool = False
    batch_real: int = 256
    real_per_class: int | None = None
    strategy: str | None = None
    composition: Literal["single", "sequence"] = "single"
    revision: str | None = None

    @property
    def shown(self) -> str:
        """The name in tables."""
        return self.label or self.name.upper()


# The values of "mmd" and "cadm" are those of the method that they descend from (Wang et al., *Dataset
# Distillation with Neural Characteristic Function*, CVPR 2025), with its 1024 real images a class split
# evenly among the domains.
_MMD = MethodSpec(
    "mmd",
    family="experts",
    modifiers=("dam", "fact", "sgs"),
    factor=2,
    optimizer="adam",
    image_lr=1e-3,
    clamp=True,
    real_per_class=1024,
    strategy="color_crop_cutout",
    composition="sequence",
)

# What decides the choice of a network that is trained for it.
_CHOOSING = ("init", "factor", "pseudo_domains", "network", "augment", "herding_epochs", "precision")

METHODS: dict[str, MethodSpec] = {
    spec.name: spec
    for spec in (
        MethodSpec("dm", modifiers=("dam", "fact", "sgs")),
        MethodSpec("hdd", label="HDD-DM", revision="the length of the features is cut off"),
        MethodSpec("datadam", label="DataDAM", batch_real=64),
        MethodSpec("datadam-bn", "DataDAM-BN", modifiers=("sgs",), batch_statistics=True, batch_real=64),
        MethodSpec("m3d", image_lr=100.0),
        MethodSpec("dc", modifiers=("sgs",), image_lr=0.1),
        _MMD,
        dataclasses.replace(_MMD, name="cadm", modifiers=("fact", "sgs"), masks=True),
        MethodSpec(RANDOM, label="Random", family="coreset", modifiers=(), acting=("init", "factor")),
        MethodSpec(
            "herding",
            label="Herding",
            family="coreset",
            modifiers=(),
            acting=_CHOOSING,
        ),
        MethodSpec(
            "rded",
            label="RDED",
            family="coreset",
            modifiers=("soft",),
            acting=(*_CHOOSING, "crops"),
            factor=2,
        ),
    )
}


def names_where(condition: str, separator: str = " and ") -> str:
    """The objectives of a family, or with "masks", or that take a modifier, for a message."""
    return separator.join(
        spec.name
        for spec in METHODS.values()
        if spec.family == condition or condition in spec.modifiers or (condition == "masks" and spec.masks)
    )


def method_label(method: str) -> str:
    """The method as a table writes it: "dm+sgs" is DM+SGS."""
    return "+".join(
        METHODS[part].shown if part in METHODS else OTHER_ROWS.get(part, part.upper())
        for part in method.split("+")
    )
