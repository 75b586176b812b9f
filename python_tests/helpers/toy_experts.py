"""Experts nobody trained: both ends of the line are random networks."""

from __future__ import annotations

from pathlib import Path

from dgdd_fast.config import NetworkConfig, PretrainConfig
from dgdd_fast.data import DomainDataset
from dgdd_fast.experts import ExpertPool
from dgdd_fast.networks import initialise
from dgdd_fast.seeds import generator

NETWORK = NetworkConfig(architecture="resnet18", width=4)


def toy_experts(folder: Path, data: DomainDataset, experts: int = 2) -> Path:
    """The folder of a pool for `data`."""
    mean, std = data.channel_statistics()
    pool = ExpertPool(
        folder=folder,
        config=PretrainConfig(experts=experts, network=NETWORK),
        data=data.name,
        class_names=data.class_names,
        domain_names=data.domain_names,
        resolution=data.resolution,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        fingerprint=data.fingerprint(),
    )
    for index in range(experts):
        ends = []
        for end in ("initial", "trained"):
            expert = pool.new_expert()
            initialise(expert.network, generator(0, "toy expert", index, end))
            initialise(expert.discriminators, generator(0, "toy discriminators", index, end))
            ends.append(dict(expert.named_parameters()))
        pool.write_expert(index, *ends)
        pool.log.append([])
        pool.write()
    return folder
