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
    optimizer = ImageOptimizer(config, MEAN, STD, DOMAINS, images)
    for iteration, gradient in enumerate(gradients):
        optimizer.step_(images, gradient, iteration)
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
def test_clamped_images_lie_in_the_pixel_range_whatever_the_gradient(optimizer):
    gradient = draw(4, 3, 5, 6) * 1e6
    images = run(
        resolved(optimizer=optimizer, clamp=True, image_lr=10.0), draw(4, 3, 5, 6), [plain(gradient)]
    )
    pixels = images * STD.view(3, 1, 1) + MEAN.view(3, 1, 1)
    # every pixel has gone as far as it can, against its gradient
    torch.testing.assert_close(pixels, (gradient < 0).float(), rtol=0, atol=1e-6)
