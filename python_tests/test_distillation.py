"""The distillation loop: the literal formulation, determinism, resume, interruptions, divergence."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import sgs_literal
import torch
import torch.nn.functional as F
from small_runs import MOSAICS, SMALL, WITH_SURGERY, relative_change
from toy_data import toy_domains, without_rows

from dgdd_fast.config import (
    DomainMaskConfig,
    NetworkConfig,
    SurgeryConfig,
    to_dict,
    with_method,
)
from dgdd_fast.data import normalise
from dgdd_fast.data.augment import augment, draw_siamese
from dgdd_fast.data.pseudo_domains import with_pseudo_domains
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.distillation import (
    distill,
)
from dgdd_fast.matching.batches import real_batch
from dgdd_fast.matching.feature_matching import FeatureMatching
from dgdd_fast.matching.registry import build_objective
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.networks import ConvNet, initialise
from dgdd_fast.seeds import generator
from dgdd_fast.synthetic.initial import assign_domains, initial_tiles
from dgdd_fast.synthetic.mosaics import reduce, tiles

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("cells", ["full", "a small cell", "an empty cell"])
@pytest.mark.parametrize(
    "surgery",
    [
        None,
        SurgeryConfig(1.5, 0.4),
        SurgeryConfig(0.7, 1.2, consensus="mean"),
        SurgeryConfig(1.5, 0.4, length="gradient"),
    ],
    ids=str,
)
def test_same_images_as_the_literal_formulation(surgery: SurgeryConfig | None, cells: str) -> None:
    data = toy_domains()
    if cells != "full":
        data = without_rows(data, 1, 2, keep=3 if cells == "a small cell" else 0)
    config = dataclasses.replace(SMALL, surgery=surgery)
    fast = distill(data, config).images
    literal = sgs_literal.literal_distill(data, config)
    start = distill(data, dataclasses.replace(config, iterations=0)).images
    # The images move by about their own size; float32 rounding through the network is what remains.
    assert relative_change(fast, literal, start) < 2e-4


@pytest.mark.parametrize("surgery", [None, SurgeryConfig(1.5, 0.4)], ids=["alone", "sgs"])
@pytest.mark.parametrize("objective", ["dm", "hdd", "m3d", "dc"])
def test_a_literal_union_is_the_literal_formulation(objective: str, surgery: SurgeryConfig | None) -> None:
    data = without_rows(toy_domains(), 1, 2, keep=3)
    rate = {"dm": 0.2, "hdd": 0.2, "m3d": 20.0, "dc": 1.0}[objective]
    config = dataclasses.replace(
        SMALL, objective=objective, surgery=surgery, iterations=2, image_lr=rate, union="literal"
    )
    fast = distill(data, config).images
    start = distill(data, dataclasses.replace(config, iterations=0)).images
    assert relative_change(fast, sgs_literal.literal_distill(data, config), start) < 1e-3
    balanced = distill(data, dataclasses.replace(config, union="balanced")).images
    assert relative_change(fast, balanced, start) > 0.01


OBJECTIVES = {
    "hdd": {"objective": "hdd", "image_lr": 0.2},
    "datadam": {"objective": "datadam", "image_lr": 1.0},
    "datadam power 4": {"objective": "datadam", "image_lr": 1.0, "attention_power": 4.0},
    "m3d": {"objective": "m3d", "image_lr": 20.0},
    "m3d own bandwidth": {"objective": "m3d", "image_lr": 20.0, "kernel_bandwidth": "domain"},
    "dc": {"objective": "dc", "image_lr": 1.0},
}


@pytest.mark.parametrize("cells", ["full", "a small cell", "an empty cell"])
@pytest.mark.parametrize("surgery", [None, SurgeryConfig(1.5, 0.4)], ids=["alone", "sgs"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_its_literal_formulation(
    name: str, surgery: SurgeryConfig | None, cells: str
) -> None:
    data = toy_domains()
    if cells != "full":
        data = without_rows(data, 1, 2, keep=3 if cells == "a small cell" else 0)
    config = dataclasses.replace(SMALL, surgery=surgery, iterations=2, **OBJECTIVES[name])
    fast = distill(data, config).images
    literal = sgs_literal.literal_distill(data, config)
    start = distill(data, dataclasses.replace(config, iterations=0)).images
    assert (literal - start).square().mean().sqrt() > 0.01  # something moved, in image standard deviations
    assert relative_change(fast, literal, start) < 1e-3


@pytest.mark.parametrize("method", ["dm", "hdd", "datadam", "datadam-bn", "m3d", "dc", "dm+fact"])
def test_devices_agree_on_the_gradients(method: str, device: torch.device) -> None:
    data = without_rows(toy_domains(), 1, 2, keep=0)
    config = resolve_distillation(with_method(SMALL, method), data)
    mean, std = data.channel_statistics()
    domains = assign_domains(data.counts(), 4)
    start = initial_tiles(data, domains, config, mean, std)
    here, there = (
        build_objective(RealImages(data, mean, std, place), config, domains.flatten()).gradients(
            start.to(place), 0, True
        )
        for place in (torch.device("cpu"), device)
    )
    for expected, actual in zip(here[:4], there[:4], strict=True):
        assert expected is not None
        assert actual is not None
        expected, actual = expected.double(), actual.cpu().double()
        torch.testing.assert_close(actual, expected, rtol=1e-2, atol=2e-3 * float(expected.max()))


@pytest.mark.parametrize("cells", ["full", "an empty cell"])
def test_batch_normalised_attention_against_plain_layers(cells: str) -> None:
    """DataDAM as released: every pass over all classes, its images sharing the statistics."""
    data = toy_domains()
    if cells != "full":
        data = without_rows(data, 1, 2, keep=0)
    config = resolve_distillation(dataclasses.replace(SMALL, objective="datadam-bn"), data)
    assert config.network.norm == "batch"
    mean, std = data.channel_statistics()
    domains = assign_domains(data.counts(), 4)
    start = initial_tiles(data, domains, config, mean, std)
    objective = build_objective(RealImages(data, mean, std, torch.device("cpu")), config, domains.flatten())
    found = objective.gradients(start, 7, by_domain=True)
    assert found.by_domain is not None
    assert found.union is not None

    network = ConvNet(3, (16, 16), config.network)
    initialise(network, generator(config.seed, "network", 7))
    draw = draw_siamese(config.augment, (16, 16), 3, generator(config.seed, "augment", 7))
    rows, _ = real_batch(data.cells(), 6, config.seed, 7)

    def parts(images: torch.Tensor, labels: torch.Tensor) -> dict[int, list[torch.Tensor]]:
        maps, compared = augment(images, draw, labels), []
        for block in network.stages:
            maps = F.conv2d(maps, block.convolution.weight, block.convolution.bias, padding=1)
            maps = F.batch_norm(maps, None, None, training=True).relu()
            compared.append(F.normalize(maps.sum(1).flatten(1), dim=1))
            maps = F.avg_pool2d(maps, 2)
        compared = [*compared[:-1], 0.1 * maps.flatten(1)]
        return {
            label: [10 * part[labels == label].mean(0) for part in compared]
            for label in labels.unique().tolist()
        }

    for domain in (None, 0, 1, 2):
        real = rows if domain is None else rows[data.domains[rows] == domain]
        targets = parts(normalise(data.images[real], mean, std), data.labels[real])
        images = start.clone().requires_grad_()
        seen = parts(images, torch.arange(3).repeat_interleave(4))
        loss = sum(
            (own - other).square().sum()
            for label in targets
            for own, other in zip(seen[label], targets[label], strict=True)
        )
        (expected,) = torch.autograd.grad(loss, images)
        actual = found.union if domain is None else found.by_domain[domain]
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert (found.valid is None) == (cells == "full")


@pytest.mark.parametrize("objective", ["dm", "hdd", "datadam", "m3d"])
def test_chunks_change_nothing_but_rounding(objective: str) -> None:
    data = toy_domains(side=16, per_cell=20)
    config = dataclasses.replace(
        WITH_SURGERY,
        objective=objective,
        ipc=24,
        network=NetworkConfig(width=64, depth=2),
        batch_real=20,
        image_lr=20.0 if objective == "m3d" else 0.2,
        iterations=2,
    )
    roomy = distill(data, config).images
    # 1 MiB holds four images' graphs: forwards in small chunks, graphs built again for their backward.
    tight = distill(data, dataclasses.replace(config, memory_budget_mib=1)).images
    start = distill(data, dataclasses.replace(config, iterations=0)).images
    assert relative_change(tight, roomy, start) < 2e-4


def test_mosaics_move_tile_by_tile_and_stay_within_the_pixel_range() -> None:
    data = toy_domains()
    start = distill(data, dataclasses.replace(MOSAICS, iterations=0))
    end = distill(data, dataclasses.replace(MOSAICS, iterations=20, image_lr=0.05))
    assert end.images.shape == (12, 3, 16, 16)
    assert torch.equal(end.domains, assign_domains(data.counts(), 4, factor=2).flatten())
    assert end.training_images.images.shape == (48, 3, 16, 16)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (end.mean, end.std))
    pixels = [images * std + mean for images in (start.images, end.images)]
    assert float(pixels[1].min()) > -1e-6
    assert float(pixels[1].max()) < 1 + 1e-6
    moved = (pixels[1] - pixels[0]).abs()
    assert (moved.flatten(1).mean(1) > 0.01).all()
    # without clamping the same run leaves the range
    free = distill(data, dataclasses.replace(MOSAICS, iterations=20, image_lr=0.05, clamp=False))
    assert float((free.images * std + mean).max()) > 1.05


def test_the_first_mosaics_are_shrunken_real_images_of_the_tiles_cells() -> None:
    data = toy_domains(per_cell=16)
    config = dataclasses.replace(SMALL, ipc=1, factor=2, objective="random")
    result = distill(data, config)
    mean, std = data.channel_statistics()
    real = reduce(normalise(data.images, mean, std), 2)
    shown = tiles(result.images, 2)
    rows = [(real == tile).flatten(1).all(1).nonzero().item() for tile in shown]
    assert len(set(rows)) == 12
    assert torch.equal(data.labels[rows], torch.arange(3).repeat_interleave(4))
    assert torch.equal(data.domains[rows], result.domains)
    # one image a class, three domains: the tiles are dealt out evenly
    assert torch.bincount(result.domains).tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("method", "image_lr", "share"),
    [
        ("dm", 2.0, 0.5),
        ("dm+sgs", 2.0, 0.5),
        ("hdd", 1.0, 0.8),
        ("hdd+sgs", 1.0, 0.8),
        ("datadam", 1.0, 0.4),
        ("datadam-bn+sgs", 1.0, 0.8),
        ("m3d", 100.0, 0.8),
        ("dc", 1.0, 0.85),
    ],
)
def test_the_images_match_better_in_networks_that_they_have_not_seen(
    method: str, image_lr: float, share: float
) -> None:
    data = toy_domains()
    config = dataclasses.replace(SMALL, iterations=100, image_lr=image_lr, batch_real=12, init="noise")
    config = resolve_distillation(with_method(config, method), data)
    mean, std = data.channel_statistics()
    domains = assign_domains(data.counts(), config.ipc).flatten()
    objective = build_objective(RealImages(data, mean, std, torch.device("cpu")), config, domains)

    def loss(images: torch.Tensor) -> float:
        unseen = range(config.iterations, config.iterations + 6)
        return sum(float(objective.gradients(images, step, by_domain=False).losses.sum()) for step in unseen)

    start = distill(data, dataclasses.replace(config, iterations=0)).images
    assert loss(distill(data, config).images) < share * loss(start)


def test_methods_at_one_seed_share_images_networks_augmentations_and_real_images() -> None:
    """What makes a difference of two methods at a seed a paired one."""
    data = toy_domains()
    mean, std = data.channel_statistics()
    domains = assign_domains(data.counts(), 4)

    def drawn(method: str, seed: int) -> list[torch.Tensor]:
        config = resolve_distillation(with_method(dataclasses.replace(SMALL, seed=seed), method), data)
        images = initial_tiles(data, domains, config, mean, std)
        real = RealImages(data, mean, std, torch.device("cpu"))
        objective = build_objective(real, config, domains.flatten())
        draw = objective.augmentation(3)
        found = [images, objective.real_batch(3).rows, draw.numbers, draw.values]
        objective.gradients(images, 3, by_domain=config.surgery is not None)
        assert isinstance(objective, FeatureMatching)
        return [*found, *objective.space.network.parameters()]

    expected = drawn("dm", 5)
    for method in ("dm+sgs", "hdd", "hdd+sgs", "m3d", "datadam+sgs"):
        for own, other in zip(drawn(method, 5), expected, strict=True):
            assert torch.equal(own, other)
    assert not any(torch.equal(own, other) for own, other in zip(drawn("dm", 6)[:2], expected, strict=False))


def test_random_keeps_the_initial_images_that_the_other_methods_start_from() -> None:
    data = toy_domains()
    random = distill(data, dataclasses.replace(SMALL, objective="random"))
    start = distill(data, dataclasses.replace(SMALL, iterations=0))
    assert torch.equal(random.images, start.images)
    mean, std = data.channel_statistics()
    config = dataclasses.replace(SMALL, objective="random")
    assigned = assign_domains(data.counts(), config.ipc)
    expected = initial_tiles(data, assigned, resolve_distillation(config, data), mean, std)
    assert torch.equal(random.images, expected)


@pytest.mark.parametrize("init", ["uniform", "random"])
def test_herding_keeps_real_images_and_knows_their_domains(init: str, tmp_path: Path) -> None:
    data = toy_domains()
    config = dataclasses.replace(SMALL, objective="herding", init=init, herding_epochs=3)
    herded = distill(data, config, run_folder=tmp_path)
    pixels = herded.pixels().flatten(1)
    chosen = (pixels[:, None] == data.images.flatten(1)).all(2).long().argmax(1)
    assert torch.equal(data.images[chosen].flatten(1), pixels)
    assert len(set(chosen.tolist())) == 12
    assert torch.equal(data.labels[chosen], herded.labels)
    assert torch.equal(data.domains[chosen], herded.domains)
    if init == "uniform":
        assert torch.equal(herded.domains, assign_domains(data.counts(), 4).flatten())
    assert torch.equal(distill(data, config, run_folder=tmp_path, resume=True).images, herded.images)
    other = dataclasses.replace(config, seed=1)
    assert not torch.equal(distill(data, other).images, herded.images)


def test_pseudo_domains_are_distilled_like_domains() -> None:
    data = toy_domains()
    config = dataclasses.replace(WITH_SURGERY, pseudo_domains=2)
    result = distill(data, config, target="elsewhere")
    styles = with_pseudo_domains(data, 2, config.network, config.seed)
    assert result.domain_names == styles.domain_names == ("style1", "style2")
    assert result.provenance["sources"] == ["domain0", "domain1", "domain2"]
    expected = distill(styles, WITH_SURGERY)
    assert torch.equal(result.images, expected.images)
    assert torch.equal(result.domains, expected.domains)
    with pytest.raises(ValueError, match=r"pseudo-domains must be in 1\.\.108"):
        distill(data, dataclasses.replace(config, pseudo_domains=0))


def test_the_result_names_its_classes_domains_settings_and_origin() -> None:
    data = toy_domains()
    result = distill(data, WITH_SURGERY, target="elsewhere")
    assert torch.equal(result.labels, torch.arange(3).repeat_interleave(4))
    assert torch.equal(result.domains, assign_domains(data.counts(), 4).flatten())
    assert result.config["surgery"] == to_dict(WITH_SURGERY.surgery)
    assert result.config["augment"]["strategy"] == "color_crop_cutout_flip_scale_rotate"
    assert result.config["network"]["depth"] == 2
    resolved = {"factor": 1, "optimizer": "sgd", "image_lr": 0.2, "clamp": False, "batch_real": 6}
    assert {name: result.config[name] for name in resolved} == resolved
    assert result.provenance["target"] == "elsewhere"
    assert result.provenance["iterations"] == 4


def test_a_seed_repeats_bit_for_bit_and_another_differs() -> None:
    data = toy_domains()
    first, again = (distill(data, WITH_SURGERY).images for _ in range(2))
    other = distill(data, dataclasses.replace(WITH_SURGERY, seed=1)).images
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ipc": 0}, "ipc must be at least 1, got 0"),
        ({"image_lr": -1.0}, "image_lr must be positive and finite, got -1"),
        ({"image_lr": math.nan}, "image_lr must be positive and finite, got nan"),
        ({"momentum": 5.0}, "momentum must be at least 0 and less than 1, got 5"),
        ({"attention_power": 0.0}, "attention_power must be positive"),
        ({"surgery": SurgeryConfig(alpha=math.inf)}, "surgery.alpha must be finite, got inf"),
        ({"surgery": SurgeryConfig(eps=-1e-9)}, "surgery.eps must be finite and not negative"),
        ({"domain_masks": DomainMaskConfig(weight=-1.0)}, "domain_masks.weight must be finite and not neg"),
        ({"iterations": -1}, "iterations must not be negative"),
        ({"objective": "random", "surgery": SurgeryConfig()}, "'random' has none"),
        ({"objective": "herding", "surgery": SurgeryConfig()}, "'herding' has none"),
        ({"objective": "herding", "init": "noise"}, "herding chooses real images"),
        ({"objective": "herding", "herding_epochs": 0}, "herding_epochs must be at least 1"),
        (
            {"objective": "datadam", "network": NetworkConfig("vgg11")},
            "attention maps of a network with stages",
        ),
        ({"network": NetworkConfig(norm="batch")}, "normalise each sample by itself"),
        ({"factor": 3}, "16 x 16 px cannot be cut into 3 x 3 equal tiles"),
        ({"image_weight_decay": 0.1}, "image_weight_decay is for the optimizer adam, and that of dm is sgd"),
        ({"stepping": "image"}, "stepping must be one of 'joint', 'class'"),
        ({"batch_real": 0}, "batch_real must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distill(toy_domains(), dataclasses.replace(SMALL, **change))


def test_the_target_must_not_be_a_source() -> None:
    with pytest.raises(ValueError, match="among the sources"):
        distill(toy_domains(), SMALL, target="domain1")


@pytest.mark.parametrize("method", ["dm", "datadam-bn+sgs", "dc"])
def test_half_precision_real_features_change_the_gradient_little(method: str) -> None:
    data, config = toy_domains(), with_method(dataclasses.replace(SMALL, iterations=1), method)
    exact = distill(data, config).images
    half = distill(data, dataclasses.replace(config, precision="bfloat16")).images
    start = distill(data, dataclasses.replace(config, iterations=0)).images
    assert 0 < relative_change(half, exact, start) < 0.1
