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
from small_runs import MOSAICS, SMALL, relative_change
from toy_data import toy_domains, without_rows
from toy_experts import toy_experts

from dgdd_fast.config import DistillConfig, NetworkConfig, with_method
from dgdd_fast.data import DomainDataset
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.matching import datadam_bn, feature_matching
from dgdd_fast.matching.descent import Descent
from dgdd_fast.matching.registry import build_objective
from dgdd_fast.matching.resolve import resolve_distillation
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


def check(config: DistillConfig, device: PretendedDevice, data: DomainDataset = UNEVEN) -> int:
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
    assert relative_change(there.images.cpu(), here.images, start) < 1e-4
    assert (len(found.losses), found.broken) == (3, [])
    torch.testing.assert_close(found.losses[-1:], expected.losses, rtol=1e-4, atol=1e-5)
    return launches


# The most launches of an iteration, in a network of one block, with three classes and domains.
LAUNCHES = {
    "dm": 85,
    "dm+sgs": 200,
    "hdd+sgs": 750,
    "m3d+sgs": 2500,
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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mmd+sgs", "cadm+sgs"])
def test_nor_in_experts(method: str, tmp_path: Path, device: PretendedDevice) -> None:
    data = toy_domains(per_cell=3, classes=2)
    pool = toy_experts(tmp_path, data, experts=1)
    config = dataclasses.replace(settings(str(pool)), batch_real=2, ipc=1, optimizer="sgd", image_lr=0.1)
    check(with_method(config, method), device, data)
