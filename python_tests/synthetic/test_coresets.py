"""Herding against its definition, and which rows it may choose."""

import pytest
import torch
from toy_data import toy_domains

from dgdd_fast.config import NetworkConfig
from dgdd_fast.networks import ConvNet, initialise
from dgdd_fast.seeds import generator
from dgdd_fast.synthetic.coresets import herded_rows, herding
from dgdd_fast.synthetic.initial import assign_domains


def test_each_step_is_the_best_of_all_that_are_left():
    features = torch.randn(12, 5, generator=generator(0, "herding"), dtype=torch.float64) + 3
    order = herding(features, 7).tolist()
    mean, taken = features.mean(0), []
    for step, row in enumerate(order):
        left = [candidate for candidate in range(12) if candidate not in taken]
        error = {
            candidate: float(((step + 1) * mean - features[[*taken, candidate]].sum(0)).norm())
            for candidate in left
        }
        assert row == min(error, key=error.get)
        taken.append(row)


def test_herding_follows_the_mean_more_closely_than_chance():
    features = torch.randn(200, 8, generator=generator(1, "herding"), dtype=torch.float64)
    features[:, 0] += 10

    def error(rows):
        return float((features[rows].mean(0) - features.mean(0)).norm())

    random = generator(2, "herding")
    chance = min(error(torch.randperm(200, generator=random)[:20]) for _ in range(200))
    assert error(herding(features, 20)) < 0.5 * chance


def test_herding_starts_again_where_more_is_asked_than_there_is():
    features = torch.tensor([[0.0], [1.0], [5.0]])
    assert herding(features, 7).tolist() == herding(features, 3).tolist() * 2 + herding(features, 1).tolist()
    assert len(herding(features, 0)) == 0
    with pytest.raises(ValueError, match="at least one row"):
        herding(features[:0], 1)


@pytest.mark.parametrize("balanced", [True, False])
def test_rows_are_of_their_class_and_balanced_if_asked(balanced):
    data = toy_domains()
    network = ConvNet(3, (16, 16), NetworkConfig(width=8))
    initialise(network, generator(0, "network"))
    mean, std = data.channel_statistics()
    assigned = assign_domains(data.counts(), 4)
    rows = herded_rows(data, network, assigned, balanced, mean, std)
    assert len(set(rows.tolist())) == 12
    assert torch.equal(data.labels[rows], torch.arange(3).repeat_interleave(4))
    if balanced:
        assert torch.equal(data.domains[rows], assigned.flatten())
    else:
        # Of each class, the first row is the one nearest to the class mean in the features.
        for label in range(3):
            members = torch.cat(data.cells()[label])
            pixels = (data.images[members].double() / 255 - mean[:, None, None]) / std[:, None, None]
            features = network.features(pixels.float()).double()
            nearest = members[(features - features.mean(0)).norm(dim=1).argmin()]
            assert rows[4 * label] == nearest
