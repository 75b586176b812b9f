"""Soft labels: predicted for each tile, kept in the set, trained on; refused where they cannot be right."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_runs import SMALL, TINY, toy_set
from torch import Tensor
from toy_data import toy_domains

from dgdd_fast.config import AugmentConfig, NetworkConfig, with_method
from dgdd_fast.data.augment import augment, cutmix, draw_batch, draw_cutmix
from dgdd_fast.distillation import distill
from dgdd_fast.evaluation import Evaluation, evaluate
from dgdd_fast.generalization import training_loss
from dgdd_fast.networks import ConvNet, initialise
from dgdd_fast.seeds import generator
from dgdd_fast.synthetic.distilled_set import DistilledSet, DistilledSetError
from dgdd_fast.synthetic.export import dataset_card, export_dm, export_huggingface, export_numpy
from dgdd_fast.synthetic.foreign_sets import read_foreign_set
from dgdd_fast.synthetic.mosaics import tiles
from dgdd_fast.synthetic.soft_labels import predicted_labels
from dgdd_fast.tensor_file import header_of
from dgdd_fast.training import resolve_training, train_network

DATA = toy_domains()
RDED = dataclasses.replace(with_method(SMALL, "rded+soft"), factor=2, herding_epochs=15)
TESTS = {"all": DATA}
TRAINING = resolve_training(dataclasses.replace(TINY, epochs=5, batch_size=10), (16, 16), flip_safe=True)


@pytest.fixture(scope="module")
def soft() -> DistilledSet:
    return distill(DATA.train(), RDED)


def with_labels(labels: Tensor) -> DistilledSet:
    return dataclasses.replace(toy_set(DATA), soft_labels=labels)


def likely(count: int = 18) -> Tensor:
    """Distributions over three classes that favour an image's own."""
    own = torch.arange(3).repeat_interleave(count // 3)
    noise = torch.rand(count, 3, generator=generator(0, "labels"))
    return (noise + 2 * F.one_hot(own, 3)).softmax(1)


def test_a_tile_has_what_the_network_that_chose_it_predicts(soft: DistilledSet) -> None:
    hard = distill(DATA.train(), with_method(RDED, "rded"))
    assert torch.equal(soft.images, hard.images)
    assert hard.soft_labels is None
    assert soft.soft_labels is not None
    assert soft.soft_labels.shape == (len(soft), 3) == (48, 3)
    right = soft.soft_labels.argmax(1) == soft.training_images.labels
    assert right.float().mean() > 0.8  # it chose the tiles that it was surest of
    network = ConvNet(3, (16, 16), NetworkConfig(width=8))
    initialise(network, generator(0, "network"))
    with torch.inference_mode():
        expected = network(soft.training_images.images).softmax(1)
    torch.testing.assert_close(predicted_labels(network, tiles(soft.images, 2), 2), expected)


def test_a_resumed_run_keeps_tiles_and_labels(soft: DistilledSet, tmp_path: Path) -> None:
    first = distill(DATA.train(), RDED, run_folder=tmp_path)
    again = distill(DATA.train(), RDED, run_folder=tmp_path, resume=True)
    for found in (first, again):
        assert found.soft_labels is not None
        assert torch.equal(found.images, soft.images)
        assert torch.equal(found.soft_labels, soft.soft_labels)


def test_the_file_comes_back_and_earlier_versions_are_told(soft: DistilledSet, tmp_path: Path) -> None:
    soft.save(tmp_path / "soft")
    found = DistilledSet.load(tmp_path / "soft")
    assert found.soft_labels is not None
    assert torch.equal(found.soft_labels, soft.soft_labels)
    assert found.config == soft.config
    dataclasses.replace(soft, soft_labels=None).save(tmp_path / "hard")
    versions = {
        name: json.loads(header_of((tmp_path / name).read_bytes())["dgdd_fast_distilled_set"])["version"]
        for name in ("soft", "hard")
    }
    assert versions == {"soft": 3, "hard": 2}  # what readers of hard labels alone know
    assert DistilledSet.load(tmp_path / "hard").soft_labels is None


def test_a_flipped_bit_of_a_label_is_found(soft: DistilledSet, tmp_path: Path) -> None:
    soft.save(tmp_path / "set")
    data = bytearray((tmp_path / "set").read_bytes())
    assert soft.soft_labels is not None
    place = data.index(soft.soft_labels.numpy().tobytes())
    data[place + 5] ^= 1
    (tmp_path / "set").write_bytes(data)
    with pytest.raises(DistilledSetError, match="damaged"):
        DistilledSet.load(tmp_path / "set")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (likely()[:-1], r"must be float32 \[18, 3\].*got torch.float32 \[17, 3\]"),
        (likely()[:, :2], r"must be float32 \[18, 3\]"),
        (likely().double(), "got torch.float64"),
        (likely() + F.one_hot(torch.tensor([4]), 18).T * 0.1, "training image 4 must be finite"),
        (likely().index_fill(0, torch.tensor([7]), torch.nan), "training image 7 must be finite"),
        (torch.tensor([[1.5, -0.5, 0.0]]).repeat(18, 1), "0 or more and sum to 1"),
        (likely().roll(1, 1)[:, [0, 1, 2]].pow(8) / likely().roll(1, 1).pow(8).sum(1, True), "in the order"),
        ([1, 2], "must be a tensor"),
    ],
)
def test_labels_that_cannot_be_right_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(DistilledSetError, match=message):
        with_labels(labels)


def test_the_loss_is_the_cross_entropy_against_the_labels_step_by_step() -> None:
    """SGD written out by hand, the loss as it is defined."""
    config = dataclasses.replace(TRAINING, epochs=3, cutmix_probability=0.5)
    distilled, labels = toy_set(DATA), likely()
    trained = train_network(distilled.images, labels, 3, config)
    network = ConvNet(3, (16, 16), config.network)
    initialise(network, generator(config.seed, "network"))
    orders, draws, mixes = (generator(config.seed, name) for name in ("order", "augment", "cutmix"))
    parameters = list(network.parameters())
    mixed = 0
    for epoch in range(3):
        if epoch in (0, 2):
            velocity = [torch.zeros_like(parameter) for parameter in parameters]
        rate = config.learning_rate if epoch < 2 else config.learning_rate / 10
        for batch in torch.randperm(18, generator=orders).split(10):
            draw = draw_batch(config.augment, (16, 16), len(batch), draws)
            mix = draw_cutmix(0.5, (16, 16), len(batch), mixes)
            inputs, wanted = cutmix(augment(distilled.images[batch], draw), mix), labels[batch]
            if mix is not None:
                wanted = mix.kept * wanted + (1 - mix.kept) * wanted[mix.partner]
                mixed += 1
            loss = -(wanted * network(inputs).log_softmax(1)).sum(1).mean()
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient, speed in zip(parameters, gradients, velocity, strict=True):
                    speed.mul_(config.momentum).add_(gradient + config.weight_decay * parameter)
                    parameter.sub_(rate * speed)
    assert mixed > 0
    for found, expected in zip(trained.parameters(), parameters, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("cutmix_probability", [0.0, 1.0])
def test_one_hot_labels_train_as_the_classes_do_bit_for_bit(cutmix_probability: float) -> None:
    config = dataclasses.replace(TRAINING, cutmix_probability=cutmix_probability)
    distilled = toy_set(DATA)
    hard = train_network(distilled.images, distilled.labels, 3, config)
    soft = train_network(distilled.images, F.one_hot(distilled.labels, 3).float(), 3, config)
    for found, expected in zip(soft.parameters(), hard.parameters(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("generalize", ["mixstyle", "fact", "advfreq"])
def test_methods_of_generalisation_take_one_hot_labels_as_classes(generalize: str) -> None:
    config = dataclasses.replace(TRAINING, generalize=generalize)
    images, labels = toy_set(DATA).images[::2], toy_set(DATA).labels[::2]
    losses = []
    for wanted in (labels, F.one_hot(labels, 3).float()):
        network = ConvNet(3, (16, 16), config.network)
        initialise(network, generator(0, "network"))
        loss = training_loss(config, network, torch.zeros(3), torch.ones(3), generator(0, "method"))
        losses.append(loss(images, wanted, 0))
    torch.testing.assert_close(*losses)


def test_an_evaluation_trains_on_them_says_so_and_can_leave_them(soft: DistilledSet) -> None:
    tiny = dataclasses.replace(TINY, epochs=4, augment=AugmentConfig(strategy="crop"))
    with_soft = evaluate(soft, TESTS, tiny)
    ignored = evaluate(soft, TESTS, dataclasses.replace(tiny, hard_labels=True))
    without = evaluate(dataclasses.replace(soft, soft_labels=None), TESTS, tiny)
    assert ignored.accuracies == without.accuracies
    assert with_soft.accuracies != without.accuracies
    assert "on soft labels" in with_soft.description
    assert "soft" not in ignored.description
    again = Evaluation.from_dict(json.loads(json.dumps(with_soft.to_dict())))
    assert again == with_soft
    earlier = without.to_dict()
    del earlier["soft_labels"], earlier["config"]["hard_labels"]  # as they were written before
    assert Evaluation.from_dict(earlier) == without
    one = dataclasses.replace(with_soft, accuracies={"all": with_soft.accuracies["all"][:1]})
    assert evaluate(soft, TESTS, tiny, done=one).accuracies == with_soft.accuracies
    with pytest.raises(ValueError, match="hard and soft labels"):
        evaluate(soft, TESTS, tiny, done=without)


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("export", [export_dm, export_numpy])
def test_an_export_has_them_as_its_labels_and_comes_back(export, factor, tmp_path: Path) -> None:
    distilled = distill(DATA.train(), dataclasses.replace(RDED, factor=factor))
    export(distilled, tmp_path / "set")
    found = read_foreign_set(tmp_path / "set").own
    assert found is not None
    assert found.soft_labels is not None
    assert torch.equal(found.soft_labels, distilled.soft_labels)
    distilled.save(tmp_path / "before")
    found.save(tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
    if export is export_dm:
        content = torch.load(tmp_path / "set", weights_only=True)
        assert torch.equal(content["data"][0][1], distilled.soft_labels)
        del content["dgdd_fast"]  # as other tools write them
        torch.save(content, tmp_path / "theirs")
        with pytest.raises(DistilledSetError, match="the labels are soft"):
            read_foreign_set(tmp_path / "theirs")


def test_a_published_folder_has_them_and_its_card_says_whose_they_are(
    soft: DistilledSet, tmp_path: Path
) -> None:
    export_huggingface(soft, tmp_path / "hub")
    lines = (tmp_path / "hub" / "train" / "metadata.jsonl").read_text().splitlines()
    told = torch.tensor([json.loads(line)["soft_label"] for line in lines])
    assert torch.equal(told, soft.soft_labels)
    card = dataset_card(soft)
    assert "Method: RDED+soft labels" in card
    assert "soft labels, the predictions of a network trained on all real images" in card
    assert "with hard labels" in dataset_card(dataclasses.replace(soft, soft_labels=None))


def test_methods_without_a_network_that_chooses_are_refused() -> None:
    for method in ("dm+soft", "herding+soft", "random+soft"):
        with pytest.raises(ValueError, match="soft labels are what the network that rded chooses by"):
            distill(DATA.train(), with_method(SMALL, method))
