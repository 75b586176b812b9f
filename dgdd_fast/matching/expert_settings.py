"""The settings of objectives that match in experts."""

from __future__ import annotations

import dataclasses

from ..config import DistillConfig, ExpertConfig, MaskConfig, NetworkConfig, method_spec, names_where, to_dict
from ..data import DomainDataset
from ..experts import ExpertPool


def resolve_experts(config: DistillConfig, sources: DomainDataset) -> DistillConfig:
    """The settings of "mmd" or "cadm" with those of experts and masks made explicit. Without the name of a
    pool the network stays as it is.

    Raises ValueError for settings that cannot work, and where the pool is missing or is not for `sources`.
    """
    spec = method_spec(config)
    experts = config.experts or ExpertConfig()
    masks = (config.masks or MaskConfig()) if spec.masks else None
    terms = [experts.match, experts.regularise]
    if masks is None:
        if config.masks is not None:
            raise ValueError(f"masks are for {names_where('masks')}; {config.objective} has none")
    else:
        if masks.share == 1:
            raise ValueError("masks.share must be below 1, or no channel is left")
        terms.append(masks.consistency)
    if not any(terms):
        raise ValueError("experts.match and experts.regularise are both off: nothing is left to descend")
    if config.surgery is not None and not experts.match:
        raise ValueError("surgery acts on the domains' matching gradients: experts.match must be on")
    return dataclasses.replace(
        config,
        experts=experts,
        masks=masks,
        network=config.network if experts.pool is None else _network_of(experts.pool, config, sources),
    )


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
