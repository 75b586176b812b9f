"""MMD and CADM: the literal formulation in float64, the terms of the loss, masks, resumed runs, errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cadm_literal
import pytest
import torch
from expert_matching_cases import DATA, experts, masks, settings, without_masks
from torch import Tensor
from toy_data import toy_domains, without_rows
from toy_experts import NETWORK, toy_experts

from dgdd_fast.config import (
    AugmentConfig,
    DistillConfig,
    ExpertConfig,
    ExpertSettings,
    MaskSettings,
    NetworkConfig,
    SurgeryConfig,
    to_dict,
)
from dgdd_fast.data import DomainDataset
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.distillation import (
    DistillationDivergedError,
    Progress,
    distill,
)
from dgdd_fast.experts import ExpertPoolError
from dgdd_fast.masking import draw_stage
from dgdd_fast.matching.batches import real_batch
from dgdd_fast.matching.expert_matching import Regularisation
from dgdd_fast.matching.registry import build_objective
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.synthetic.gradients import ImageGradients, summed
from dgdd_fast.synthetic.mosaics import tiles

CPU = torch.device("cpu")


class Setting(cadm_literal.Run):
    """A run on `data`, its first tiles, and its gradients."""

    def __init__(self, config: DistillConfig, data: DomainDataset = DATA, device: torch.device = CPU) -> None:
        super().__init__(data, config)
        real = RealImages(data, self.mean, self.std, device)
        self.objective = build_objective(real, self.config, self.assigned.flatten())
        self.tiles = self.tiles.to(device)

    def gradients(self, iteration: int, by_domain: bool = False) -> ImageGradients:
        return self.objective.gradients(self.tiles, iteration, by_domain)


def assert_same_gradient(found: Tensor, expected: Tensor) -> None:
    """Up to float32 rounding, which is large for the rare image that has a ReLU at its kink."""
    norms = expected.flatten(1).norm(dim=1)
    errors = (found - expected).flatten(1).norm(dim=1)
    assert float((errors < 1e-3 * norms).float().mean()) > 0.8
    assert float(errors.norm()) < 0.1 * float(norms.norm())


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


CASES = {
    "mmd": without_masks,
    "mmd, trained experts": lambda config: experts(without_masks(config), interpolate=False),
    "cadm": lambda config: config,
    "cadm, pixel scores, no rescaling": lambda config: masks(config, score="pixel", rescale=False, share=0.6),
    "cadm without mosaics": lambda config: dataclasses.replace(config, factor=1),
    "cadm between the two ends of an expert": lambda config: experts(config, interpolate=True),
    "cadm, one mask an image, of stage 2 or 3": lambda config: masks(config, draws=1, stages=(2, 3)),
    "cadm, three masks an image, of the last stage": lambda config: masks(config, draws=3, stages=(4,)),
    "L_adm alone": lambda config: experts(config, regularisation="off", consistency=False),
    "L_reg alone": lambda config: experts(config, matching="off", consistency=False),
    "L_cons alone": lambda config: experts(config, matching="off", regularisation="off"),
    "L_adm and the plain cross entropy": lambda config: experts(
        config, regularisation="plain", consistency=False
    ),
    "L_cons and the plain terms": lambda config: experts(config, matching="plain", regularisation="plain"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_gradient_is_that_of_the_literal_formulation_in_float64(case, folder: str) -> None:
    setting = Setting(case(settings(folder)))
    for iteration in range(3):
        expected = cadm_literal.literal_gradient(setting, iteration)
        found = setting.gradients(iteration)
        assert found.union is not None
        if bool((expected == 0).all()):
            assert bool((found.union == 0).all())
        else:
            assert_same_gradient(found.union, expected)


def test_by_domain_are_matching_gradients_and_the_union_has_the_regularisation_too(folder: str) -> None:
    # cells of 5, 3 and 0 real images: the domains' shares differ
    data = without_rows(without_rows(DATA, 1, 2, keep=3), 2, 0, keep=0)
    pool = toy_experts(Path(folder).parent / "uneven", data)
    setting = Setting(settings(str(pool)), data)
    found = setting.gradients(1, by_domain=True)
    assert found.by_domain is not None
    assert found.union is not None
    for domain in range(3):
        filled = setting.objective.labels != 2 if domain == 0 else slice(None)
        assert_same_gradient(
            found.by_domain[domain][filled], cadm_literal.matching_gradient(setting, 1, domain)[filled]
        )
    _, sizes = real_batch(data.cells(), 5, setting.config.seed, 1)
    shares = (sizes / sizes.sum(1, keepdim=True))[setting.objective.labels].T[:, :, None, None, None]
    part = setting.objective.regularisation
    _, regularisation = part.gradients(setting.tiles, part.plan(1))
    assert float(regularisation.norm()) > 0
    torch.testing.assert_close(found.union, (shares * found.by_domain).sum(0) + regularisation)
    assert found.apart is not None
    assert torch.equal(found.apart, regularisation)
    assert found.valid is not None
    assert not found.valid[0, setting.objective.labels == 2].any()
    assert relative_error(found.union, setting.gradients(1).union) < 1e-3
    whole = Setting(settings(folder)).gradients(1, by_domain=True)
    assert whole.union is not None  # the plain mean of the domains would lack the regularisation


def test_the_terms_are_named_and_add_up_to_the_loss(folder: str) -> None:
    seen: list[Progress] = []
    distill(DATA, settings(folder, iterations=8), progress=seen.append)
    assert [set(state.terms) for state in seen] == [{"matching", "regularisation", "consistency"}] * 8
    assert all(state.loss == pytest.approx(sum(state.terms.values())) for state in seen)
    config = resolve_distillation(settings(folder), DATA)
    for iteration, state in enumerate(seen):
        masked = draw_stage(config.masks, 4, config.seed, "regularisation", iteration) is not None
        assert (state.terms["consistency"] > 0) == masked
    assert {state.terms["consistency"] > 0 for state in seen} == {True, False}


def test_chunks_change_nothing_but_rounding(folder: str) -> None:
    config = settings(folder)
    roomy, tight = (
        Setting(dataclasses.replace(config, memory_budget_mib=budget)).gradients(3, by_domain=True)
        for budget in (2048, 1)
    )
    assert relative_error(tight.union, roomy.union) < 1e-3
    assert relative_error(tight.by_domain, roomy.by_domain) < 1e-3


def test_every_device_finds_the_same_gradient(folder: str, device: torch.device) -> None:
    config = settings(folder)
    on_cpu = Setting(config).gradients(0, by_domain=True)
    found = Setting(config, device=device).gradients(0, by_domain=True)
    for one, other in ((found.union, on_cpu.union), (found.by_domain[1], on_cpu.by_domain[1])):
        assert_same_gradient(one.cpu(), other)


@pytest.mark.parametrize("objective", ["mmd", "cadm"])
def test_every_term_falls(objective: str, tmp_path: Path) -> None:
    """In one expert and without augmentation; random networks tell little else about images of 16 px."""
    config = settings(
        str(toy_experts(tmp_path, DATA, experts=1)),
        objective,
        iterations=40,
        init="noise",
        batch_real=8,
        augment=AugmentConfig(strategy="none"),
    )
    before = Setting(experts(config, interpolate=False))
    after = Setting(before.config)
    after.tiles = tiles(distill(DATA, before.config).images, 2)
    losses = [
        sum(summed(each.gradients(step).losses) for step in range(100, 106)) for each in (before, after)
    ]
    assert float(losses[1][0]) < 0.7 * float(losses[0][0])
    assert float(losses[1][1]) < float(losses[0][1])
    assert float(losses[1][2]) < float(losses[0][2]) or objective == "mmd"


def test_the_objectives_own_settings_are_recorded(folder: str) -> None:
    plain = DistillConfig(objective="cadm", experts=ExpertConfig(pool=folder))
    config = resolve_distillation(plain, DATA)
    assert (config.factor, config.optimizer, config.image_lr, config.clamp) == (2, "adam", 1e-3, True)
    assert config.batch_real == 341  # 1024 a class over three domains
    assert (config.augment.strategy, config.augment.composition) == ("color_crop_cutout", "sequence")
    assert to_dict(config.network) == to_dict(NETWORK)
    assert config.experts == ExpertSettings(
        pool=folder, interpolate=False, matching="masked", regularisation="masked", consistency=True
    )
    assert config.masks == MaskSettings(draws=1)
    assert resolve_distillation(config, DATA) == config
    mine = dataclasses.replace(plain, factor=1, optimizer="sgd", image_lr=0.1, clamp=False, batch_real=7)
    kept = resolve_distillation(mine, DATA)
    assert (kept.factor, kept.optimizer, kept.image_lr, kept.clamp, kept.batch_real) == (
        1, "sgd", 0.1, False, 7,
    )  # fmt: skip
    assert kept.masks == MaskSettings(draws=32)  # 21 real images a class
    baseline = resolve_distillation(dataclasses.replace(plain, objective="mmd"), DATA)
    assert baseline.masks is None
    assert baseline.experts == ExpertSettings(
        pool=folder, interpolate=True, matching="plain", regularisation="plain", consistency=False
    )
    regularised = resolve_distillation(experts(plain, matching="plain"), DATA).experts
    assert regularised is not None
    assert regularised.interpolate


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: experts(config, pool="nowhere"), "no experts in nowhere: train them with `dgdd pre"),
        (lambda config: experts(config, matching="off", regularisation="off"), None),
        (
            lambda config: experts(config, matching="off", regularisation="off", consistency=False),
            "cadm masks something.*without masks take mmd",
        ),
        (
            lambda config: experts(config, matching="plain", regularisation="plain", consistency=False),
            "cadm masks something.*without masks take mmd",
        ),
        (
            lambda config: experts(without_masks(config), matching="off", regularisation="off"),
            "nothing is left to descend",
        ),
        (
            lambda config: experts(without_masks(config), matching="masked"),
            r"masks \(here in experts.matching\) are for cadm; mmd has none",
        ),
        (
            lambda config: experts(without_masks(config), consistency=True),
            r"masks \(here in experts.consistency\) are for cadm; mmd has none",
        ),
        (
            lambda config: dataclasses.replace(experts(config, matching="off"), surgery=SurgeryConfig()),
            "experts.matching must be plain or masked",
        ),
        (lambda config: experts(config, matching="on"), "experts.matching must be one of 'off', 'plain'"),
        (lambda config: masks(config, stages=()), "masks.stages must name one or more, each once, got"),
        (lambda config: masks(config, stages=(2, 5)), "masks.stages names stage 5, and a resnet18 has 4"),
        (lambda config: masks(config, stages=(2, 2)), r"each once, got \[2, 2\]"),
        (lambda config: masks(config, draws=0), "masks.draws must be at least 1"),
        (lambda config: masks(config, share=1.0), "masks.share must be below 1"),
        (lambda config: masks(config, share=-0.1), r"masks.share must lie in \[0, 1\], got -0.1"),
        (lambda config: masks(config, activation_probability=2.0), "masks.activation_probability must lie"),
        (lambda config: masks(config, consistency_weight=-1.0), "masks.consistency_weight must be 0 or more"),
        (lambda config: dataclasses.replace(masks(config), objective="mmd"), "masks are for cadm"),
        (
            lambda config: dataclasses.replace(without_masks(config), objective="dm"),
            "settings of mmd and cadm, not of dm",
        ),
        (
            lambda config: dataclasses.replace(config, network=NetworkConfig(width=8)),
            "compares features in its experts",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message: str | None, folder: str) -> None:
    config = change(settings(folder))
    if message is None:
        resolve_distillation(config, DATA)
        return
    with pytest.raises(ValueError, match=message):
        resolve_distillation(config, DATA)


def test_settings_are_resolved_before_there_are_experts_but_nothing_is_distilled(folder: str) -> None:
    config = experts(settings(folder), pool=None)
    assert (
        resolve_distillation(config, DATA).batch_real
        == resolve_distillation(settings(folder), DATA).batch_real
    )
    with pytest.raises(ValueError, match=r"masks.share must lie"):
        resolve_distillation(masks(config, share=1.5), DATA)
    with pytest.raises(ValueError, match=r"train them with `dgdd pretrain`.*--experts FOLDER"):
        distill(DATA, config)


def test_experts_for_other_images_are_refused(folder: str) -> None:
    with pytest.raises(ExpertPoolError, match="other images"):
        distill(toy_domains(per_cell=8, seed=1), settings(folder))


def test_a_nan_is_named(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Regularisation.gradients

    def poisoned(self: Regularisation, images: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        losses, gradient = honest(self, images, *given)
        gradient[9] = float("nan")  # tile 9 is of class 1
        return losses, gradient

    monkeypatch.setattr(Regularisation, "gradients", poisoned)
    for surgery in (None, SurgeryConfig()):
        with pytest.raises(DistillationDivergedError, match="class class1 at iteration 0"):
            distill(DATA, settings(folder, surgery=surgery))


def test_half_precision_real_features_change_the_gradient_little(folder: str) -> None:
    exact = Setting(settings(folder)).gradients(3).union
    half = Setting(settings(folder, precision="bfloat16")).gradients(3).union
    assert 0 < relative_error(half, exact) < 0.1


def test_the_networks_stay_as_the_pool_says(folder: str) -> None:
    setting = Setting(settings(folder))
    setting.gradients(0, by_domain=True)
    network = setting.objective.matching.space.network
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())
