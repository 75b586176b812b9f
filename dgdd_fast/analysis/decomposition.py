"""The gradients that Spectral Gradient Surgery would see at the images of a distilled set."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..config import DistillConfig, SurgeryConfig, from_dict
from ..data import DomainDataset
from ..distillation import as_seen, build_objective, resolve
from ..surgery import Decomposition, decompose
from ..synthetic.distilled_set import DistilledSet
from ..synthetic.mosaics import tiles


def decompose_images(distilled: DistilledSet, sources: DomainDataset, rows: Sequence[int]) -> Decomposition:
    """g, g_cls, g_dom and R of the tiles `rows` in the iteration that would come next, on the CPU.

    Network, augmentation and real batch are those that the run draws for that iteration.

    Args:
        distilled: the set; its configuration says how it was compared with the real images.
        sources: the images it was distilled from.
        rows: which tiles, n of them: images, where they are no mosaics.

    Raises ValueError where a class has no image in one of the domains: its gradients cannot be compared.
    """
    config = from_dict(DistillConfig, distilled.config)
    sources = as_seen(sources, config, torch.device("cpu"))
    config = resolve(config, sources)
    mean, std = torch.tensor(distilled.mean), torch.tensor(distilled.std)
    objective = build_objective(sources, config, mean, std, distilled.domains, torch.device("cpu"))
    images = tiles(distilled.images, distilled.factor)
    gradients = objective.gradients(images, distilled.provenance["iterations"], by_domain=True)
    if gradients.by_domain is None or gradients.valid is not None:
        raise ValueError("a class has no image in one of the domains, so there is no gradient to compare")
    chosen = torch.as_tensor(rows)
    return decompose(
        gradients.by_domain[:, chosen],
        None if gradients.union is None else gradients.union[chosen],
        distilled.domains[chosen],
        config.surgery or SurgeryConfig(),
    )
