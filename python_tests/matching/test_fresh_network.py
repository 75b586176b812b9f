"""A network drawn anew: ahead on the host, or by the device itself."""

from __future__ import annotations

import pytest
import torch
from pretended_device import DEVICE, PretendedDevice

from dgdd_fast.config import NetworkConfig
from dgdd_fast.matching import fresh_network
from dgdd_fast.matching.fresh_network import FreshNetwork
from dgdd_fast.networks import Network, build_network, drawn_parameters, initialise
from dgdd_fast.plans import on_device
from dgdd_fast.seeds import generator

NETWORKS = [NetworkConfig("resnet18", width=4), NetworkConfig("vgg11", width=4), NetworkConfig(width=4)]


def built(config: NetworkConfig) -> Network:
    return build_network(3, (32, 32), config)


def numbers(network: Network) -> torch.Tensor:
    return torch.cat([getattr(part, "numbers", part).detach().flatten() for part in network.parameters()])


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: config.architecture)
def test_the_host_draws_what_initialise_draws(config: NetworkConfig) -> None:
    fresh = FreshNetwork(built(config), seed=3)
    expected = built(config)
    for iteration in (0, 7):
        fresh.fill(fresh.plan(iteration))
        initialise(expected, generator(3, "network", iteration))
        assert torch.equal(numbers(fresh.network), numbers(expected))


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: config.architecture)
def test_a_device_draws_large_networks_itself(config: NetworkConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the seed of the iteration, whatever was drawn before, and without a wait."""
    monkeypatch.setattr(fresh_network, "MOST_ON_HOST", 0)
    with PretendedDevice() as device:
        monkeypatch.setattr(fresh_network, "generator", device.generator)
        fresh, again = (FreshNetwork(built(config).to(DEVICE), seed=3) for _ in range(2))
        assert fresh.plan(0).parameters is None
        found = []
        for iteration in (0, 1, 5):
            device.launches.clear()
            device.waits.clear()
            fresh.fill(on_device(fresh.plan(iteration), DEVICE))
            assert not device.waits
            assert device.launches.total() <= 2 * len(list(fresh.network.parameters()))
            found.append(numbers(fresh.network))
        again.fill(on_device(again.plan(5), DEVICE))
        assert torch.equal(numbers(again.network), found[2])
        assert not torch.equal(found[0], found[1])
    # The draws of the layers are those of the host's rule.
    on_host = drawn_parameters(built(config), generator(3, "network", 5, device="cpu"))
    drawn = [part for part in again.network.parameters() if part.dim() > 1]
    assert torch.equal(drawn[0].numbers, on_host[0])


def test_small_networks_have_the_same_numbers_everywhere() -> None:
    config = NETWORKS[-1]
    here = FreshNetwork(built(config), seed=3)
    with PretendedDevice() as device:
        there = FreshNetwork(built(config).to(DEVICE), seed=3)
        plan = on_device(there.plan(4), DEVICE)
        device.waits.clear()
        there.fill(plan)
        assert not device.waits
    here.fill(here.plan(4))
    assert torch.equal(numbers(here.network), numbers(there.network))


def test_on_a_gpu(device: torch.device) -> None:
    """That the numbers are of the right kind: those of each layer have its mean and deviation."""
    network = build_network(3, (32, 32), NetworkConfig("resnet18")).to(device)
    fresh = FreshNetwork(network, seed=3)
    assert fresh.drawn_ahead == (device.type == "cpu")
    fresh.fill(on_device(fresh.plan(1), device))
    first = numbers(network).cpu()
    fresh.fill(on_device(fresh.plan(2), device))
    assert not torch.equal(numbers(network).cpu(), first)
    fresh.fill(on_device(fresh.plan(1), device))
    assert torch.equal(numbers(network).cpu(), first)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            fan_out = layer.weight[:, 0].numel()
            assert float(layer.weight.std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
            assert abs(float(layer.weight.mean())) < 0.1 * (2 / fan_out) ** 0.5
