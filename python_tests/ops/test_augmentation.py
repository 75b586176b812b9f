"""The augmentation of a batch against its specification: values, gradients, and what cannot be right."""

import dataclasses

import pytest
import torch
from augmentation_cases import DTYPES, Augmentation
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import AUGMENTATIONS, reference

# Odd, rectangular, one row, one pixel; one channel and more than are computed at once.
SHAPES = [(3, 9, 8), (3, 32, 32), (1, 7, 20), (9, 12, 5), (2, 1, 6), (3, 1, 1), (4, 40, 70)]

# Of float64, in which the reference is the truth itself, and of the float32 that the others are computed in,
# where its result may be exact by luck.
ROUNDING = {torch.float64: 1e-14, torch.float32: 2**-25, torch.bfloat16: 2**-25, torch.float16: 2**-25}


def error(result: Tensor, truth: Tensor) -> float:
    return ((result.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-30)).item()


def with_gradient(function, case: Augmentation, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The batch, and the gradient of the images."""
    images = case.images.detach().clone().requires_grad_()
    batch = function(*dataclasses.replace(case, images=images).arguments())
    (gradient,) = torch.autograd.grad(batch, images, upstream.to(batch.dtype))
    return batch.detach(), gradient


def upstream_of(case: Augmentation) -> Tensor:
    shape = (len(case.operation), *case.images.shape[1:])
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return numbers.to(case.images.dtype).to(case.images.device)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_uint8_images_become_a_normalised_batch(
    dtype: torch.dtype, shape: tuple[int, int, int], device: torch.device
) -> None:
    case = Augmentation.drawn(shape, dtype=torch.uint8, result=dtype, device=device)
    result = ops.sample_augment(*case.arguments())
    truth = reference.sample_augment(*case.in_float64().arguments())
    assert result.dtype == dtype
    assert result.is_contiguous()
    plain = reference.sample_augment(*case.arguments())
    assert error(result, truth) <= 2 * error(plain, truth) + ROUNDING[dtype]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [True, False])
def test_floating_images_and_their_gradient(
    rows: bool, dtype: torch.dtype, shape: tuple[int, int, int], device: torch.device
) -> None:
    case = Augmentation.drawn(shape, 5 if rows else 14, 21 if rows else None, dtype=dtype, device=device)
    upstream = upstream_of(case)
    results = with_gradient(ops.sample_augment, case, upstream)
    truths = with_gradient(reference.sample_augment, case.in_float64(), upstream)
    references = with_gradient(reference.sample_augment, case, upstream)
    for result, truth, plain in zip(results, truths, references, strict=True):
        assert result.dtype == dtype
        assert error(result, truth) <= 2 * error(plain, truth) + ROUNDING[dtype]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_operation_alone(name: str, device: torch.device) -> None:
    for seed in range(3):
        case = Augmentation.drawn(
            (3, 11, 16), dtype=torch.float64, operations=(name,), device=device, seed=seed
        )
        upstream = upstream_of(case)
        pairs = zip(
            with_gradient(ops.sample_augment, case, upstream),
            with_gradient(reference.sample_augment, case, upstream),
            strict=True,
        )
        assert all(error(result, truth) < 1e-14 for result, truth in pairs)


@pytest.mark.parametrize("name", ["scale", "rotate"])
def test_any_share_and_angle(name: str, device: torch.device) -> None:
    """The gradient is the transpose of what is sampled, however many outputs sample one pixel."""
    places = [0.0, -1.0, 0.01, 0.5, 3.0, 40.0] if name == "scale" else [0.0, 0.7854, 1.5708, 3.0, -50.0, 6.5]
    case = Augmentation.drawn((2, 6, 7), 6, None, torch.float64, operations=(name,), device=device)
    case.parameters = torch.tensor([[a, b, 0] for a, b in zip(places, reversed(places), strict=True)]).to(
        device
    )
    upstream = upstream_of(case)
    pairs = zip(
        with_gradient(ops.sample_augment, case, upstream),
        with_gradient(reference.sample_augment, case, upstream),
        strict=True,
    )
    for result, truth in pairs:
        # In float32 parameters; the reference's coordinates of far samples are the less exact ones.
        torch.testing.assert_close(result, truth, rtol=1e-10, atol=1e-10)


def test_parameters_in_float32(device: torch.device) -> None:
    case = Augmentation.drawn(device=device)
    rounded = dataclasses.replace(case, parameters=case.parameters.float())
    assert torch.equal(ops.sample_augment(*rounded.arguments()), ops.sample_augment(*case.arguments()))


def test_one_number_stands_for_both_sides(device: torch.device) -> None:
    case = Augmentation.drawn(device=device)
    one, two = (dataclasses.replace(case, crop=5, cutout=side) for side in (4, (4, 4)))
    assert torch.equal(ops.sample_augment(*one.arguments()), ops.sample_augment(*two.arguments()))
    direct = torch.ops.dgdd.sample_augment.default(*one.arguments())
    assert torch.equal(direct, ops.sample_augment(*two.arguments()))


def test_any_strides(device: torch.device) -> None:
    for dtype in (torch.uint8, torch.float32):
        case = Augmentation.drawn(dtype=dtype, device=device)
        expected = ops.sample_augment(*case.arguments())
        strided = dataclasses.replace(
            case,
            images=case.images.contiguous(memory_format=torch.channels_last),
            rows=torch.stack([case.rows, case.rows], 1)[:, 0],
            parameters=case.parameters.T.contiguous().T,
        )
        assert torch.equal(ops.sample_augment(*strided.arguments()), expected)
    case.images.requires_grad_()
    wide = ops.sample_augment(*case.arguments())
    (expected,) = torch.autograd.grad(wide, case.images, torch.ones_like(wide), retain_graph=True)
    (gradient,) = torch.autograd.grad(wide, case.images, torch.ones_like(wide[:1]).expand_as(wide))
    assert torch.equal(gradient, expected)


def test_nothing_to_do(device: torch.device) -> None:
    case = Augmentation.drawn(batch=0, device=device)
    case.images.requires_grad_()
    batch = ops.sample_augment(*case.arguments())
    assert batch.shape == (0, 3, 9, 8)
    (gradient,) = torch.autograd.grad(batch.sum(), case.images)
    assert gradient.eq(0).all()
    nothing = Augmentation.drawn(images=0, batch=None, device=device)
    assert ops.sample_augment(*nothing.arguments()).shape == (0, 3, 9, 8)


def test_images_without_a_row_have_no_gradient_and_repeated_ones_add_up(device: torch.device) -> None:
    case = Augmentation.drawn(images=4, batch=3, operations=("none",), device=device)
    case.rows = torch.tensor([2, 0, 2], device=device)
    upstream = upstream_of(case)
    _, gradient = with_gradient(ops.sample_augment, case, upstream)
    assert torch.equal(gradient[0], upstream[1])
    assert torch.equal(gradient[2], upstream[0] + upstream[2])
    assert gradient[[1, 3]].eq(0).all()


def test_the_same_bits_every_time_and_with_any_number_of_threads(device: torch.device) -> None:
    case = Augmentation.drawn((3, 32, 32), 40, 300, device=device)
    upstream = upstream_of(case)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            runs.append(with_gradient(ops.sample_augment, case, upstream))
    finally:
        torch.set_num_threads(threads)
    for batch, gradient in runs[1:]:
        assert torch.equal(batch, runs[0][0])
        assert torch.equal(gradient, runs[0][1])


def test_devices_agree(device: torch.device) -> None:
    case, there = (Augmentation.drawn((3, 32, 32), device=where) for where in ("cpu", device))
    upstream = upstream_of(case)
    for result, expected in zip(
        with_gradient(ops.sample_augment, there, upstream.to(device)),
        with_gradient(ops.sample_augment, case, upstream),
        strict=True,
    ):
        torch.testing.assert_close(result.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_infinite_and_missing_values_stay_where_they_are(device: torch.device) -> None:
    """An image's bad pixels reach that image's row of the batch, and no other."""
    case = Augmentation.drawn(images=7, batch=None, device=device)
    case.images[:, 0, 2, 2] = torch.nan
    bad = ops.sample_augment(*case.arguments())
    assert bad[0].isnan().sum() == 1
    assert bad[1].isnan().all()  # the contrast is about the image's mean
    case.images[2:, 0, 2, 2] = 0
    assert ops.sample_augment(*case.arguments())[2:].isfinite().all()


def test_a_row_that_cannot_be_is_not_a_number_on_cuda(cuda: torch.device) -> None:
    case = Augmentation.drawn(images=7, batch=7, device=cuda)
    case.rows = torch.tensor([0, 1, -1, 7, 4, 5, 6], device=cuda)
    case.operation[4], case.operation[5], case.parameters[6, 0] = 7, -1, torch.nan
    batch = ops.sample_augment(*case.arguments())
    assert batch[:2].isfinite().all()
    assert batch[2:].isnan().all()
