"""A method is a composition: settings with an objective and modifiers, and how the two are called."""

from __future__ import annotations

import dataclasses

from .methods import METHODS, MODIFIERS, MethodSpec
from .schema import DistillConfig, DomainMaskConfig, SurgeryConfig


def method_spec(config: DistillConfig) -> MethodSpec:
    """What is known of the objective of `config`. Raises ValueError for one that is not registered."""
    if config.objective not in METHODS:
        known = ", ".join(METHODS)
        raise ValueError(f"there is no objective {config.objective!r}; there are {known}")
    return METHODS[config.objective]


def modifiers_of(config: DistillConfig) -> tuple[str, ...]:
    """The modifiers that the settings ask for."""
    there = {
        "dam": config.domain_masks is not None,
        "fact": config.fact,
        "soft": config.soft_labels,
        "sgs": config.surgery is not None,
    }
    return tuple(name for name, present in there.items() if present)


def method_name(config: DistillConfig) -> str:
    """The method as the command line writes it: the objective, then its modifiers: "dm", "dm+sgs"."""
    return "+".join((config.objective, *modifiers_of(config)))


def with_method(config: DistillConfig, method: str) -> DistillConfig:
    """`config` with the objective and modifiers of `method` and without the settings of others.

    Raises ValueError for an unknown method.
    """
    objective, *modifiers = method.split("+")
    if objective not in METHODS or set(modifiers) - set(MODIFIERS) or len(set(modifiers)) < len(modifiers):
        raise ValueError(
            f"unknown method {method!r}: expected an objective ({', '.join(METHODS)}), "
            f"then +{', +'.join(MODIFIERS)} if wanted, such as dm+sgs"
        )
    spec = METHODS[objective]
    return dataclasses.replace(
        config,
        objective=objective,
        surgery=(config.surgery or SurgeryConfig()) if "sgs" in modifiers else None,
        domain_masks=(config.domain_masks or DomainMaskConfig()) if "dam" in modifiers else None,
        fact="fact" in modifiers,
        soft_labels="soft" in modifiers,
        experts=config.experts if spec.family == "experts" else None,
        masks=config.masks if spec.masks else None,
    )
