"""What is added to an objective: the domain-aware module, and FACT's augmentation."""

import dataclasses

import pytest
import torch
from small_runs import SMALL, WITH_SURGERY, relative_change
from toy_data import toy_domains
from toy_experts import toy_experts

from dgdd_fast.config import (
    DomainMaskConfig,
    ExpertConfig,
    NetworkConfig,
    SurgeryConfig,
    method_name,
    with_method,
)
from dgdd_fast.data import normalise
from dgdd_fast.data.augment import augment, draw_siamese
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.distillation import CHECKPOINT_NAME, distill
from dgdd_fast.generalization.fact import draw_partners, mix_amplitudes
from dgdd_fast.matching.batches import real_batch
from dgdd_fast.matching.domain_masks import DomainMasks
from dgdd_fast.matching.registry import build_objective
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.networks import ConvNet, initialise
from dgdd_fast.seeds import generator
from dgdd_fast.synthetic.checkpoint import Checkpoint
from dgdd_fast.synthetic.initial import assign_domains, initial_tiles

DAM = dataclasses.replace(SMALL, domain_masks=DomainMaskConfig(weight=0.7, temperature=0.2))
LABELS = torch.arange(3).repeat_interleave(4)


class Literal:
    """What an iteration draws, and its features, by hand."""

    def __init__(self, data, config, iteration):
        self.data, self.iteration = data, iteration
        self.config = resolve_distillation(config, data)
        self.mean, self.std = data.channel_statistics()
        self.domains = assign_domains(data.counts(), config.ipc)
        self.images = initial_tiles(data, self.domains, self.config, self.mean, self.std)
        self.network = ConvNet(3, (16, 16), self.config.network)
        initialise(self.network, generator(config.seed, "network", iteration))
        self.draw = draw_siamese(
            self.config.augment, (16, 16), 3, generator(config.seed, "augment", iteration)
        )
        self.rows, _ = real_batch(data.cells(), self.config.batch_real, config.seed, iteration)
        self.real = normalise(data.images[self.rows], self.mean, self.std)

    def objective(self):
        real = RealImages(self.data, self.mean, self.std, torch.device("cpu"))
        without_masks = dataclasses.replace(self.config, domain_masks=None)
        return build_objective(real, without_masks, self.domains.flatten())

    def features(self, images, labels, mix=lambda images: images):
        return self.network.features(mix(augment(images, self.draw, labels)))

    def loss(self, images, keep, of_real, of_synthetic):
        """Distribution matching against the real images that `keep` names."""
        labels = self.data.labels[self.rows]
        return sum(
            (of_synthetic[label == LABELS].mean(0) - of_real[(labels == label) & keep].mean(0)).square().sum()
            for label in range(3)
        )


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_domain_masks_against_autograd_through_everything():
    literal = Literal(toy_domains(), DAM, 5)
    host = literal.objective()
    module = DomainMasks(host, host, literal.config, literal.config.domain_masks)
    module.masks.copy_(0.3 * torch.randn(module.masks.shape, generator=generator(1, "masks")))
    found = module.gradients(literal.images, 5, by_domain=False)

    images, masks = literal.images.clone().requires_grad_(), module.masks.clone().requires_grad_()
    everything = torch.ones(len(literal.rows), dtype=torch.bool)
    of_real = literal.features(literal.real, literal.data.labels[literal.rows]).detach()
    matching = literal.loss(images, everything, of_real, literal.features(images, LABELS))
    views = torch.softmax(masks / 0.2, 0) * images
    torch.testing.assert_close(views.sum(0), images)
    apart = sum(
        (literal.features(views[domain], LABELS).mean(0) - of_real[chosen].mean(0)).square().sum()
        for domain, chosen in enumerate(literal.data.domains[literal.rows] == d for d in range(3))
    )
    of_images, of_masks = torch.autograd.grad(matching + 0.7 * apart, (images, masks))
    close(found.union, of_images)
    close(module.mask_gradient, of_masks)
    close(found.losses, torch.stack([matching, 0.7 * apart]).detach())
    assert module.terms == ("matching", "domains")
    # One step of the masks: momentum starts at zero.
    before = module.masks.clone()
    module.after_step(module.plan(0))
    close(before - module.masks, 0.2 * module.mask_gradient)


def test_masks_have_a_learning_rate_of_their_own_and_no_bounds():
    masks = dataclasses.replace(DAM.domain_masks, learning_rate=5.0)
    literal = Literal(toy_domains(), dataclasses.replace(DAM, domain_masks=masks, clamp=True), 5)
    host = literal.objective()
    module = DomainMasks(host, host, literal.config, literal.config.domain_masks)
    module.mask_gradient = torch.linspace(-1, 1, module.masks.numel()).view_as(module.masks)
    module.after_step(module.plan(0))
    torch.testing.assert_close(module.masks, 0.01 - 5.0 * module.mask_gradient)


def test_masks_start_alike_and_learn_with_the_images(tmp_path):
    data = toy_domains()
    config = dataclasses.replace(DAM, surgery=SurgeryConfig(), image_lr=1.0)
    distill(data, dataclasses.replace(config, iterations=0), run_folder=tmp_path)
    name = "domain masks.values"
    assert (Checkpoint.load(tmp_path / CHECKPOINT_NAME).optimizer[name] == 0.01).all()
    result = distill(data, config, run_folder=tmp_path, resume=True)
    masks = Checkpoint.load(tmp_path / CHECKPOINT_NAME).optimizer[name]
    assert masks.shape == (3, 12, 3, 16, 16)
    assert masks.std(0).max() > 1e-4
    without = distill(data, dataclasses.replace(config, domain_masks=None)).images
    assert not torch.equal(result.images, without)
    # Without weight nothing of them reaches the images.
    idle = distill(data, dataclasses.replace(config, domain_masks=DomainMaskConfig(weight=0.0))).images
    begin = distill(data, dataclasses.replace(config, iterations=0)).images
    assert relative_change(idle, without, begin) < 1e-4


@pytest.mark.parametrize("method", ["dm+dam", "dm+dam+fact+sgs", "mmd+dam+fact+sgs"])
def test_resumed_runs_are_bit_for_bit_alike(method, tmp_path):
    data = toy_domains()
    config = with_method(dataclasses.replace(SMALL, iterations=5), method)
    if method.startswith("mmd"):
        experts = ExpertConfig(pool=str(toy_experts(tmp_path / "experts", data)))
        config = dataclasses.replace(config, experts=experts, network=NetworkConfig(), image_lr=0.01)
    terms = []
    whole = distill(data, config, progress=lambda state: terms.append(state.terms)).images
    assert all(state["domains"] > 0 for state in terms)
    distill(data, dataclasses.replace(config, iterations=3), run_folder=tmp_path / "run")
    assert torch.equal(distill(data, config, run_folder=tmp_path / "run", resume=True).images, whole)


def test_mixed_amplitudes_against_the_formula_for_the_union_and_each_domain():
    literal = Literal(toy_domains(), dataclasses.replace(WITH_SURGERY, fact=True), 3)
    found = literal.objective().gradients(literal.images, 3, by_domain=True)
    random = generator(literal.config.seed, "fact", 3)
    mixes = []
    for count in (len(literal.rows), 12):
        partner, share = draw_partners(count, literal.data.domains, random, torch.device("cpu"))
        mixes.append((literal.data.images[partner] / 255, share))
    mean, std = literal.mean[:, None, None], literal.std[:, None, None]

    def mixer(partners, share):
        return lambda images: (mix_amplitudes(images * std + mean, partners, share) - mean) / std

    labels = literal.data.labels[literal.rows]
    of_real = literal.features(literal.real, labels, mixer(*mixes[0])).detach()
    for domain in range(3):
        images = literal.images.clone().requires_grad_()
        of_synthetic = literal.features(images, LABELS, mixer(*mixes[1]))
        keep = literal.data.domains[literal.rows] == domain
        (expected,) = torch.autograd.grad(literal.loss(images, keep, of_real, of_synthetic), images)
        close(found.by_domain[domain], expected)
    assert found.union is None  # the mean of the domains'


def test_mixed_amplitudes_do_not_depend_on_chunks():
    data = toy_domains(per_cell=20)
    config = dataclasses.replace(
        WITH_SURGERY, fact=True, ipc=24, network=NetworkConfig(width=64, depth=2), batch_real=20, iterations=2
    )
    roomy, tight = (distill(data, dataclasses.replace(config, memory_budget_mib=m)).images for m in (2048, 1))
    start = distill(data, dataclasses.replace(config, iterations=0)).images
    assert relative_change(tight, roomy, start) < 2e-4


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("hdd+dam", {}, "domain masks belong to dm and mmd, not to hdd"),
        ("dm+dam", {"domain_masks": DomainMaskConfig(temperature=0.0)}, "temperature must be positive"),
        ("dc+fact", {}, "which dc does not do"),
        ("random+fact", {}, "which random does not do"),
    ],
)
def test_modifiers_that_cannot_work_are_refused(method, change, message):
    config = dataclasses.replace(with_method(SMALL, method), **change)
    with pytest.raises(ValueError, match=message):
        distill(toy_domains(), config)


def test_a_method_names_its_modifiers_once():
    assert method_name(with_method(SMALL, "dm+sgs+dam")) == "dm+dam+sgs"
    assert with_method(DAM, "dm+dam").domain_masks == DAM.domain_masks
    assert method_name(with_method(DAM, "dm")) == "dm"
    for wrong in ("dm+sgs+sgs", "dm+mixup"):
        with pytest.raises(ValueError, match=r"then \+dam, \+fact, \+soft, \+sgs if wanted"):
            with_method(SMALL, wrong)
