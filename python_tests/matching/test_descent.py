"""The loop as a GPU runs it, on a pretended one: nothing waits for it; the images are those of the CPU."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from expert_matching_cases import settings
from pretended_device import DEVICE, PretendedDevice
from pretended_graphs import PretendedGraphs
from small_runs import MOSAICS, SMALL, relative_change
from toy_data import toy_domains, without_rows
from toy_experts import toy_experts

from dgdd_fast.config import DistillConfig, NetworkConfig, with_method
from dgdd_fast.data import DomainDataset
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.experts import Expert, ExpertPool
from dgdd_fast.masking import draw_uniforms
from dgdd_fast.matching import datadam_bn, descent, expert_matching, feature_matching
from dgdd_fast.matching.descent import Descent
from dgdd_fast.matching.registry import build_objective
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.plans import pack
from dgdd_fast.synthetic.initial import assign_domains, initial_tiles
from dgdd_fast.synthetic.optimizer import ImageOptimizer

CPU = torch.device("cpu")
DATA = toy_domains(per_cell=4, side=8)
UNEVEN = without_rows(DATA, 1, 2, keep=2)
TINY = dataclasses.replace(SMALL, ipc=2, batch_real=3, network=NetworkConfig(width=4, depth=1))


def begun(config: DistillConfig, device: torch.device, data: DomainDataset = UNEVEN) -> Descent:
    settings = resolve_distillation(config, data)
    mean, std = data.channel_statistics()
    assigned = assign_domains(data.counts(), settings.ipc, settings.factor)
    images = initial_tiles(data, assigned, settings, mean, std).to(device, copy=True)
    domains = assigned.flatten()
    objective = build_objective(RealImages(data, mean, std, device), settings, domains)
    optimizer = ImageOptimizer(settings, mean, std, domains, images, data.num_classes)
    return Descent(objective, optimizer, images, by_domain=settings.surgery is not None)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedDevice]:
    for module in (feature_matching, datadam_bn):  # torch knows no autocast for this device
        monkeypatch.setattr(module, "autocast", lambda *_: contextlib.nullcontext())
    with PretendedDevice() as pretended:
        yield pretended


def check(
    config: DistillConfig, device: PretendedDevice, data: DomainDataset = UNEVEN, bound: float = 1e-4
) -> int:
    """That the device is left alone and comes to what the CPU comes to; returns an iteration's launches."""
    here, there = (begun(config, place, data) for place in (CPU, DEVICE))
    assert there.alone
    start = here.images.clone()
    for _ in here.iterations(range(3)):
        expected = here.look()
    for done in there.iterations(range(3)):
        if done > 1:  # in the first, networks and experts are brought to the device
            assert not device.waits
        launches = device.launches.total()
        device.launches.clear()
        device.waits.clear()
    found = there.look()
    assert device.waits.total() == 1
    assert relative_change(there.images.cpu(), here.images, start) < bound
    assert (len(found.losses), found.broken) == (3, [])
    torch.testing.assert_close(found.losses[-1:], expected.losses, rtol=1e-4, atol=1e-5)
    return launches


# The most launches of an iteration, in a network of one block, with three classes and domains.
LAUNCHES = {
    "dm": 85,
    "dm+sgs": 200,
    "hdd+sgs": 750,
    "m3d+sgs": 1650,
    "dm+dam+sgs": 400,
    "datadam+sgs": 450,
    "datadam-bn+sgs": 450,
    "dm+fact+sgs": 450,
}
QUICK = ("dm+sgs", "dm+dam+sgs")


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LAUNCHES]
)
def test_nothing_waits_for_the_device(method: str, device: PretendedDevice) -> None:
    rate = 20.0 if method.startswith("m3d") else 0.2
    launches = check(dataclasses.replace(with_method(TINY, method), image_lr=rate), device)
    assert launches <= LAUNCHES[method]


@pytest.mark.slow
def test_nor_for_mosaics_under_adam(device: PretendedDevice) -> None:
    check(dataclasses.replace(MOSAICS, ipc=2, batch_real=3, network=TINY.network), device)


def compute_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts compute in float64. In float32 they magnify the last bits in which the operators of CPU and
    GPU differ, 10^-5 of a step at first, 3 and 12 times more in each that follows, which hides what is
    wrong."""
    new_expert, read_weights = ExpertPool.new_expert, ExpertPool._read_weights

    def wide(pool: ExpertPool, place: torch.device) -> Expert:
        expert = new_expert(pool).double().to(place)
        expert.network.stem.register_forward_pre_hook(lambda _, images: (images[0].double(),))
        return expert

    def wide_weights(
        pool: ExpertPool, _: Expert, index: int, place: torch.device
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        ends = read_weights(pool, new_expert(pool), index, place)
        return [(initial.double(), trained.double()) for initial, trained in ends]

    monkeypatch.setattr(ExpertPool, "new_expert", wide)
    monkeypatch.setattr(ExpertPool, "_read_weights", wide_weights)
    monkeypatch.setattr(expert_matching, "draw_uniforms", lambda *draw: draw_uniforms(*draw).double())


def with_experts(
    method: str, folder: Path, experts: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[DistillConfig, DomainDataset]:
    data = toy_domains(per_cell=3, classes=2)
    pool = toy_experts(folder, data, experts)
    compute_in_float64(monkeypatch)
    config = dataclasses.replace(settings(str(pool)), batch_real=2, ipc=1, optimizer="sgd", image_lr=0.1)
    return with_method(config, method), data


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mmd+sgs", "cadm+sgs"])
def test_nor_in_experts(
    method: str, tmp_path: Path, device: PretendedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = with_experts(method, tmp_path, 1, monkeypatch)
    check(config, device, data, bound=1e-10)


@pytest.mark.parametrize("method", ["dm+sgs", pytest.param("mmd+sgs", marks=pytest.mark.slow)])
def test_nor_in_repeated_graphs(
    method: str, tmp_path: Path, device: PretendedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose replays take the numbers of their own iteration, and its expert."""
    if method == "mmd+sgs":
        config, data = with_experts(method, tmp_path, 3, monkeypatch)
    else:
        config, data = with_method(TINY, method), UNEVEN
    here, there = (begun(config, place, data) for place in (CPU, DEVICE))
    graphs = PretendedGraphs(monkeypatch)
    monkeypatch.setattr(descent, "pack", lambda plan, pinned: pack(plan, pinned=False))
    there.repeated = graphs.repeated(there._prepare, there._work, DEVICE)
    start = here.images.clone()
    for _ in here.iterations(range(6)):
        expected = here.look()
    for done in there.iterations(range(6)):
        if done > 3:  # but for experts, which are read when they are first drawn
            assert not [place for place in device.waits if "experts/pool.py" not in place]
        device.waits.clear()
    found = there.look()
    assert graphs.replays == 4
    assert relative_change(there.images.cpu(), here.images, start) < 1e-4
    torch.testing.assert_close(found.losses[-1:], expected.losses, rtol=1e-4, atol=1e-5)
