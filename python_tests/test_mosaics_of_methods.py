"""Mosaics with every method: distilled, stopped, resumed, exported, imported again, evaluated, reported; and
learning rates that move their enlarged tiles as far as images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_runs import SMALL
from toy_data import toy_domains
from toy_experts import toy_experts

from dgdd_fast.config import (
    METHODS,
    DistillConfig,
    EvaluateConfig,
    ExpertConfig,
    NetworkConfig,
    method_spec,
    with_method,
)
from dgdd_fast.config.run import RunConfig, write_run_config
from dgdd_fast.data import DomainDataset
from dgdd_fast.distillation import distill
from dgdd_fast.evaluation import evaluate
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.report.run_page import write_run_report
from dgdd_fast.synthetic.distilled_set import DistilledSet
from dgdd_fast.synthetic.export import export_dm
from dgdd_fast.synthetic.foreign_sets import read_foreign_set
from dgdd_fast.synthetic.mosaics import decode, tiles

DATA = toy_domains(side=12)
TESTS = {"test": DATA.test()}
TINY = EvaluateConfig(runs=1, epochs=1, network=NetworkConfig(width=4, depth=2))
QUICK = {"dm+sgs", "m3d", "dc", "cadm+sgs", "rded"}  # a way through the package each
CASES = [
    pytest.param(
        method, factor, id=f"{method}, {factor}", marks=() if quick and factor == 2 else pytest.mark.slow
    )
    for name, spec in METHODS.items()
    for method in (name, *(f"{name}+{modifier}" for modifier in spec.modifiers))
    for quick in [method in QUICK]
    for factor in (2, 3)
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(toy_experts(tmp_path_factory.mktemp("experts"), DATA.train()))


def settings(method: str, factor: int, pool: str) -> DistillConfig:
    small = dataclasses.replace(SMALL, iterations=2, image_lr=None, factor=factor, herding_epochs=1)
    config = with_method(dataclasses.replace(small, checkpoint_every=1), method)
    if method_spec(config).family == "experts":
        experts = ExpertConfig(pool=pool)
        config = dataclasses.replace(config, experts=experts, batch_real=6, network=NetworkConfig())
    return config


@pytest.mark.parametrize(("method", "factor"), CASES)
def test_from_start_to_report(method: str, factor: int, pool: str, tmp_path: Path) -> None:
    config, folder = settings(method, factor, pool), tmp_path / "run"
    folder.mkdir()
    whole = distill(DATA.train(), config)
    assert whole.images.shape == (12, 3, 12, 12)
    assert len(whole) == 12 * factor**2
    plain = resolve_distillation(dataclasses.replace(config, factor=1), DATA.train())
    if method_spec(config).family == "coreset":
        assert plain.image_lr == whole.config["image_lr"]
        stopped = whole
    else:
        scale = factor if plain.optimizer == "sgd" else 1
        assert whole.config["image_lr"] == pytest.approx(plain.image_lr * scale / (plain.factor or 1))
        distill(DATA.train(), dataclasses.replace(config, iterations=1), run_folder=folder)
        stopped = distill(DATA.train(), config, run_folder=folder, resume=True)
    assert torch.equal(stopped.images, whole.images)

    stopped.save(folder / "distilled.safetensors")
    kept = DistilledSet.load(folder / "distilled.safetensors")
    assert torch.equal(kept.training_images.images, whole.training_images.images)
    export_dm(kept, tmp_path / "set.pt")
    again = read_foreign_set(tmp_path / "set.pt").own
    assert again is not None
    assert (again.factor, torch.equal(again.images, whole.images)) == (factor, True)
    assert 0 <= evaluate(kept, TESTS, TINY).mean("test") <= 100
    write_run_config(folder / "config.yaml", RunConfig(distill=config))
    if method == "dm+sgs":  # most of the time goes into its pictures, which are much alike
        sections = {part.title: part for part in write_run_report(folder / "report.html", folder, DATA)}
        assert sections["Images"].pictures


def moved(data: DomainDataset, config: DistillConfig) -> float:
    """How far the first step moves the pixels that networks are trained on: the root mean square."""
    before: list[DistilledSet] = []
    after = distill(data, config, started=before.append)
    ends = (decode(tiles(part.images, part.factor), part.factor) for part in (before[0], after))
    start, end = ends
    return float((end - start).double().square().mean().sqrt())


@pytest.fixture(scope="module")
def smooth() -> DomainDataset:
    """Images without detail, so that those that tiles begin with have lost nothing."""
    data = toy_domains(side=8)
    images = F.interpolate(data.images[:].float(), scale_factor=3.0, mode="bicubic").round().clamp(0, 255)
    return dataclasses.replace(data, images=images.byte())


@pytest.mark.parametrize("method", ["dm", "hdd", "datadam", "m3d"])
def test_a_step_moves_enlarged_tiles_about_as_far_as_images(smooth: DomainDataset, method: str) -> None:
    config = DistillConfig(ipc=6, iterations=1, batch_real=12, network=NetworkConfig(width=16))
    config = with_method(config, method)
    images = moved(smooth, config)
    for factor in (2, 3):
        share = moved(smooth, dataclasses.replace(config, factor=factor)) / images
        assert 0.5 < share < 2, factor


def test_a_rate_that_is_named_is_taken_as_it_is() -> None:
    config = dataclasses.replace(SMALL, factor=2, image_lr=0.5)
    assert resolve_distillation(config, DATA).image_lr == 0.5
    for factor, rate in ((1, 100.0), (2, 200.0), (3, 300.0)):
        m3d = DistillConfig(objective="m3d", factor=factor)
        assert resolve_distillation(m3d, DATA).image_lr == rate
    for factor in (1, 2, 3):  # Adam's steps do not depend on the length of the gradient
        adam = DistillConfig(factor=factor, optimizer="adam", image_lr=None)
        assert resolve_distillation(adam, DATA).image_lr == 1.0
