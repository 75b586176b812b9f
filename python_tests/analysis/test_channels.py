"""Which channels of the experts are domain-sensitive."""

import dataclasses
import json

import pytest
import torch
from toy_data import toy_domains
from toy_experts import toy_experts

from dgdd_fast.analysis import channels
from dgdd_fast.analysis.channels import compare_channels, examine_experts, stability
from dgdd_fast.analysis.domain_probe import halves, probe_accuracies
from dgdd_fast.config import MaskConfig
from dgdd_fast.data import normalise
from dgdd_fast.experts import ExpertPool, ExpertPoolError
from dgdd_fast.masking import draw_uniforms, mask
from dgdd_fast.synthetic.distilled_set import DistilledSet

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
    diagnostics = examine_experts(pool, DATA, MaskConfig(share=0.5))
    assert len(diagnostics) == 2
    expert = pool.new_expert()
    for index, found in enumerate(diagnostics):
        pool.fill_(expert, index, 1.0)
        logits, domain_logits = expert(normalise(DATA.images, pool.mean, pool.std))
        assert found.accuracy == pytest.approx(100 * float((logits.argmax(1) == DATA.labels).float().mean()))
        told = 100 * (domain_logits.argmax(2) == DATA.domains).float().mean(1)
        assert found.domain_accuracy == pytest.approx(told.tolist())
        assert found.masked_share == pytest.approx([50.0] * 4)
        # the discriminators of random experts see other domains where half of the channels is gone
        assert found.masked_domain_accuracy != found.domain_accuracy
        assert found.uniform_domain_accuracy not in (found.domain_accuracy, found.masked_domain_accuracy)
        assert found.probe_accuracy != found.masked_probe_accuracy != found.uniform_probe_accuracy
    unmasked = examine_experts(pool, DATA, MaskConfig(share=0.0))
    for found in unmasked:
        assert found.masked_domain_accuracy == pytest.approx(found.domain_accuracy)
        assert found.uniform_domain_accuracy == pytest.approx(found.domain_accuracy)
        assert found.masked_probe_accuracy == found.uniform_probe_accuracy == found.probe_accuracy
        assert found.masked_share == [0.0] * 4


def test_experts_are_examined_alike_in_parts(pool, monkeypatch):
    whole = examine_experts(pool, DATA, MaskConfig())
    monkeypatch.setattr("dgdd_fast.analysis.channels.rows_per_chunk", lambda *_: 7)
    for found, expected in zip(examine_experts(pool, DATA, MaskConfig()), whole, strict=True):
        for measured, wanted in zip(found, expected, strict=True):
            assert measured == pytest.approx(wanted, abs=1.5)  # an image in 72 at a tie


def test_of_many_images_some_are_drawn_whose_features_fit_into_memory(pool, monkeypatch):
    monkeypatch.setattr("dgdd_fast.experts.discriminators._MOST", 24)
    examined = []

    class Enough(Exception):
        pass

    def collect(expert, images, domains, *rest):
        examined.append((images[:], domains))
        raise Enough

    monkeypatch.setattr(channels, "collect_features", collect)
    for _ in range(2):
        with pytest.raises(Enough):
            examine_experts(pool, DATA, MaskConfig())
    (images, domains), (images_again, domains_again) = examined
    assert len(images) == len(domains) == 24
    assert set(domains.tolist()) == {0, 1, 2}
    assert torch.equal(images, images_again)
    assert torch.equal(domains, domains_again)


def test_real_images_are_normalised_in_parts_and_score_as_if_all_were_at_once(pool, monkeypatch):
    monkeypatch.setattr("dgdd_fast.analysis.channels.rows_per_chunk", lambda *_: 7)
    at_once = stability(pool, normalise(DATA.images, pool.mean, pool.std), DATA.domains, 4)
    counts = []

    def counted(images, *statistics):
        counts.append(len(images))
        return normalise(images, *statistics)

    monkeypatch.setattr("dgdd_fast.data.real_images.normalise", counted)
    report = compare_channels(pool, DATA, {}, MaskConfig())
    assert max(counts) == 7
    assert sum(counts) == len(DATA) * len(pool) * 5  # once for each of the four stages, once for all of them
    assert report["stages"][3]["deviation"]["real"] == at_once.deviation.mean(1).tolist()


def test_masks_hide_the_domain_from_a_discriminator_that_knows_it_and_uniform_ones_less(pool):
    """Of 32 pooled channels of the last stage four are larger in each domain."""
    domains = torch.arange(300) % 3
    expert = pool.new_expert()
    features = torch.rand(300, 32, generator=torch.Generator().manual_seed(0))
    for domain in range(3):
        features[:, domain::8][domains == domain] += 3.0
    informative = torch.stack([torch.arange(32) % 8 == domain for domain in range(3)]).float()
    expert.discriminators[3].weight.copy_(informative)
    maps = features[:, :, None, None]
    uniforms = draw_uniforms(300, 32, 0, "test")
    right = {}
    for score in ("gap", "uniform"):
        masked, _ = mask(maps, expert, 4, domains, uniforms, MaskConfig(share=0.25, score=score))
        _, right[score] = probe_accuracies(features, [features, masked.mean((2, 3))], domains)
    assert right["gap"] < right["uniform"] - 10


def test_a_probe_tells_from_images_it_was_not_fitted_to():
    domains = torch.arange(200) // 100
    noise = torch.randn(200, 400, generator=torch.Generator().manual_seed(0))
    signal = noise.clone()
    signal[:, :5] = 1e-3 * (noise[:, :5] + 3 * domains[:, None])  # of a small scale
    signal[:, 5] = 1.0  # dead
    plain, dropped = probe_accuracies(signal, [signal, noise], domains)
    assert plain > 90
    (guessed,) = probe_accuracies(noise, [noise], domains)
    assert 35 < guessed < 65  # though 400 channels can be fitted to any 100 images
    assert dropped < plain
    fit, test = halves(domains)
    assert sorted([*fit.tolist(), *test.tolist()]) == list(range(200))
    assert domains[fit].sum() == domains[test].sum() == 50


@pytest.mark.parametrize("domains", [[0, 0, 0, 0], [0, 0, 1]])
def test_domains_that_cannot_be_told_apart_are_refused(domains):
    with pytest.raises(ValueError, match="takes two domains or more, and two images of each"):
        halves(torch.tensor(domains))


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
    images = normalise(DATA.images, pool.mean, pool.std)
    for number, stage in enumerate(report["stages"], start=1):
        deviations = stability(pool, images, DATA.domains, number).deviation.numpy()
        assert stage["threshold"] == pytest.approx(deviations.mean(1) + deviations.std(1, ddof=1), rel=1e-5)
        assert stage["unstable"]["copy"] == stage["unstable"]["real"]
        assert stage["deviation"]["copy"] == pytest.approx(stage["deviation"]["real"])
        assert all(0 < count < stage["channels"] for count in stage["unstable"]["real"])
        scores = torch.tensor([stage["scores"]["real"][name] for name in DATA.domain_names])
        assert scores.shape == (3, stage["channels"])
        deviation = scores.std(0, correction=0)
        assert float(deviation.mean()) == pytest.approx(stage["deviation"]["real"][0], rel=1e-5)
        for name, of_domain in stage["scores"]["copy"].items():
            assert of_domain == pytest.approx(stage["scores"]["real"][name], abs=1e-6)
    assert json.loads(json.dumps(report)) == report


def test_a_set_of_other_domains_is_refused_also_where_it_has_as_many(pool):
    styles = dataclasses.replace(as_set(DATA), domain_names=("style1", "style2", "style3"))
    with pytest.raises(ValueError, match=r"^styles has the domains style1, style2, style3, and the experts"):
        compare_channels(pool, DATA, {"styles": styles}, MaskConfig())


def test_other_domains_are_refused(pool):
    with pytest.raises(ExpertPoolError, match="were trained with domains domain0"):
        examine_experts(pool, toy_domains(per_cell=8, domains=2), MaskConfig())
