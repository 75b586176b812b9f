"""The settings of a distillation on data that are known: everything filled in, or refused."""

from __future__ import annotations

from ..config import (
    DistillConfig,
    DistillSettings,
    MethodSpec,
    checked,
    filled,
    method_spec,
    modifiers_of,
    names_where,
    settled,
)
from ..data import DomainDataset
from ..data.augment import resolve_strategy
from ..networks import check_distillable, resolve_network
from ..precision import resolved_precision
from ..synthetic.mosaics import check_factor
from .registry import OBJECTIVES


def resolve_distillation(config: DistillConfig, sources: DomainDataset) -> DistillSettings:
    """The settings with everything that follows from the method and the data made explicit.

    Raises ValueError for what cannot work.
    """
    spec = method_spec(config)
    config = checked(config)
    check_distillable(config.network.architecture)
    _check_modifiers(config, spec, sources)
    if spec.family != "experts" and (config.experts is not None or config.masks is not None):
        owners = names_where("experts")
        raise ValueError(f"experts and masks are settings of {owners}, not of {config.objective}")
    batch_real = spec.batch_real
    if spec.real_per_class is not None:
        parts = sources.num_domains if config.union == "balanced" else 1
        batch_real = max(1, spec.real_per_class // parts)
    config = filled(config, batch_real=batch_real)
    resolve = OBJECTIVES[spec.name].resolve
    if resolve is not None:
        config = resolve(config, sources)
    if config.network.norm == "batch" and not spec.batch_statistics:
        raise ValueError(
            "the matching network must normalise each sample by itself (norm 'instance' or 'none'): with "
            "batch statistics the classes and domains of a batch would change each other's features"
        )
    config = filled(config, factor=spec.factor, optimizer=spec.optimizer, clamp=spec.clamp)
    settings = settled(
        DistillSettings,
        filled(config, image_lr=_own_rate(config, spec)),
        network=resolve_network(config.network, sources.resolution),
        precision=resolved_precision(config.precision),
        augment=resolve_strategy(
            filled(config.augment, strategy=spec.strategy, composition=spec.composition), sources.flip_safe
        ),
    )
    check_factor(settings.factor, sources.resolution)
    if settings.image_weight_decay and settings.optimizer != "adam":
        raise ValueError(
            f"image_weight_decay is for the optimizer adam, and that of {spec.name} is {settings.optimizer}: "
            "set optimizer too, or leave the decay out"
        )
    return settings


def _own_rate(config: DistillConfig, spec: MethodSpec) -> float:
    """The image learning rate where the settings leave it open: the objective's own, by SGD times the factor.

    A loss of means over f**2 as many images has a gradient 1 / f**2 as long at each of them. A pixel of a
    tile adds up about f**2 pixels of its enlargement and moves as many, so that where the gradient does not
    change from pixel to pixel the two cancel; where its pixels are independent, f or more is left.
    docs/methods.md has what was measured. Adam's steps do not depend on the length of the gradient.
    """
    if config.factor is None or config.optimizer != "sgd" or spec.family == "coreset":
        return spec.image_lr
    return spec.image_lr * config.factor / spec.factor


def _check_modifiers(config: DistillConfig, spec: MethodSpec, sources: DomainDataset) -> None:
    wanted = modifiers_of(config)
    if "sgs" in wanted and spec.family == "coreset":
        raise ValueError(f"surgery acts on gradients, and the objective {spec.name!r} has none")
    for modifier in set(wanted) - set(spec.modifiers):
        if modifier == "dam":
            raise ValueError(f"domain masks belong to {names_where('dam')}, not to {spec.name}")
        if modifier == "fact":
            raise ValueError(f"fact mixes images before they are matched, which {spec.name} does not do")
        if modifier == "soft":
            raise ValueError(
                f"soft labels are what the network that {names_where('soft')} chooses by predicts, and "
                f"{spec.name} has none"
            )
        raise ValueError(f"{spec.name} does not take +{modifier}")
    if "dam" in wanted and config.experts is not None and config.experts.matching == "off":
        raise ValueError("domain masks need the matching loss: leave experts.matching on")
    if "sgs" in wanted and config.pseudo_domains is None and sources.num_domains == 1:
        raise ValueError(
            f"surgery compares the gradients of domains, and there is only {sources.domain_names[0]}: look "
            "for styles in it with pseudo_domains (--pseudo-domains 3), or leave +sgs out"
        )
