"""Where the synthetic images are the real ones, every objective is at its minimum: gradient zero, and no NaN
from an infinite slope times zero in a distance, a norm, an arccosh or a square root."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from toy_data import toy_domains
from toy_experts import toy_experts

from dgdd_fast.config import METHODS, DistillConfig, ExpertConfig, NetworkConfig, SurgeryConfig
from dgdd_fast.data import DomainDataset, normalise
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.distillation import distill
from dgdd_fast.matching.expert_matching import ExpertMatching
from dgdd_fast.matching.registry import build_objective
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.synthetic.gradients import ImageGradients

SMALL = DistillConfig(
    ipc=1, factor=1, iterations=2, batch_real=8, network=NetworkConfig(width=8, depth=2), clamp=False
)
OBJECTIVES = [name for name, spec in METHODS.items() if spec.family != "coreset"]
VARIANTS = [(name, {}) for name in OBJECTIVES] + [("m3d", {"kernel_bandwidth": "domain"})]


def settings_of(objective: str, data: DomainDataset, folder: Path, changes: dict[str, str]) -> DistillConfig:
    config = dataclasses.replace(SMALL, objective=objective, **changes)
    if METHODS[objective].family != "experts":
        return config
    # The regularisation is a loss of its own, and so is the consistency that CADM cannot be without. Masks,
    # which CADM lays over the real images alone, make two sets of one.
    pool, masks = str(toy_experts(folder, data)), METHODS[objective].masks
    experts = ExpertConfig(pool, regularisation="off", matching="plain", consistency=masks)
    return dataclasses.replace(config, network=NetworkConfig(), experts=experts)


def gradients_at_the_data(
    data: DomainDataset, config: DistillConfig, rows: torch.Tensor, by_domain: bool
) -> ImageGradients:
    """Of the images in `rows`, class by class, as synthetic images."""
    mean, std = data.channel_statistics()
    settings = resolve_distillation(dataclasses.replace(config, ipc=len(rows) // data.num_classes), data)
    objective = build_objective(
        RealImages(data, mean, std, torch.device("cpu")), settings, data.domains[rows]
    )
    if isinstance(objective, ExpertMatching):
        objective = objective.matching
    return objective.gradients(normalise(data.images[rows], mean, std), 0, by_domain=by_domain)


def copied_domain(per_cell: int) -> DomainDataset:
    """Two domains of the same images, class by class."""
    data = toy_domains(per_cell=per_cell, domains=1)
    order = torch.arange(len(data)).view(-1, per_cell).repeat(1, 2).flatten()
    domains = torch.arange(2).repeat_interleave(per_cell).repeat(data.num_classes)
    names = tuple(f"{row} of {domain}" for row, domain in zip(order.tolist(), domains.tolist(), strict=True))
    return dataclasses.replace(
        data.select(order), domains=domains, item_names=names, domain_names=("first", "second")
    )


@pytest.mark.parametrize("by_domain", [False, True], ids=["union", "by domain"])
@pytest.mark.parametrize("per_cell", [1, 3])
@pytest.mark.parametrize("domains", [1, 2])
@pytest.mark.parametrize(("objective", "changes"), VARIANTS)
def test_identical_sets_have_no_gradient(
    tmp_path: Path, objective: str, changes: dict[str, str], domains: int, per_cell: int, by_domain: bool
) -> None:
    data = toy_domains(per_cell=per_cell, domains=1) if domains == 1 else copied_domain(per_cell)
    config = settings_of(objective, data, tmp_path, changes)
    rows = (data.domains == 0).nonzero().flatten()
    found = gradients_at_the_data(data, config, rows, by_domain)
    apart = gradients_at_the_data(data, config, rows.roll(per_cell), by_domain)
    scale = float(apart.union_gradient().norm())
    assert scale > 0
    for part in (found.union_gradient(), *(() if found.by_domain is None else found.by_domain)):
        assert float(part.norm()) < 1e-3 * scale


@pytest.mark.parametrize(("objective", "changes"), VARIANTS)
def test_one_image_of_each_domain_is_its_own_set(
    tmp_path: Path, objective: str, changes: dict[str, str]
) -> None:
    """Against each domain there is one real image, which is one of the synthetic ones."""
    data = toy_domains(per_cell=1)
    config = settings_of(objective, data, tmp_path, changes)
    config = dataclasses.replace(config, surgery=SurgeryConfig())
    for rows in (torch.arange(9), torch.tensor([0, 3, 6])):
        found = gradients_at_the_data(data, config, rows, by_domain=True)
        assert found.by_domain is not None
        assert torch.isfinite(found.by_domain).all()
        assert torch.isfinite(found.union_gradient()).all()


@pytest.mark.parametrize("surgery", [None, SurgeryConfig()], ids=["alone", "sgs"])
@pytest.mark.parametrize(("objective", "changes"), VARIANTS)
def test_a_run_on_images_that_are_all_the_same_ends(
    tmp_path: Path, objective: str, changes: dict[str, str], surgery: SurgeryConfig | None
) -> None:
    """Equal images of one colour: features, their norms and their spreads may vanish."""
    data = toy_domains(per_cell=2, domains=2)
    data = dataclasses.replace(
        data, images=torch.full_like(data.images, 100), is_test=torch.zeros(12, dtype=torch.bool)
    )
    config = settings_of(objective, data, tmp_path, changes)
    result = distill(data.train(), dataclasses.replace(config, surgery=surgery))
    assert torch.isfinite(result.images).all()
