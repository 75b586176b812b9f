"""Mosaics and their tiles."""

import pytest
import torch
import torch.nn.functional as F

from dgdd_fast.synthetic.mosaics import decode, mosaic, reduce, tiles


def random_images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_mosaic_is_cut_into_its_tiles_and_put_together_again(factor):
    images = random_images(5, 3, 12, 6)
    cut = tiles(images, factor)
    assert cut.shape == (5 * factor**2, 3, 12 // factor, 6 // factor)
    assert torch.equal(mosaic(cut, factor), images)


def test_tiles_come_image_after_image_row_after_row():
    images = random_images(4, 3, 8, 6)
    cut = tiles(images, 2)
    for index in range(4):
        for row in range(2):
            for column in range(2):
                expected = images[index, :, row * 4 : row * 4 + 4, column * 3 : column * 3 + 3]
                assert torch.equal(cut[(index * 2 + row) * 2 + column], expected)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_decoding_is_bilinear_and_so_is_its_gradient(factor, device):
    small = random_images(3, 3, 5, 4).to(device).requires_grad_()
    decoded = decode(small, factor)
    expected = F.interpolate(small, scale_factor=float(factor), mode="bilinear", align_corners=False)
    torch.testing.assert_close(decoded, expected)
    weight = random_images(*decoded.shape).to(device)
    gradients = [torch.autograd.grad((out * weight).sum(), small)[0] for out in (decoded, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_reducing_takes_the_nearest_pixels(factor):
    images = random_images(2, 3, 6, 12)
    expected = F.interpolate(images, size=(6 // factor, 12 // factor), mode="nearest")
    assert torch.equal(reduce(images, factor), expected)
    constant = torch.full((1, 3, 6, 6), 0.7)
    torch.testing.assert_close(decode(reduce(constant, 3), 3), constant)


def test_sides_that_do_not_divide_are_refused():
    for call in (tiles, reduce):
        with pytest.raises(ValueError, match=r"9 x 8 px cannot be cut into 2 x 2 equal tiles; choose a fac"):
            call(torch.zeros(1, 3, 9, 8), 2)
        with pytest.raises(ValueError, match="factor must be at least 1, got 0"):
            call(torch.zeros(1, 3, 8, 8), 0)
    with pytest.raises(ValueError, match="6 tiles do not make whole mosaics of 2 x 2"):
        mosaic(torch.zeros(6, 3, 4, 4), 2)
