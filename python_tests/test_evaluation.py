"""x"""

import dataclasses
import json
import math

import pytest
import torch
from small_runs import TINY, toy_set
from toy_data import toy_domains

from dgdd_fast.config import AugmentConfig, EvaluateConfig, EvaluateSettings, NetworkConfig, from_dict
from dgdd_fast.data import normalise
from dgdd_fast.evaluation import Evaluation, evaluate
from dgdd_fast.networks import ConvNet
from dgdd_fast.training import accuracy, resolve_training, train_network


@pytest.fixture(scope="module")
def data():
    return toy_domains()


def test_sets_of_different_methods_are_trained_on_alike_at_one_seed() -> None:
    """The network begins alike and sees the images in one order, whatever they are."""
    data = toy_domains()
    config = resolve_training(
        dataclasses.replace(TINY, learning_rate=1e-30, epochs=1), data.resolution, data.flip_safe
    )
    mean, std = data.channel_statistics()
    parts = [data.select(list(range(start, 36, 2))) for start in (0, 1)]
    networks = [
        train_network(part.images, part.labels, 3, config, mean=mean, std=std, device="cpu") for part in parts
    ]
    for own, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-20)


def test_the_seed_decides_the_accuracies(data):
    distilled = toy_set(data)
    first, second = (evaluate(distilled, {"all": data}, TINY) for _ in range(2))
    other = evaluate(distilled, {"all": data}, dataclasses.replace(TINY, seed=1))
    assert first == second
    assert first.accuracies["all"][0] != first.accuracies["all"][1]
    assert first.accuracies != other.accuracies
    # The runs do not depend on one another.
    assert (
        evaluate(distilled, {"all": data}, dataclasses.replace(TINY, runs=1)).accuracies["all"]
        == (first.accuracies["all"][:1])
    )


def test_a_whole_data_set_trains_as_its_normalised_images_do(data):
    mean, std = data.channel_statistics()
    config = resolve_training(dataclasses.replace(TINY, epochs=3, batch_size=50), (16, 16), flip_safe=True)
    pixels = train_network(data.images, data.labels, 3, config, mean=mean, std=std)
    images = train_network(normalise(data.images, mean, std), data.labels, 3, config)
    # The operator that gathers and augments rounds its normalisation otherwise than `normalise`.
    torch.testing.assert_close(pixels.classifier.weight, images.classifier.weight, rtol=1e-4, atol=1e-5)
    config = dataclasses.replace(TINY, runs=1, epochs=30, augment=AugmentConfig(strategy="crop"))
    assert evaluate(data.train(), {"all": data}, config).mean("all") > 80


def test_accuracy_counts_right_answers(data):
    network = ConvNet(3, (16, 16), NetworkConfig(width=8)).eval()
    mean, std = data.channel_statistics()
    logits = network(normalise(data.images, mean, std))
    expected = 100 * (logits.argmax(1) == data.labels).double().mean().item()
    assert accuracy(network, data, tuple(mean.tolist()), tuple(std.tolist())) == pytest.approx(expected)


def test_mean_and_sample_standard_deviation():
    config = resolve_training(EvaluateConfig(), (32, 32), flip_safe=True)
    result = Evaluation({"target": [50.0, 54.0, 61.0], "sources": [70.0, 70.0, 70.0]}, config)
    assert result.mean("target") == pytest.approx(55)
    assert result.std("target") == pytest.approx(math.sqrt((25 + 1 + 36) / 2))
    assert result.std("sources") == 0
    single = Evaluation({"target": [50.0]}, config)
    assert math.isnan(single.std("target"))
    assert single.to_dict()["accuracies"]["target"] == {"runs": [50.0], "mean": 50.0, "std": None}
    assert "a single run" in single.description


def test_the_description_and_the_configuration_go_with_the_numbers(data):
    result = evaluate(toy_set(data, flip_safe=False), {"all": data}, TINY)
    assert result.config.augment.strategy == "color_crop_cutout_scale_rotate"
    assert result.config.network.depth == 2
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["accuracies"]["all"]["runs"] == result.accuracies["all"]
    assert from_dict(EvaluateSettings, written["config"]) == result.config
    for part in ("width 8", "depth 2", "12 epochs", "after epoch 7", "2 runs", "scale_rotate", "last epoch"):
        assert part in written["description"]
    assert "\n" not in written["description"]


def test_what_does_not_fit_is_refused(data):
    distilled = toy_set(data)
    with pytest.raises(ValueError, match="at least one test set"):
        evaluate(distilled, {}, TINY)
    with pytest.raises(ValueError, match=r"'other' has other classes .* class0, class1 instead"):
        evaluate(distilled, {"other": toy_domains(classes=2)}, TINY)
    with pytest.raises(ValueError, match=r"images of \(8, 8\) px, the training set of \(16, 16\)"):
        evaluate(distilled, {"small": toy_domains(side=8)}, TINY)
    with pytest.raises(ValueError, match=r"cutmix_probability must lie in \[0, 1\], got 2"):
        resolve_training(dataclasses.replace(TINY, cutmix_probability=2.0), (16, 16), flip_safe=True)
    with pytest.raises(ValueError, match="CutMix splits an image's label, fact needs it whole"):
        resolve_training(dataclasses.replace(TINY, cutmix_probability=0.5, generalize="fact"), (16, 16), True)
    for name in ("runs", "epochs", "batch_size"):
        with pytest.raises(ValueError, match=f"evaluate.{name} must be at least 1"):
            evaluate(distilled, {"all": data}, dataclasses.replace(TINY, **{name: 0}))
    with pytest.raises(ValueError, match="a label each"):
        train_network(
            distilled.images, distilled.labels[:3], 3, resolve_training(TINY, (16, 16), flip_safe=True)
        )


def test_devices_agree(data, device):
    distilled = toy_set(data)
    config = dataclasses.replace(TINY, runs=1, epochs=2)
    here = evaluate(distilled, {"all": data}, config).mean("all")
    # Two epochs leave the same network up to rounding, so few of the 108 answers may change.
    assert abs(evaluate(distilled, {"all": data}, config, device=device).mean("all") - here) < 6
