"""Training from scratch: step by step as the recipes say, and what stops it."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small_runs import TINY, toy_set
from toy_data import toy_domains

from dgdd_fast import evaluation as evaluation_module
from dgdd_fast import training as training_module
from dgdd_fast.config import AugmentConfig, EvaluateConfig, NetworkConfig
from dgdd_fast.data.augment import augment, cutmix, draw_batch, draw_cutmix
from dgdd_fast.evaluation import evaluate
from dgdd_fast.interruption import TrainingDivergedError
from dgdd_fast.networks import ConvNet, initialise
from dgdd_fast.seeds import generator
from dgdd_fast.training import resolve_training, train_network, train_networks, train_together


@pytest.fixture(scope="module")
def data():
    return toy_domains()


def test_training_learns_what_the_set_shows(data):
    seen = []
    tests = {"all": data, "first": data.only_domains(["domain0"])}
    config = dataclasses.replace(TINY, runs=3, epochs=40, augment=AugmentConfig(strategy="crop"))
    result = evaluate(toy_set(data), tests, config, progress=seen.append)
    assert list(result.accuracies) == ["all", "first"]
    assert [len(values) for values in result.accuracies.values()] == [3, 3]
    assert result.mean("all") > 80  # chance is 33
    assert result.accuracies["all"] != result.accuracies["first"]
    assert seen == list(range(1, 121))


def test_training_follows_the_recipe_step_by_step(data, monkeypatch):
    """SGD written out by hand, on whole batches: order, augmentation, learning rate, momentum reset."""
    distilled = toy_set(data)
    config = resolve_training(dataclasses.replace(TINY, epochs=7, batch_size=10), (16, 16), flip_safe=True)
    monkeypatch.setattr(training_module, "rows_per_chunk", lambda *_: 4)
    trained = train_network(distilled.images, distilled.labels, 3, config)

    network = ConvNet(3, (16, 16), config.network)
    initialise(network, generator(config.seed, "network"))
    orders, draws = generator(config.seed, "order"), generator(config.seed, "augment")
    parameters = list(network.parameters())
    for epoch in range(7):
        if epoch in (0, 4):
            velocity = [torch.zeros_like(parameter) for parameter in parameters]
        rate = 0.01 if epoch < 4 else 0.001
        for batch in torch.randperm(18, generator=orders).split(10):
            draw = draw_batch(config.augment, (16, 16), len(batch), draws)
            logits = network(augment(distilled.images[batch], draw))
            loss = F.cross_entropy(logits, distilled.labels[batch])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient, speed in zip(parameters, gradients, velocity, strict=True):
                    speed.mul_(0.9).add_(gradient + 5e-4 * parameter)
                    parameter.sub_(rate * speed)
    for actual, expected in zip(trained.parameters(), parameters, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


def test_adamw_and_cutmix_follow_the_recipe_step_by_step(data):
    """AdamW written out by hand, its rate halved after each fifth of the epochs."""
    distilled = toy_set(data)
    config = EvaluateConfig(
        epochs=5, optimizer="adamw", batch_size=10, cutmix_probability=0.5, network=TINY.network,
        augment=AugmentConfig(composition="sequence"),
    )  # fmt: skip
    config = resolve_training(config, (16, 16), flip_safe=True)
    assert (config.learning_rate, config.weight_decay) == (1e-3, 0.01)
    assert config.augment.strategy == "color_crop_flip_scale_rotate"
    trained = train_network(distilled.images, distilled.labels, 3, config)

    network = ConvNet(3, (16, 16), config.network)
    initialise(network, generator(config.seed, "network"))
    orders, draws, mixes = (generator(config.seed, name) for name in ("order", "augment", "cutmix"))
    parameters = list(network.parameters())
    moments = [(torch.zeros_like(parameter), torch.zeros_like(parameter)) for parameter in parameters]
    steps = mixed = 0
    for epoch in range(5):
        rate = 1e-3 / 2**epoch
        for batch in torch.randperm(18, generator=orders).split(10):
            images = augment(distilled.images[batch], draw_batch(config.augment, (16, 16), len(batch), draws))
            labels = distilled.labels[batch]
            mix = draw_cutmix(0.5, (16, 16), len(batch), mixes)
            logits = network(cutmix(images, mix))
            loss = F.cross_entropy(logits, labels)
            if mix is not None:
                mixed += 1
                loss = mix.kept * loss + (1 - mix.kept) * F.cross_entropy(logits, labels[mix.partner])
            gradients = torch.autograd.grad(loss, parameters)
            steps += 1
            with torch.no_grad():
                for parameter, gradient, (first, second) in zip(parameters, gradients, moments, strict=True):
                    first.lerp_(gradient, 0.1)
                    second.lerp_(gradient**2, 0.001)
                    slope = (second / (1 - 0.999**steps)).sqrt() + 1e-8
                    parameter.mul_(1 - rate * 0.01).sub_(rate * first / (1 - 0.9**steps) / slope)
    assert 0 < mixed < steps
    # Where a gradient is zero up to rounding, AdamW's step is of any size up to the rate.
    for actual, expected in zip(trained.parameters(), parameters, strict=True):
        assert (actual - expected).norm() <= 0.01 * expected.norm() + 1e-3


@pytest.mark.parametrize("architecture", ["alexnet", "vgg11", "resnet18"])
def test_other_architectures_learn_what_the_set_shows(architecture):
    data = toy_domains(side=32)
    network = NetworkConfig(architecture=architecture, width=8)
    config = EvaluateConfig(
        runs=1, epochs=30, optimizer="adamw", learning_rate=0.005, batch_size=9, network=network,
        augment=AugmentConfig(strategy="none"),
    )  # fmt: skip
    result = evaluate(toy_set(data), {"all": data}, config)
    assert result.mean("all") > 55  # chance is 33
    assert {"alexnet": "AlexNet", "vgg11": "VGG-11", "resnet18": "ResNet-18"}[
        architecture
    ] in result.description


def test_batch_norm_sees_whole_batches(data, monkeypatch):
    distilled = toy_set(data)
    config = resolve_training(dataclasses.replace(TINY, epochs=2), (16, 16), flip_safe=True)
    config = dataclasses.replace(config, network=NetworkConfig(width=8, depth=2, norm="batch"))
    whole = train_network(distilled.images, distilled.labels, 3, config)
    monkeypatch.setattr(training_module, "rows_per_chunk", lambda *_: 4)
    again = train_network(distilled.images, distilled.labels, 3, config)
    assert not whole.training
    pairs = zip(whole.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(actual.equal(expected) for actual, expected in pairs)


def test_divergence_is_reported(data):
    distilled = toy_set(data)
    config = dataclasses.replace(TINY, learning_rate=1e6)
    with pytest.raises(
        TrainingDivergedError, match=r"in epoch \d+ of 12; use a smaller learning rate than 1e\+06"
    ):
        evaluate(distilled, {"all": data}, config)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cutmix_probability": 0.5, "optimizer": "adamw"},
        {"network": NetworkConfig(width=8, depth=2, norm="batch")},
    ],
    ids=["sgd", "cutmix", "batch norm"],
)
def test_trainings_at_once_are_those_one_by_one(data, monkeypatch, changes):
    """The stacked networks: parameters, statistics and progress are those of single trainings."""
    distilled = toy_set(data)
    config = dataclasses.replace(TINY, epochs=3, batch_size=10, **changes)
    config = resolve_training(config, (16, 16), flip_safe=True)
    configs = [dataclasses.replace(config, seed=seed) for seed in (5, 6, 7)]
    monkeypatch.setattr(training_module, "rows_per_chunk", lambda *_: 6)  # parts of 4 of a batch
    seen = []
    together = train_networks(distilled.images, distilled.labels, 3, configs, progress=seen.append)
    assert seen == [1, 2, 3]
    for network, seeded in zip(together, configs, strict=True):
        alone = train_network(distilled.images, distilled.labels, 3, seeded)
        assert not network.training
        for name, expected in alone.state_dict().items():
            # A bias before a normalisation has a gradient of rounding errors, and AdamW steps by its sign.
            if not name.endswith("convolution.bias"):
                torch.testing.assert_close(network.state_dict()[name], expected, rtol=1e-3, atol=1e-4)


def test_runs_are_trained_at_once_on_a_gpu(data, monkeypatch):
    """As on a GPU, of which nothing else is needed here; runs that were done before stay as they are."""
    on_gpu = torch.device("cuda")
    config = dataclasses.replace(TINY, runs=5, epochs=2)
    settings = resolve_training(config, data.resolution, data.flip_safe)
    assert train_together(settings, on_gpu)
    assert not train_together(settings, torch.device("cpu"))
    assert not train_together(dataclasses.replace(settings, generalize="mixstyle"), on_gpu)
    other = dataclasses.replace(settings, network=NetworkConfig(architecture="vgg11", width=8))
    assert not train_together(other, on_gpu)

    alone = evaluate(toy_set(data), {"all": data}, config)
    first = evaluate(toy_set(data), {"all": data}, dataclasses.replace(config, runs=1))
    monkeypatch.setattr(evaluation_module, "train_together", lambda *_: True)
    monkeypatch.setattr(evaluation_module, "MOST_AT_ONCE", 3)
    seen, kept = [], []
    result = evaluate(
        toy_set(data), {"all": data}, config, done=first, progress=seen.append, keep=kept.append
    )
    assert seen == [5, 8, 9, 10]  # three runs at once after the first, then one
    assert [each.runs for each in kept] == [4, 5]
    assert kept[-1] == result
    assert result.accuracies["all"] == pytest.approx(alone.accuracies["all"], abs=100 / len(data) + 1e-6)
