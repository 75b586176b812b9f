"""The settings of objectives that match in experts."""

from __future__ import annotations

import dataclasses

from ..config import (
    DistillConfig,
    ExpertConfig,
    ExpertSettings,
    MaskConfig,
    MaskSettings,
    MethodSpec,
    NetworkConfig,
    filled,
    method_spec,
    names_where,
    settled,
    to_dict,
)
from ..data import DomainDataset
from ..experts import ExpertPool
from ..networks import build_staged_network

# A mask at the last stage adds about half a squared mean, over the number of masks, to the squared distance
# of two mean features. The inherited batch has this many.
MASKS_A_CLASS = 1024
MOST_DRAWS = 32


def resolve_experts(config: DistillConfig, sources: DomainDataset) -> DistillConfig:
    """The settings of "mmd" or "cadm" with those of experts and masks made explicit. Without the name of a
    pool the network stays as it is.

    Raises ValueError for settings that cannot work, and where the pool is missing or is not for `sources`.
    """
    spec = method_spec(config)
    term = "masked" if spec.masks else "plain"
    experts = filled(
        config.experts or ExpertConfig(), matching=term, regularisation=term, consistency=spec.masks
    )
    _check_terms(experts, config, spec)
    experts = filled(experts, interpolate=experts.matching != "masked")
    network = config.network if experts.pool is None else _network_of(experts.pool, config, sources)
    masks = None
    if spec.masks:
        parts = sources.num_domains if config.union == "balanced" else 1
        masks = _resolve_masks(config.masks or MaskConfig(), (config.batch_real or spec.batch_real) * parts)
        if experts.pool is not None:
            check_stages(masks, network, sources.resolution)
    return dataclasses.replace(config, experts=settled(ExpertSettings, experts), masks=masks, network=network)


def masks_an_image(real_per_class: int) -> int:
    """How many masks of the last stage a real image has where the settings leave it open, for the most real
    images of a class in an iteration."""
    return min(MOST_DRAWS, max(1, round(MASKS_A_CLASS / real_per_class)))


def check_stages(masks: MaskConfig, network: NetworkConfig, resolution: tuple[int, int]) -> None:
    """Raise ValueError where experts of `network` lack stages that are to be masked."""
    if masks.stages is None:
        return
    count = len(build_staged_network(1, resolution, network).channels)
    if max(masks.stages) > count:
        raise ValueError(
            f"masks.stages names stage {max(masks.stages)}, and a {network.architecture} has {count}"
        )


def _check_terms(experts: ExpertConfig, config: DistillConfig, spec: MethodSpec) -> None:
    terms = {name: getattr(experts, name) for name in ("matching", "regularisation", "consistency")}
    masked = [f"experts.{name}" for name, value in terms.items() if value in ("masked", True)]
    if not spec.masks:
        if config.masks is not None or masked:
            what = f"masks (here in {masked[0]})" if masked else "masks"
            raise ValueError(f"{what} are for {names_where('masks')}; {config.objective} has none")
    elif not masked:
        raise ValueError(
            f"{config.objective} masks something: experts.matching or experts.regularisation must be "
            "'masked', or experts.consistency on; without masks take mmd"
        )
    if set(terms.values()) == {"off", False}:
        raise ValueError(
            "experts.matching and experts.regularisation are both off: nothing is left to descend"
        )
    if config.surgery is not None and terms["matching"] == "off":
        raise ValueError(
            "surgery acts on the domains' matching gradients: experts.matching must be plain or masked"
        )


def _resolve_masks(masks: MaskConfig, real_per_class: int) -> MaskSettings:
    if masks.share == 1:
        raise ValueError("masks.share must be below 1, or no channel is left")
    if masks.stages is not None and (not masks.stages or len(set(masks.stages)) < len(masks.stages)):
        raise ValueError(f"masks.stages must name one or more, each once, got {list(masks.stages)}")
    return settled(MaskSettings, filled(masks, draws=masks_an_image(real_per_class)))


def _network_of(folder: str, config: DistillConfig, sources: DomainDataset) -> NetworkConfig:
    """The network of the experts in `folder`, which must be for `sources`."""
    try:
        pool = ExpertPool.load(folder)
    except FileNotFoundError as error:
        raise ValueError(
            f"there are no experts in {folder}: train them with `dgdd pretrain --out {folder}`"
        ) from error
    pool.check(sources)
    if to_dict(config.network) not in (to_dict(NetworkConfig()), to_dict(pool.config.network)):
        raise ValueError(
            f"{config.objective} compares features in its experts, which are {pool.config.network}; leave "
            f"`network` alone, got {config.network}"
        )
    return pool.config.network
