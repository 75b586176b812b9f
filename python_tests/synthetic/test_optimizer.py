"""The steps of the synthetic images."""

import pytest
import torch

from dgdd_fast.config import DistillConfig, SurgeryConfig
from dgdd_fast.ops.reference import spectral_surgery
from dgdd_fast.synthetic.gradients import ImageGradients
from dgdd_fast.synthetic.optimizer import ImageOptimizer

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
DOMAINS = torch.tensor([0, 1, 2, 0])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def resolved(**settings):
    return DistillConfig(**{"optimizer": "adam", "image_lr": 0.02, "clamp": False, **settings})


def run(config, images, gradients):
    optimizer = ImageOptimizer(config, MEAN, STD, DOMAINS, images, classes=2)
    for iteration, gradient in enumerate(gradients):
        optimizer.step_(images, gradient, optimizer.corrections(iteration))
    return images


def plain(gradient):
    return ImageGradients(torch.zeros(1), gradient, None, None)


def test_adam_on_normalised_images_is_adam_on_pixels():
    gradients = [draw(4, 3, 5, 6, seed=seed) * 10.0 ** -(seed % 4) for seed in range(30)]
    images = run(resolved(), draw(4, 3, 5, 6), map(plain, gradients))
    mean, std = MEAN.view(3, 1, 1).double(), STD.view(3, 1, 1).double()
    pixels = (draw(4, 3, 5, 6).double() * std + mean).requires_grad_()
    reference = torch.optim.Adam([pixels], lr=0.02)
    for gradient in gradients:
        pixels.grad = gradient / std
        reference.step()
    torch.testing.assert_close(images, ((pixels - mean) / std).float(), rtol=1e-5, atol=1e-5)


def test_sgd_is_that_of_torch():
    gradients = [draw(4, 3, 5, 6, seed=seed) for seed in range(10)]
    images = run(resolved(optimizer="sgd", momentum=0.7), draw(4, 3, 5, 6), map(plain, gradients))
    expected = draw(4, 3, 5, 6).requires_grad_()
    reference = torch.optim.SGD([expected], lr=0.02, momentum=0.7)
    for gradient in gradients:
        expected.grad = gradient
        reference.step()
    torch.testing.assert_close(images, expected.detach())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("union", [None, draw(4, 3, 8, 6, seed=9)], ids=["mean", "base"])
def test_both_step_along_the_surgery_of_the_domain_gradients(optimizer, union):
    surgery = SurgeryConfig(alpha=0.8, beta=0.5)
    by_domain = draw(3, 4, 3, 8, 6, seed=1)
    direction = spectral_surgery(by_domain, union, DOMAINS, 0.8, 0.5)
    with_surgery = run(
        resolved(optimizer=optimizer, surgery=surgery),
        draw(4, 3, 8, 6),
        [ImageGradients(torch.zeros(1), union, by_domain, None)] * 3,
    )
    along = run(resolved(optimizer=optimizer), draw(4, 3, 8, 6), [plain(direction)] * 3)
    torch.testing.assert_close(with_surgery, along, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_update_of_the_gradient_s_length_is_scaled_class_by_class(optimizer):
    by_domain = [draw(3, 4, 3, 8, 6, seed=seed) for seed in range(3)]
    directions, ratios = [], []
    for gradients in by_domain:
        update, gradient = spectral_surgery(gradients, None, DOMAINS, 0.8, 0.5), gradients.mean(0)
        for rows in (slice(0, 2), slice(2, 4)):  # the images of the two classes
            ratios.append(float(update[rows].norm() / gradient[rows].norm()))
            update[rows] *= gradient[rows].norm() / update[rows].norm()
        directions.append(update)
    assert max(ratios) > 1.01 * min(ratios)
    wanted = run(resolved(optimizer=optimizer), draw(4, 3, 8, 6), map(plain, directions))
    for length in ("gradient", "free"):
        surgery = SurgeryConfig(alpha=0.8, beta=0.5, length=length)
        images = draw(4, 3, 8, 6)
        stepper = ImageOptimizer(
            resolved(optimizer=optimizer, surgery=surgery), MEAN, STD, DOMAINS, images, classes=2
        )
        assert stepper.length_ratio is None
        for iteration, gradients in enumerate(by_domain):
            found = ImageGradients(torch.zeros(1), None, gradients, None)
            stepper.step_(images, found, stepper.corrections(iteration))
        assert stepper.length_ratio == pytest.approx(sum(ratios) / len(ratios), rel=1e-5)
        if length == "gradient":
            torch.testing.assert_close(images, wanted, rtol=1e-4, atol=1e-5)
        else:
            assert not torch.allclose(images, wanted, rtol=1e-2, atol=1e-3)


def test_classes_without_a_gradient_stay_and_do_not_count():
    by_domain = draw(3, 4, 3, 8, 6)
    by_domain[:, :2] = 0
    surgery = SurgeryConfig(alpha=2.0, beta=0.0, length="gradient")
    images = draw(4, 3, 8, 6)
    optimizer = ImageOptimizer(
        resolved(optimizer="sgd", surgery=surgery), MEAN, STD, DOMAINS, images, classes=2
    )
    gradients = ImageGradients(torch.zeros(1), None, by_domain, None)
    optimizer.step_(images, gradients, optimizer.corrections(0))
    assert torch.equal(images[:2], draw(4, 3, 8, 6)[:2])
    assert torch.isfinite(images).all()
    assert 1 < optimizer.length_ratio < 3


@pytest.mark.parametrize(("optimizer", "decay"), [("sgd", 0.0), ("adam", 0.0), ("adam", 0.3)])
def test_steps_by_class_and_term_are_those_of_torch_one_after_the_other(optimizer, decay):
    """NCFM's: a step of all images for each class, whose gradient alone is not zero, and each term."""
    matching, regularising = ([draw(4, 3, 5, 6, seed=10 * term + i) for i in range(5)] for term in (1, 2))
    config = resolved(optimizer=optimizer, momentum=0.7, stepping="class", image_weight_decay=decay)
    gradients = [
        ImageGradients(torch.zeros(1), first + second, None, None, apart=second)
        for first, second in zip(matching, regularising, strict=True)
    ]
    images = run(config, draw(4, 3, 5, 6), gradients)

    mean, std = MEAN.view(3, 1, 1).double(), STD.view(3, 1, 1).double()
    start = draw(4, 3, 5, 6).double()
    if optimizer == "sgd":
        leaf = start.requires_grad_()
        reference = torch.optim.SGD([leaf], lr=0.02, momentum=0.7)
    else:  # on pixels in [0, 1]
        leaf = (start * std + mean).requires_grad_()
        reference = torch.optim.AdamW([leaf], lr=0.02, weight_decay=decay)
    for first, second in zip(matching, regularising, strict=True):
        for term in (first, second):
            for rows in (slice(0, 2), slice(2, 4)):
                leaf.grad = torch.zeros_like(leaf)
                leaf.grad[rows] = (term if optimizer == "sgd" else term / std)[rows].double()
                reference.step()
    expected = leaf.detach() if optimizer == "sgd" else (leaf.detach() - mean) / std
    torch.testing.assert_close(images, expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_term_of_the_union_is_left_out_with_it(optimizer):
    """The regularisation is part of g: surgery without g, and here without strength, moves nothing."""
    surgery = SurgeryConfig(0.0, 0.0, union=False)
    config = resolved(optimizer=optimizer, stepping="class", surgery=surgery)
    by_domain, apart = draw(3, 4, 3, 8, 6), draw(4, 3, 8, 6, seed=1)
    gradients = ImageGradients(torch.zeros(1), by_domain.mean(0) + apart, by_domain, None, apart)
    assert torch.equal(run(config, draw(4, 3, 8, 6), [gradients]), draw(4, 3, 8, 6))


@pytest.mark.parametrize("classes", [7, 10, 65])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_how_much_farther_adam_goes_by_class_and_term(classes, share):
    """sqrt(2K) times where one term is all of the gradient, 2 sqrt(K) times where both are alike."""
    first = draw(classes, 3, 4, 4).sign()
    gradient = ImageGradients(torch.zeros(1), (1 + share) * first, None, None, apart=share * first)
    moved = {}
    for stepping in ("joint", "class"):
        images = torch.zeros(classes, 3, 4, 4)
        config = resolved(stepping=stepping, image_lr=1e-3)
        optimizer = ImageOptimizer(config, MEAN, STD, torch.zeros(classes).long(), images, classes=classes)
        for iteration in range(100):
            optimizer.step_(images, gradient, optimizer.corrections(iteration))
        moved[stepping] = float(images.norm())
    expected = 2 * classes**0.5 if share else (2 * classes) ** 0.5
    assert moved["class"] / moved["joint"] == pytest.approx(expected, rel=0.15)


def test_the_rate_is_halved_on_a_plateau_as_torch_does():
    losses = [5.0, 4.0, 4.0, 4.1, 3.99999, 4.0, 3.0, 3.0, 3.0, 3.0, 3.5, 3.0, 3.0, 2.0, 2.0]
    images, gradient = draw(4, 3, 5, 6), draw(4, 3, 5, 6, seed=1)
    config = resolved(optimizer="sgd", momentum=0.0, plateau=2)
    optimizer = ImageOptimizer(config, MEAN, STD, DOMAINS, images, classes=2)
    leaf = images.clone().requires_grad_()
    reference = torch.optim.SGD([leaf], lr=0.02)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(reference, factor=0.5, patience=2)
    rates = []
    for iteration, loss in enumerate(losses):
        if iteration == 8:  # what a checkpoint keeps is enough to go on
            kept = {name: part.clone() for name, part in optimizer.state.items()}
            optimizer = ImageOptimizer(config, MEAN, STD, DOMAINS, images, classes=2)
            optimizer.restore(kept)
        gradients = ImageGradients(torch.tensor([loss]), gradient, None, None)
        optimizer.step_(images, gradients, optimizer.corrections(iteration))
        leaf.grad = gradient
        reference.step()
        schedule.step(loss)
        rates.append(optimizer.rate)
        assert optimizer.rate == pytest.approx(reference.param_groups[0]["lr"])
    torch.testing.assert_close(images, leaf.detach())
    assert rates[-1] == pytest.approx(0.02 / 8)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_clamped_images_lie_in_the_pixel_range_whatever_the_gradient(optimizer):
    gradient = draw(4, 3, 5, 6) * 1e6
    images = run(
        resolved(optimizer=optimizer, clamp=True, image_lr=10.0), draw(4, 3, 5, 6), [plain(gradient)]
    )
    pixels = images * STD.view(3, 1, 1) + MEAN.view(3, 1, 1)
    # every pixel has gone as far as it can, against its gradient
    torch.testing.assert_close(pixels, (gradient < 0).float(), rtol=0, atol=1e-6)
