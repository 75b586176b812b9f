"""Settings of runs that take a moment, and a set to train on."""

from __future__ import annotations

import dataclasses

import torch

from dgdd_fast.config import DistillConfig, EvaluateConfig, NetworkConfig, SurgeryConfig
from dgdd_fast.data import normalise
from dgdd_fast.synthetic.distilled_set import DistilledSet

SMALL = DistillConfig(
    ipc=4,
    iterations=4,
    batch_real=6,
    image_lr=0.2,
    network=NetworkConfig(width=8, depth=2),
    checkpoint_every=2,
)
WITH_SURGERY = dataclasses.replace(SMALL, surgery=SurgeryConfig(alpha=1.5, beta=0.4))
MOSAICS = dataclasses.replace(WITH_SURGERY, factor=2, optimizer="adam", image_lr=0.01, clamp=True)
TINY = EvaluateConfig(runs=2, epochs=12, network=NetworkConfig(width=8))


def relative_change(first: torch.Tensor, second: torch.Tensor, start: torch.Tensor) -> float:
    return float((first - second).norm() / (second - start).norm())


def toy_set(data, per_class=6, flip_safe=True):
    """Real images of each class, of all domains, as a distilled set."""
    mean, std = data.channel_statistics()
    rows = torch.cat(
        [(data.labels == label).nonzero().flatten()[:: 36 // per_class] for label in range(data.num_classes)]
    )
    return DistilledSet(
        images=normalise(data.images[rows], mean, std),
        labels=data.labels[rows],
        domains=data.domains[rows],
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        class_names=data.class_names,
        domain_names=data.domain_names,
        flip_safe=flip_safe,
        config={},
        provenance={},
    )
