"""MixStyle, FACT and AdvFreq against their formulas, and training with each."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from small_runs import TINY, toy_set
from toy_data import toy_domains

from dgdd_fast.config import AugmentConfig, NetworkConfig
from dgdd_fast.evaluation import evaluate
from dgdd_fast.generalization.advfreq import FLOOR, AdvFreq, LowFrequencyStyle, low_frequencies
from dgdd_fast.generalization.fact import Fact, draw_partners, mix_amplitudes
from dgdd_fast.generalization.irm import invariance_penalty
from dgdd_fast.generalization.mixstyle import install_mixstyle, mix_style, symmetric_beta
from dgdd_fast.networks import build_network, initialise
from dgdd_fast.seeds import generator
from dgdd_fast.training import resolve_training, train_network

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
CONVNET = NetworkConfig(width=8, depth=3)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed, "generalize"), dtype=dtype)


def network_of(config=CONVNET):
    network = build_network(3, (16, 16), config)
    initialise(network, generator(0, "network"))
    return network


def batch(count=6, dtype=torch.float32):
    return random(count, 3, 16, 16, dtype=dtype), torch.arange(count) % 3


# MixStyle


def test_mixed_maps_have_the_mixed_style():
    maps = 3 + 2 * random(4, 5, 6, 7)
    share, partner = torch.tensor([0.0, 0.25, 0.7, 1.0]), torch.tensor([2, 3, 1, 0])
    mixed = mix_style(maps, share, partner)
    for image, (own, other) in enumerate(zip(share.tolist(), partner.tolist(), strict=True)):
        for part in (lambda x: x.mean((1, 2)), lambda x: x.std((1, 2))):
            expected = own * part(maps[image]) + (1 - own) * part(maps[other])
            torch.testing.assert_close(part(mixed[image]), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed[3], maps[3])


def test_no_gradient_goes_through_the_style():
    maps = random(3, 2, 4, 4).requires_grad_()
    share, partner = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([1, 2, 0])
    cotangent = random(3, 2, 4, 4, seed=1)
    (gradient,) = torch.autograd.grad(mix_style(maps, share, partner), maps, cotangent)
    std = (maps.var((2, 3), keepdim=True) + 1e-6).sqrt().detach()
    share = share[:, None, None, None].double()
    torch.testing.assert_close(gradient, cotangent * (share * std + (1 - share) * std[partner]) / std)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_shares_follow_the_beta_distribution(alpha):
    shares = symmetric_beta(alpha, 4000, generator(0, "beta")).numpy()
    # A false alarm once in ten thousand seeds.
    assert scipy.stats.kstest(shares, scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    assert len(symmetric_beta(alpha, 0, generator(0, "beta"))) == 0


def test_mixstyle_acts_in_training_only_on_half_of_the_passes():
    images, _ = batch()
    network, plain = network_of(), network_of()
    install_mixstyle(network, generator(0, "mixstyle"))
    assert torch.equal(network.eval()(images), plain(images))
    network.train()
    unchanged = sum(torch.equal(network(images), plain(images)) for _ in range(100))
    assert 10 <= unchanged <= 42  # both layers idle in a quarter of the passes, and 3.5 deviations
    last = network.stages[-1]
    maps = random(6, 8, 4, 4, dtype=torch.float32)
    assert all(torch.equal(last(maps), plain.stages[-1](maps)) for _ in range(20))


def test_mixstyle_knows_where_it_belongs():
    resnet = network_of(NetworkConfig(architecture="resnet18", width=4))
    install_mixstyle(resnet, generator(0, "mixstyle"))
    assert [len(stage._forward_hooks) for stage in resnet.stages] == [1, 1, 1, 0]
    with pytest.raises(
        ValueError, match=r"between the stages of a network \(convnet, resnet18, resnet50.*AlexNet has none"
    ):
        install_mixstyle(network_of(NetworkConfig(architecture="alexnet", width=4)), generator(0, "x"))


# FACT


@pytest.mark.parametrize("shape", [(8, 8), (7, 6), (5, 9)])
def test_amplitudes_mix_and_phases_stay(shape):
    images, partners = random(4, 3, *shape), random(4, 3, *shape, seed=1)
    share = torch.tensor([0.0, 0.3, 0.8, 1.0])
    mixed = mix_amplitudes(images, partners, share)
    torch.testing.assert_close(mixed[0], images[0])
    for image in range(4):
        own, other = np.fft.fft2(images[image].numpy()), np.fft.fft2(partners[image].numpy())
        part = float(share[image])
        amplitude = (1 - part) * np.abs(own) + part * np.abs(other)
        expected = np.fft.ifft2(amplitude * np.exp(1j * np.angle(own)))
        assert np.abs(expected.imag).max() < 1e-12
        np.testing.assert_allclose(mixed[image].numpy(), expected.real, atol=1e-6)


def test_mixing_is_differentiable_even_where_a_frequency_is_missing():
    images = torch.stack([random(1, 6, 6), torch.ones(1, 6, 6, dtype=torch.float64)]).requires_grad_()
    partners, share = random(2, 1, 6, 6, seed=1), torch.tensor([0.4, 0.7], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(mix_amplitudes(images, partners, share).square().sum(), images)
    assert torch.isfinite(gradient).all()
    first = images.detach()[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mix_amplitudes(x, partners[:1], share[:1]), first)


def test_partners_come_from_every_domain_alike_and_from_each_image_of_it():
    domains = torch.tensor([0] * 4 + [1] * 12)[torch.randperm(16, generator=generator(0, "order"))]
    partner, share = draw_partners(16_000, domains, generator(0, "partners"), torch.device("cpu"))
    expected = 8_000 / domains.bincount().double()[domains]
    assert scipy.stats.chisquare(partner.bincount(minlength=16), expected).pvalue > 1e-3
    assert scipy.stats.kstest(share, "uniform").pvalue > 1e-3
    assert partner.unique().numel() == 16


def test_the_loss_of_fact_term_by_term():
    # In float64: what tells the teacher's answers to the two kinds apart is small.
    network, (images, labels) = network_of().double(), batch(dtype=torch.float64)
    teacher = network_of().double()
    fact = Fact(network, MEAN, STD, 40, generator(3, "fact"))
    for step, epoch in enumerate((0, 2, 4, 30)):
        if step:  # the network moves, its teacher follows by 1 / (step + 1)
            with torch.no_grad():
                for mine, its in zip(teacher.parameters(), network.parameters(), strict=True):
                    its.add_(0.1 * torch.randn(its.shape, generator=generator(step, "move")))
                    mine.copy_(mine * (1 - 1 / (step + 1)) + its / (step + 1))
        state = fact.random.get_state()
        loss = fact(images, labels, epoch)
        fact.random.set_state(state)
        partner = torch.randperm(6, generator=fact.random)
        share = torch.rand(6, generator=fact.random)
        pixels = images * STD[:, None, None] + MEAN[:, None, None]
        mixed = mix_amplitudes(pixels, pixels[partner], share)
        mixed = (mixed - MEAN[:, None, None]) / STD[:, None, None]
        assert not torch.allclose(mixed, images, atol=0.1)
        expected = 0.0
        for mine, other in ((images, mixed), (mixed, images)):
            expected += 0.5 * F.cross_entropy(network(mine), labels)
            answer, taught = ((net(x) / 10).softmax(1) for net, x in ((network, mine), (teacher, other)))
            weight = 2 * math.exp(-5 * (1 - min(1, epoch / 4)) ** 2)
            expected += weight * (taught * (taught / answer).log()).sum(1).mean()
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    assert all(parameter.grad is None for parameter in fact.teacher.parameters())
    # After thousands of steps it follows no more slowly than this.
    fact.steps, before = 10_000, fact.teacher.classifier.weight.clone()
    with torch.no_grad():
        network.classifier.weight.add_(1.0)
    fact(images, labels, 30)
    expected = before.lerp(network.classifier.weight.detach(), 0.0005)
    torch.testing.assert_close(fact.teacher.classifier.weight, expected)


# Invariant risk minimisation


@pytest.mark.parametrize("soft", [False, True])
def test_the_penalty_is_the_slope_in_a_scale_domain_by_domain(soft):
    logits = (3 * random(11, 4)).requires_grad_()
    targets = random(11, 4, seed=1).softmax(1) if soft else torch.arange(11) % 4
    domains = torch.tensor([0, 2, 0, 2, 2, 0, 1, 2, 0, 0, 2])  # domain 1 has one image, no estimate
    expected = []
    for domain in (0, 2):
        own, wanted = logits[domains == domain], targets[domains == domain]
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        slopes = [
            torch.autograd.grad(F.cross_entropy(own[half] * scale, wanted[half]), scale, create_graph=True)[0]
            for half in (slice(0, None, 2), slice(1, None, 2))
        ]
        expected.append(slopes[0] * slopes[1])
    results = []
    for penalty in (invariance_penalty(logits, targets, domains), sum(expected) / 2):
        results.append([penalty, torch.autograd.grad(penalty, logits)[0]])
    for actual, wanted in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted)
    assert invariance_penalty(logits[:1], targets[:1], domains[:1]) == 0


# AdvFreq


def test_low_frequencies_get_the_style_asked_for_and_the_others_stay():
    images = random(5, 3, 32, 24).abs() + 0.5
    style = LowFrequencyStyle(images)
    # As released: -2 to 0 of 32, -2 to 0 of 24.
    assert style.window.nonzero().tolist() == [[row, column] for row in (0, 30, 31) for column in (0, 22, 23)]
    opposite = style.window.flip(0, 1).roll((1, 1), (0, 1))
    before = torch.fft.fft2(images)
    for factors, below_zero in (((2.0, 0.5), False), ((0.5, 2.0), True)):
        mean, std = style.statistics * torch.tensor(factors)[:, None, None]
        after = torch.fft.fft2(style.pixels(mean, std))
        rest = ~(style.window | opposite)
        torch.testing.assert_close(after[..., rest], before[..., rest])
        low = style.normalised * std[..., None] + mean[..., None]
        assert bool((low < 0).any()) == below_zero
        # The real part has half of what is asked of a frequency whose opposite stays; the mean is its own.
        wanted = before.clone()
        wanted[..., style.window] = torch.polar(low.clamp_min(0), before[..., style.window].angle())
        alone = style.window & ~opposite
        half = (wanted + before)[..., alone] / 2
        torch.testing.assert_close(after[..., alone], half, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(after[..., 0, 0], wanted[..., 0, 0], rtol=1e-4, atol=1e-3)
    unmoved = style.pixels(*style.statistics)
    assert (unmoved - images).abs().max() < 10 * FLOOR
    torch.testing.assert_close(style.spread[0, 0], style.statistics[0].std(0) + FLOOR)


@pytest.mark.parametrize(
    ("side", "low"),
    [(32, [-2, -1, 0]), (64, [-4, -3, -2, -1, 0, 1, 2]), (16, [-1, 0]), (3, [-1, 0]), (2, [-1, 0])],
)
def test_the_window_of_low_frequencies_is_that_of_the_released_code(side, low):
    frequency = torch.fft.fftfreq(side) * side
    assert sorted(frequency[low_frequencies(side)].round().int().tolist()) == low


def test_the_style_of_advfreq_is_harder_than_a_random_one():
    network, (images, labels) = network_of(), batch(30)
    harder = 0
    for seed in range(10):
        advfreq = AdvFreq(network, MEAN, STD, generator(seed, "advfreq"))
        adversarial = advfreq(images, labels, 0)
        style = LowFrequencyStyle(images * STD[:, None, None] + MEAN[:, None, None])
        directions = torch.randn(2, 30, 3, generator=generator(seed, "advfreq"))
        pixels = style.pixels(*(style.statistics + directions * style.spread))
        chance = F.cross_entropy(network((pixels - MEAN[:, None, None]) / STD[:, None, None]), labels)
        harder += bool(adversarial > chance)
    assert harder == 10
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.isfinite(AdvFreq(network, MEAN, STD, generator(0, "x"))(images[:1], labels[:1], 0))


# Training


@pytest.mark.parametrize("name", ["mixstyle", "fact", "advfreq"])
def test_training_with_each_learns_and_repeats(name):
    data = toy_domains()
    config = dataclasses.replace(
        TINY, runs=1, epochs=40, generalize=name, augment=AugmentConfig(strategy="crop")
    )
    result = evaluate(toy_set(data), {"all": data}, config)
    assert result.mean("all") > 60  # chance is 33
    assert f"augmentation crop, {name}, tested once" in result.description
    short = dataclasses.replace(config, epochs=3)
    first, again, plain = (
        evaluate_weights(data, dataclasses.replace(short, generalize=which)) for which in (name, name, "none")
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)


@pytest.mark.parametrize("name", ["mixstyle", "fact", "advfreq"])
def test_devices_agree(name, device):
    data = toy_domains()
    config = dataclasses.replace(TINY, runs=1, epochs=2, generalize=name)
    here = evaluate(toy_set(data), {"all": data}, config).mean("all")
    # Two epochs leave the same network up to rounding, so few of the 108 answers may change.
    assert abs(evaluate(toy_set(data), {"all": data}, config, device=device).mean("all") - here) < 10


def evaluate_weights(data, config):
    distilled = toy_set(data)
    config = resolve_training(config, (16, 16), flip_safe=True)
    network = train_network(
        distilled.images, distilled.labels, 3, config, mean=distilled.mean, std=distilled.std
    )
    return network.classifier.weight.detach()
