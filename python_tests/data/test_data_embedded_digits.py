"""The embedded digits: reproducible, disjoint, balanced, readable."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dgdd_fast.data import DataError, DomainDataset, embedded_digits


@pytest.fixture(scope="module")
def digits() -> DomainDataset:
    return embedded_digits()


def test_four_domains_of_ten_classes_in_equal_parts(digits: DomainDataset) -> None:
    assert digits.domain_names == ("plain", "blended", "street", "warped")
    assert digits.class_names == tuple("0123456789")
    assert digits.resolution == (32, 32)
    assert digits.train().counts().tolist() == [[130] * 4] * 10
    assert digits.test().counts().tolist() == [[44] * 4] * 10
    assert not digits.flip_safe
    assert digits.warnings == ()


def test_equal_arguments_give_equal_bytes_and_other_seeds_other_digits(digits: DomainDataset) -> None:
    state = torch.random.get_rng_state()
    assert embedded_digits().fingerprint() == digits.fingerprint()
    assert embedded_digits(16).fingerprint() != embedded_digits(16, seed=1).fingerprint()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_names_agree_with_labels_domains_and_parts(digits: DomainDataset) -> None:
    assert len(set(digits.item_names)) == len(digits)
    for row, name in enumerate(digits.item_names):
        domain, part, digit, _ = name.split("/")
        assert domain == digits.domain_names[int(digits.domains[row])]
        assert int(digit) == digits.labels[row]
        assert (part == "test") == digits.is_test[row]


def test_no_handwritten_digit_is_used_twice(digits: DomainDataset) -> None:
    target = load_digits().target
    used: dict[tuple[str, str], set[int]] = {}
    for name in digits.item_names:
        domain, part, digit, origin = name.split("/")
        if domain in ("plain", "blended"):
            source = int(origin.split("-")[1])
            assert target[source] == int(digit)
            used.setdefault((domain, part), set()).add(source)
    groups = list(used.values())
    assert len(groups) == 4
    assert len(set.union(*groups)) == sum(len(group) for group in groups)


def test_train_and_test_share_no_font(digits: DomainDataset) -> None:
    fonts: dict[str, set[str]] = {"train": set(), "test": set()}
    for name in digits.item_names:
        domain, part, _, origin = name.split("/")
        if domain in ("street", "warped"):
            fonts[part].add(origin.rsplit("-", 1)[0])
    assert len(fonts["train"]) > 8
    assert len(fonts["test"]) > 3
    assert not fonts["train"] & fonts["test"]


def test_no_two_images_are_equal(digits: DomainDataset) -> None:
    assert len({image.numpy().tobytes() for image in digits.images}) == len(digits)


def test_values_use_the_range_and_domains_differ(digits: DomainDataset) -> None:
    statistics = []
    for domain in range(4):
        pixels = digits.images[digits.domains == domain].float() / 255
        assert pixels.std() > 0.1
        colour = pixels.amax(dim=1).sub(pixels.amin(dim=1)).mean()
        statistics.append((float(pixels.mean()), float(colour)))
    assert statistics[0][1] == 0  # plain is grey
    assert all(colour > 0.02 for _, colour in statistics[1:])
    assert statistics[0][0] < min(mean for mean, _ in statistics[1:])


def test_labels_fit_the_pixels_and_the_domains_lie_apart(digits: DomainDataset) -> None:
    features = digits.images.float().flatten(1)
    features -= features.mean(dim=1, keepdim=True)
    features /= features.norm(dim=1, keepdim=True)

    def nearest_neighbour_accuracy(source: int, target: int) -> float:
        train = (digits.domains == source) & ~digits.is_test
        test = (digits.domains == target) & digits.is_test
        nearest = (features[test] @ features[train].T).argmax(dim=1)
        return float((digits.labels[train][nearest] == digits.labels[test]).float().mean())

    own = [nearest_neighbour_accuracy(domain, domain) for domain in range(4)]
    for accuracy, least in zip(own, (0.93, 0.75, 0.45, 0.25), strict=True):  # chance is 0.1
        assert accuracy > least
    for target, other in ((0, 2), (1, 2), (2, 0), (3, 0)):
        assert nearest_neighbour_accuracy(other, target) < own[target] - 0.05


@pytest.mark.parametrize("resolution", [16, 17, 64])
def test_other_resolutions_show_the_same_images(digits: DomainDataset, resolution: int) -> None:
    other = embedded_digits(resolution)
    assert other.resolution == (resolution, resolution)
    assert other.item_names == digits.item_names
    small = [
        torch.nn.functional.interpolate(part.images[::9].float(), size=(8, 8), mode="area").flatten()
        for part in (digits, other)
    ]
    assert np.corrcoef(small[0].numpy(), small[1].numpy())[0, 1] > 0.9


@pytest.mark.parametrize("resolution", [0, 15, 65])
def test_other_sizes_are_refused(resolution: int) -> None:
    with pytest.raises(DataError, match=f"16 to 64 pixels, got {resolution}"):
        embedded_digits(resolution)
