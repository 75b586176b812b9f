"""Pseudo-domains: style is found where it is the only difference, whatever the classes."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from toy_data import toy_domains

from dgdd_fast.config import NetworkConfig
from dgdd_fast.data import normalise
from dgdd_fast.data.pseudo_domains import style_statistics, with_pseudo_domains
from dgdd_fast.networks import ConvNet, initialise
from dgdd_fast.seeds import derive_seed, generator

NETWORK = NetworkConfig(width=8, depth=2)


def tinted(seed=0):
    """The toy data with three styles instead of its domains, each over all classes: dark, bright,
    inverted."""
    data = toy_domains(domains=1, per_cell=30, seed=seed)
    style = torch.randint(3, (len(data),), generator=generator(seed, "style"))
    pixels = (data.images * 0.3 + 150 * torch.eye(3)[style][:, :, None, None]).byte()
    return dataclasses.replace(data, images=pixels), style


def test_styles_are_found_across_the_classes():
    data, style = tinted()
    found = with_pseudo_domains(data, 3, NETWORK, seed=0)
    assert found.domain_names == ("style1", "style2", "style3")
    table = torch.zeros(3, 3, dtype=torch.int64)
    table.index_put_((style, found.domains), torch.tensor(1), accumulate=True)
    assert (table > 0).sum() == 3  # a one-to-one correspondence
    sizes = torch.bincount(found.domains)
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    for kept in ("images", "labels", "is_test"):
        assert torch.equal(getattr(found, kept), getattr(data, kept))


def test_a_seed_repeats_and_decides():
    data = toy_domains()
    first, again = (with_pseudo_domains(data, 4, NETWORK, seed=3).domains for _ in range(2))
    assert torch.equal(first, again)
    assert len(first.unique()) == 4
    assert not torch.equal(first, with_pseudo_domains(data, 4, NETWORK, seed=4).domains)


def test_clusters_are_the_best_of_ten_starts_on_standardised_statistics():
    data = toy_domains()
    found = with_pseudo_domains(data, 10, NETWORK, seed=3).domains
    style = style_statistics(data, NETWORK, seed=3).double().numpy()
    standardised = (style - style.mean(0)) / style.std(0).clip(1e-12)

    def agreement(values, starts):
        clusters = KMeans(10, n_init=starts, random_state=derive_seed(3, "pseudo-domains", "k-means") % 2**32)
        return adjusted_rand_score(found, clusters.fit_predict(values))

    assert agreement(standardised, 10) == 1
    assert agreement(standardised, 1) < 1
    assert agreement(style, 10) < 1


def test_statistics_are_those_of_every_block():
    data = toy_domains(side=8)
    network = ConvNet(1, (8, 8), dataclasses.replace(NETWORK, norm="none"))  # one class: what it draws
    initialise(network, generator(5, "pseudo-domains", "network"))
    maps, expected = normalise(data.images, *data.channel_statistics()), []
    for block in network.stages:
        maps = F.conv2d(maps, block.convolution.weight, block.convolution.bias, padding=1)
        maps = F.avg_pool2d(maps.relu(), 2)
        pixels = maps.flatten(2)
        centred = pixels - pixels.mean(2, keepdim=True)
        expected += [pixels.mean(2), centred.square().mean(2).sqrt()]
    # Which normalisation the network has otherwise does not matter.
    actual = style_statistics(data, NETWORK, seed=5)
    torch.testing.assert_close(actual, torch.cat(expected, 1), rtol=1e-4, atol=1e-5)


def test_no_more_clusters_than_different_images():
    data = toy_domains()
    same = dataclasses.replace(data, images=data.images[:1].expand(len(data), -1, -1, -1).contiguous())
    with pytest.warns(ConvergenceWarning, match="distinct clusters"):
        assert with_pseudo_domains(same, 3, NETWORK, seed=0).domain_names == ("style1",)
    assert with_pseudo_domains(data, 1, NETWORK, seed=0).num_domains == 1
    for count in (0, len(data) + 1):
        with pytest.raises(ValueError, match=r"must be in 1\.\.108, the number of images"):
            with_pseudo_domains(data, count, NETWORK, seed=0)
