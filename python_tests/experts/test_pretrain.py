"""Experts: gradient reversal, the loss, the pool's files, interpolation, interruptions, refusals."""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from pretraining_cases import with_stripes
from small_experts import NETWORK, TINY, equal, weights

from dgdd_fast.config import AugmentConfig, NetworkConfig, PretrainConfig
from dgdd_fast.data import normalise
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.experts import Expert, ExpertPool, ExpertPoolError, expert_training, reverse_gradient
from dgdd_fast.experts.discriminators import logistic_regression
from dgdd_fast.experts.pretrain import pretrain
from dgdd_fast.generalization.fact import mix_amplitudes
from dgdd_fast.generalization.irm import invariance_penalty
from dgdd_fast.interruption import TrainingDivergedError
from dgdd_fast.networks import initialise
from dgdd_fast.seeds import generator


def new_expert(reversal_weight=0.25, seed=0):
    expert = Expert(3, 2, (16, 16), NETWORK, reversal_weight)
    initialise(expert.network, generator(seed))
    initialise(expert.discriminators, generator(seed, "discriminators"))
    return expert.double()


def test_reversal_is_the_identity_with_the_gradient_turned_round():
    features = torch.randn(4, 5, generator=generator(0), requires_grad=True)
    cotangent = torch.randn(4, 5, generator=generator(1))
    result = reverse_gradient(features, 0.25)
    assert result.equal(features)
    (gradient,) = torch.autograd.grad(result, features, cotangent)
    assert gradient.equal(-0.25 * cotangent)


def test_the_domain_loss_reaches_the_discriminators_as_it_is_and_the_network_reversed():
    images = torch.randn(5, 3, 16, 16, generator=generator(2), dtype=torch.float64)
    domains = torch.tensor([0, 1, 1, 0, 1])

    def gradients(reversal_weight):
        expert = new_expert(reversal_weight)
        loss = sum(F.cross_entropy(logits, domains) for logits in expert(images)[1])
        loss.backward()
        trunk = [p.grad for n, p in expert.network.named_parameters() if not n.startswith("classifier")]
        return trunk, [p.grad for p in expert.discriminators.parameters()]

    # A weight of -1 reverses nothing.
    trunk, heads = gradients(-1.0)
    reversed_trunk, same_heads = gradients(0.25)
    assert all(gradient.abs().max() > 0 for gradient in heads)
    assert sum(gradient.abs().sum() for gradient in trunk) > 0
    for gradient, expected in zip(reversed_trunk, trunk, strict=True):
        torch.testing.assert_close(gradient, -0.25 * expected)
    for gradient, expected in zip(same_heads, heads, strict=True):
        torch.testing.assert_close(gradient, expected)
    assert all(gradient.abs().max() == 0 for gradient in gradients(0.0)[0])


def test_an_expert_tells_the_classes_and_at_each_stage_the_domains():
    expert = new_expert()
    images = torch.randn(5, 3, 16, 16, generator=generator(2), dtype=torch.float64)
    logits, domain_logits = expert(images)
    assert logits.equal(expert.network(images))
    assert domain_logits.shape == (4, 5, 2)
    for stage in range(1, 5):
        maps = expert.network.forward_to(images, stage)
        expected = expert.discriminators[stage - 1](maps.mean((2, 3)))
        torch.testing.assert_close(domain_logits[stage - 1], expected)


@pytest.mark.parametrize("generalize", ["none", "irm", "fact"])
def test_a_step_follows_the_loss_and_sgd_as_written_down(data, tmp_path, monkeypatch, generalize):
    """Two steps of whole batches by hand: order, loss, weight decay, momentum."""
    config = dataclasses.replace(
        TINY, experts=1, epochs=1, batch_size=54, cutmix_probability=0.0, domain_weight=0.7,
        augment=AugmentConfig(strategy="none"), generalize=generalize, irm_weight=3.0, irm_warmup=1,
        discriminators="joint",
    )  # fmt: skip
    monkeypatch.setattr(expert_training, "rows_per_chunk", lambda *_: 20)
    pool = pretrain(data, config, tmp_path)

    expert = pool.new_expert()
    pool.fill_(expert, 0, 0.0)
    parameters = [parameter.requires_grad_() for parameter in expert.parameters()]
    speed = [torch.zeros_like(parameter) for parameter in parameters]
    class_loss = domain_loss = right = 0.0
    order = torch.randperm(108, generator=generator(0, "expert", 0, "order", 0))
    for step, rows in enumerate(order.split(54)):
        images = normalise(data.images[rows], pool.mean, pool.std)
        if generalize == "fact":
            random = generator(0, "expert", 0, "fact", step)
            partner, share = torch.randperm(54, generator=random), torch.rand(54, generator=random)
            mean, std = (torch.tensor(values)[:, None, None] for values in (pool.mean, pool.std))
            pixels = images * std + mean
            images = (mix_amplitudes(pixels, pixels[partner], share) - mean) / std
        logits, domain_logits = expert(images)
        stages = [F.cross_entropy(stage, data.domains[rows]) for stage in domain_logits]
        losses = F.cross_entropy(logits, data.labels[rows]), sum(stages) / 4
        loss = losses[0] + 0.7 * losses[1]
        if generalize == "irm":
            penalty = invariance_penalty(logits, data.labels[rows], data.domains[rows])
            loss = loss / (3.0 if step else 1.0) + penalty
            speed = [torch.zeros_like(parameter) for parameter in parameters]  # the weight changed
        gradients = torch.autograd.grad(loss, parameters)
        class_loss, domain_loss = class_loss + losses[0].item() / 2, domain_loss + losses[1].item() / 2
        right += (logits.argmax(1) == data.labels[rows]).sum().item()
        with torch.no_grad():
            for parameter, gradient, velocity in zip(parameters, gradients, speed, strict=True):
                velocity.mul_(0.9).add_(gradient + 5e-4 * parameter)
                parameter.sub_(0.01 * velocity)
    for actual, expected in zip(weights(pool, 0, 1.0), parameters, strict=True):
        torch.testing.assert_close(actual, expected.detach(), rtol=1e-3, atol=1e-5)
    ((measured,),) = pool.log
    assert measured["class_loss"] == pytest.approx(class_loss, rel=1e-4)
    assert measured["domain_loss"] == pytest.approx(domain_loss, rel=1e-4)
    assert measured["accuracy"] == pytest.approx(100 * right / 108)


def test_the_learning_rate_falls_after_two_thirds_and_five_sixths(data, tmp_path, monkeypatch):
    rates = []
    honest = torch.optim.SGD.step

    def step(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return honest(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    pretrain(data, dataclasses.replace(TINY, experts=1, epochs=12, batch_size=108), tmp_path)
    assert rates == pytest.approx([0.01] * 8 + [0.002] * 2 + [0.0004] * 2)


def test_experts_learn_the_classes_and_discriminators_the_domains(data, tmp_path):
    """With the reversal off the discriminators are plain classifiers of the domain."""
    data = with_stripes(data)
    config = PretrainConfig(
        experts=1, epochs=20, batch_size=12, learning_rate=0.02, reversal_weight=0.0, domain_weight=10.0,
        cutmix_probability=0.0, network=dataclasses.replace(NETWORK, width=8),
        augment=AugmentConfig(strategy="none"),
    )  # fmt: skip
    pool = pretrain(data, config, tmp_path)
    last = pool.log[0][-1]
    assert last["accuracy"] > 80  # chance is 33
    assert min(last["domain_accuracy"]) > 55


def test_with_the_reversal_off_the_network_is_the_plain_expert(data, tmp_path):
    observed = dataclasses.replace(TINY, experts=1, reversal_weight=0.0, discriminators="joint")
    plain = dataclasses.replace(observed, domain_weight=0.0)
    pools = [pretrain(data, config, tmp_path / str(i)) for i, config in enumerate((observed, plain))]
    count = sum(1 for _ in pools[0].new_expert().network.parameters())
    first, second = (weights(pool, 0, 1.0) for pool in pools)
    assert equal(first[:count], second[:count])
    assert not equal(first[count:], second[count:])


def test_a_logistic_regression_ignores_the_scale_of_a_channel_and_constant_channels():
    features = torch.randn(300, 4, generator=generator(0, "features"))
    classes = (features[:, 0] + 0.3 * torch.randn(300, generator=generator(0, "noise")) > 0).long()
    scaled = features * torch.tensor([1e-4, 1.0, 1e3, 0.0]) + torch.tensor([0.0, 5.0, 0.0, 0.7])
    weight, bias = logistic_regression(features, classes, 2)
    other, other_bias = logistic_regression(scaled, classes, 2)
    torch.testing.assert_close(other[:, 0], weight[:, 0] * 1e4, rtol=0.05, atol=0)
    assert other[:, 3].eq(0).all()
    torch.testing.assert_close(weight.sum(0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-6)
    for inputs, matrix, offset in ((features, weight, bias), (scaled, other, other_bias)):
        told = (inputs.double() @ matrix.T + offset).argmax(1)
        assert (told == classes).double().mean() > 0.85
    twice, _ = logistic_regression(
        torch.cat([features, features[:99]]), torch.cat([classes, classes[:99]]), 2
    )
    weighted = 1.0 + (torch.arange(300) < 99)
    torch.testing.assert_close(
        logistic_regression(features, classes, 2, weighted)[0], twice, rtol=0.05, atol=0.01
    )
    weight, _ = logistic_regression(features, torch.zeros(300, dtype=torch.int64), 1)  # one domain
    assert weight.eq(0).all()


def test_a_seed_repeats_bit_for_bit_and_another_differs(data, folder, tmp_path):
    pool = ExpertPool.load(folder)
    again = pretrain(data, TINY, tmp_path / "again")
    other = pretrain(data, dataclasses.replace(TINY, seed=1, experts=1), tmp_path / "other")
    assert again.log == pool.log
    assert all(equal(weights(again, index, 1.0), weights(pool, index, 1.0)) for index in range(2))
    assert not equal(weights(other, 0, 1.0), weights(pool, 0, 1.0))


@pytest.mark.parametrize(("side", "refused"), [(64, False), (65, True), (128, True), (129, False)])
def test_experts_of_the_stem_before_are_read_where_it_was_the_same(side, refused, folder, tmp_path):
    content = json.loads((folder / "pool.json").read_text())
    del content["sha256"]  # which there was not
    older = {**content, "format": "dgdd-fast experts 1", "resolution": [side, side]}
    (tmp_path / "pool.json").write_text(json.dumps(older))
    if refused:
        with pytest.raises(ExpertPoolError, match=r"65 to 128 px had another pooling .* train them anew"):
            ExpertPool.read(tmp_path)
    else:
        assert ExpertPool.read(tmp_path).resolution == (side, side)


def test_divergence_is_reported_and_finished_experts_are_kept(data, tmp_path, monkeypatch):
    honest = RealImages.augmented
    calls = 0

    def poisoned(*arguments):
        nonlocal calls
        calls += 1
        return honest(*arguments) * (float("nan") if calls > 12 else 1)

    joint = dataclasses.replace(TINY, discriminators="joint")  # a call of `augmented` is a batch
    monkeypatch.setattr(RealImages, "augmented", poisoned)
    with pytest.raises(
        TrainingDivergedError, match=r"expert 2 is nan in epoch 2 of 3; use a smaller .* than 0\.01"
    ):
        pretrain(data, joint, tmp_path)
    monkeypatch.undo()
    assert len(pretrain(data, joint, tmp_path, resume=True)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": 0}, "pretrain.experts must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "pretrain.checkpoint_every must be at least 1"),
        ({"learning_rate": 0.0}, "pretrain.learning_rate must be positive and finite, got 0"),
        ({"learning_rate": math.inf}, "pretrain.learning_rate must be positive and finite, got inf"),
        ({"momentum": 1.0}, "pretrain.momentum must be at least 0 and less than 1, got 1"),
        ({"momentum": -0.1}, "pretrain.momentum must be at least 0"),
        ({"weight_decay": -5e-4}, "pretrain.weight_decay must be finite and not negative, got -0.0005"),
        ({"irm_weight": -1.0}, "pretrain.irm_weight must be finite and not negative"),
        ({"reversal_weight": math.nan}, "pretrain.reversal_weight must be finite and not negative, got nan"),
        ({"cutmix_probability": math.nan}, r"cutmix_probability must lie in \[0, 1\], got nan"),
        ({"cutmix_probability": 1.5}, r"cutmix_probability must lie in \[0, 1\]"),
        ({"network": NetworkConfig("alexnet")}, "alexnet has none; take one of convnet, resnet18, resnet50"),
        ({"network": dataclasses.replace(NETWORK, norm="batch")}, "normalise each sample by itself"),
    ],
)
def test_settings_that_cannot_work_are_refused(data, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        pretrain(data, dataclasses.replace(TINY, **change), tmp_path / "experts")
    assert not (tmp_path / "experts").exists()


def test_half_precision_trains_nearly_the_same(data, tmp_path):
    one = dataclasses.replace(TINY, experts=1)
    exact = pretrain(data, one, tmp_path / "exact")
    half = pretrain(data, dataclasses.replace(one, precision="bfloat16"), tmp_path / "half")
    assert half.log[0][-1]["class_loss"] == pytest.approx(exact.log[0][-1]["class_loss"], rel=0.1)
    assert half.log != exact.log


def test_devices_agree(data, folder, tmp_path, device):
    pool = pretrain(data, dataclasses.replace(TINY, experts=1), tmp_path, device=device)
    expert = pool.new_expert(device)
    pool.fill_(expert, 0, 1.0)
    assert expert.network.classifier.weight.device.type == device.type
    # Nine steps leave the same weights up to rounding.
    for actual, expected in zip(expert.parameters(), weights(ExpertPool.load(folder), 0, 1.0), strict=True):
        assert (actual.cpu() - expected).norm() <= 0.02 * expected.norm() + 1e-3
