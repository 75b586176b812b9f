"""Which channels tell the domains apart."""

import json

import pytest
import torch
from toy_data import toy_domains
from toy_experts import toy_experts

from dgdd_fast.config import MaskConfig
from dgdd_fast.data import normalise
from dgdd_fast.distilled_set import DistilledSet
from dgdd_fast.experts import ExpertPool, ExpertPoolError
from dgdd_fast.report.channels import compare_channels, examine_experts, stability

DATA = toy_domains(per_cell=8)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return ExpertPool.load(toy_experts(tmp_path_factory.mktemp("experts"), DATA))


def as_set(data):
    """The real images as if they had been distilled, class by class."""
    rows = torch.cat([torch.cat(cells) for cells in data.cells()])
    mean, std = data.channel_statistics()
    return DistilledSet(
        images=normalise(data.images[rows], mean, std),
        labels=data.labels[rows],
        domains=data.domains[rows],
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        class_names=data.class_names,
        domain_names=data.domain_names,
        flip_safe=False,
        config={},
        provenance={},
    )


def test_experts_are_examined_as_their_own_forward_says(pool):
    sights = examine_experts(pool, DATA, MaskConfig(share=0.5))
    assert len(sights) == 2
    expert = pool.new_expert()
    for index, sight in enumerate(sights):
        pool.fill_(expert, index, 1.0)
        logits, domain_logits = expert(normalise(DATA.images, pool.mean, pool.std))
        assert sight.accuracy == pytest.approx(100 * float((logits.argmax(1) == DATA.labels).float().mean()))
        told = 100 * (domain_logits.argmax(2) == DATA.domains).float().mean(1)
        assert sight.domain_accuracy == pytest.approx(told.tolist())
        assert sight.masked_share == pytest.approx([50.0] * 4)
        # the discriminators of random experts see other domains where half of the channels is gone
        assert sight.masked_domain_accuracy != sight.domain_accuracy
    unmasked = examine_experts(pool, DATA, MaskConfig(share=0.0))
    for sight in unmasked:
        assert sight.masked_domain_accuracy == pytest.approx(sight.domain_accuracy)
        assert sight.masked_share == [0.0] * 4


def test_scores_are_the_means_of_each_domains_images_for_their_own_domain(pool):
    images = normalise(DATA.images, pool.mean, pool.std)
    found = stability(pool, images, DATA.domains, stage=2)
    expert = pool.new_expert()
    pool.fill_(expert, 1, 1.0)
    features = expert.network.forward_to(images, 2).mean((2, 3))
    weight = expert.discriminators[1].weight
    expected = torch.stack(
        [(features[DATA.domains == domain] * weight[domain]).mean(0) for domain in range(3)]
    )
    torch.testing.assert_close(found.scores[1], expected)
    torch.testing.assert_close(found.deviation[1], expected.std(0, correction=0))
    between = expected.std(0, correction=0).sort().values[3:5].mean()
    assert found.unstable(torch.tensor([0.0, float(between)])) == [8, 4]
    with pytest.raises(ValueError, match="no image of the domain 'domain2'"):
        stability(pool, images[:2], torch.tensor([0, 1]), stage=2)


def test_a_set_of_the_real_images_has_their_unstable_channels(pool):
    report = compare_channels(pool, DATA, {"copy": as_set(DATA)}, MaskConfig())
    assert [stage["channels"] for stage in report["stages"]] == [4, 8, 16, 32]
    for stage in report["stages"]:
        assert stage["unstable"]["copy"] == stage["unstable"]["real"]
        assert stage["deviation"]["copy"] == pytest.approx(stage["deviation"]["real"])
        assert all(0 < count < stage["channels"] for count in stage["unstable"]["real"])
    assert json.loads(json.dumps(report)) == report


def test_other_domains_are_refused(pool):
    with pytest.raises(ExpertPoolError, match="were trained with domains domain0"):
        examine_experts(pool, toy_domains(per_cell=8, domains=2), MaskConfig())
