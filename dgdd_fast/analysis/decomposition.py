"""The gradients that Spectral Gradient Surgery would see at the images of a distilled set."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..config import DistillConfig, SurgeryConfig, from_dict
from ..data import DomainDataset
from ..data.pseudo_domains import apply_pseudo_domains
from ..data.real_images import RealImages
from ..matching.registry import build_objective
from ..matching.resolve import resolve_distillation
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
    cpu = torch.device("cpu")
    sources = apply_pseudo_domains(sources, config, cpu)
    settings = resolve_distillation(config, sources)
    real = RealImages(sources, distilled.mean, distilled.std, cpu)
    objective = build_objective(real, settings, distilled.domains)
    images = tiles(distilled.images, distilled.factor)
    gradients = objective.gradients(images, distilled.provenance["iterations"], by_domain=True)
    if gradients.by_domain is None or gradients.valid is not None:
        raise ValueError("a class has no image in one of the domains, so there is no gradient to compare")
    chosen = torch.as_tensor(rows)
    return decompose(
        gradients.by_domain[:, chosen],
        None if gradients.union is None else gradients.union[chosen],
        distilled.domains[chosen],
        settings.surgery or SurgeryConfig(),
    )
