"""3x3 convolutions on the CPU: against the specification in float64, in every size and layout, and what does
not change their bits."""

import itertools
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from convolution_cases import drawn, following
from masking_cases import channels_last_copy
from spectral_cases import assert_as_accurate
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference

# N, C, C', H, W: the ConvNet's, and its first layer; channels that fill no vector, one, and more than a
# panel; sides odd, of one pixel and of one tile; more tiles than are worked on at
# once; many small images; gradients of the weights over many pixels.
SIZES = [
    (3, 3, 32, 32, 32),
    (2, 32, 32, 16, 16),
    (2, 128, 128, 8, 8),
    (5, 13, 21, 7, 9),
    (4, 8, 16, 6, 6),
    (4, 64, 3, 8, 8),
    (3, 1, 1, 1, 1),
    (3, 9, 17, 1, 5),
    (2, 5, 40, 3, 2),
    (2, 7, 70, 5, 5),
    (40, 32, 33, 4, 4),
    (33, 16, 24, 2, 2),
    (2, 10, 9, 37, 30),
    (32, 40, 35, 8, 9),
    (3, 64, 32, 31, 33),
]


def results(function, tensors) -> list[Tensor]:
    """The output and the three gradients."""
    output = function(*tensors)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    return [output, *torch.autograd.grad(output, tensors, grad)]


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, padding=1)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size(size) -> None:
    """As accurate as PyTorch, which has FMA whatever instruction set is chosen here: three roundings."""
    tensors = drawn(*size)
    outcome = results(ops.conv3x3, tensors)
    truth = results(reference.conv3x3, [tensor.detach().double().requires_grad_() for tensor in tensors])
    for result, other, true in zip(outcome, results(plain, tensors), truth, strict=True):
        assert_as_accurate(result, other, true, roundings=3)
    assert outcome[0].movedim(1, -1).is_contiguous()


def test_the_specification_is_what_pytorch_computes() -> None:
    tensors = [tensor.detach().double().requires_grad_() for tensor in drawn(2, 4, 5, 6, 7)]
    for a, b in zip(results(reference.conv3x3, tensors), results(plain, tensors), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(reference.conv3x3(*tensors[:2]), F.conv2d(*tensors[:2], padding=1))


def test_without_bias() -> None:
    x, weight, bias = drawn(2, 8, 9, 5, 6)
    assert torch.equal(ops.conv3x3(x, weight), ops.conv3x3(x, weight, torch.zeros_like(bias)))


@pytest.mark.parametrize("size", [*SIZES, (3, 33, 1, 5, 17)], ids=str)
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_with_what_follows_it_is_the_same_bits(size, pool) -> None:
    """In one operator, and in two where gradients are recorded."""
    if min(size[3:]) < pool:
        pytest.skip("no window of that size")
    tensors = (*drawn(*size), *following(size[2]))
    constant = [tensor.detach() for tensor in tensors]
    expected = ops.norm_relu_pool(ops.conv3x3(*constant[:3]), *constant[3:], 1e-3, pool)
    assert torch.equal(ops.conv3x3_norm_relu_pool(*constant, 1e-3, pool), expected)
    recorded = ops.conv3x3_norm_relu_pool(*tensors, 1e-3, pool)
    assert recorded.requires_grad
    assert torch.equal(recorded, expected)
    with torch.no_grad():
        assert torch.equal(ops.conv3x3_norm_relu_pool(*tensors, 1e-3, pool), expected)


def test_with_what_follows_and_without_bias() -> None:
    x, weight, _ = drawn(2, 8, 9, 6, 6, grads=False)
    expected = ops.norm_relu_pool(ops.conv3x3(x, weight), *following(9))
    assert torch.equal(ops.conv3x3_norm_relu_pool(x, weight, None, *following(9)), expected)
    recorded = ops.conv3x3_norm_relu_pool(x.requires_grad_(), weight, None, *following(9))
    assert recorded.requires_grad
    assert torch.equal(recorded, expected)


@pytest.mark.parametrize("channels", [3, 12])
def test_any_strides(channels) -> None:
    x, weight, bias = drawn(4, channels, 12, 8, 8, grads=False)
    grad = torch.randn(4, 12, 8, 8, generator=torch.Generator().manual_seed(3))
    last = channels_last_copy(torch.cat((x, x), 1))
    views = {
        "planes": x.contiguous(),
        "every second number": torch.stack((x, x + 1), -1)[..., 0],
        "transposed planes": x.transpose(2, 3).contiguous().transpose(2, 3),
        "a part of channels last": last[:, :channels],
        "rows with gaps, channels last": channels_last_copy(torch.cat((x, x), 3))[..., :8],
        "samples backwards in memory": x.movedim(0, 1).contiguous().movedim(1, 0),
    }
    weights = weight.flip(3).contiguous().flip(3)
    wide = torch.stack((bias, bias), 1)[:, 0]
    expected = torch.autograd.grad(
        ops.conv3x3(x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()),
        (x, weight, bias),
        grad,
    )
    for name, view in views.items():
        leaves = [tensor.detach().requires_grad_() for tensor in (view, weights, wide)]
        output = ops.conv3x3(*leaves)
        assert torch.equal(output, ops.conv3x3(x, weight, bias)), name
        for own in (grad, channels_last_copy(grad)):
            outcome = torch.autograd.grad(output, leaves, own, retain_graph=True)
            assert all(torch.equal(a, b) for a, b in zip(outcome, expected, strict=True)), name
        norm = following(12)
        assert torch.equal(
            ops.conv3x3_norm_relu_pool(*(leaf.detach() for leaf in leaves), *norm),
            ops.norm_relu_pool(output, *norm),
        ), name


@pytest.mark.parametrize("channels", [3, 16])
def test_expanded_gradients(channels) -> None:
    x, weight, bias = drawn(2, channels, 5, 4, 6)
    output = ops.conv3x3(x, weight, bias)
    outcome = torch.autograd.grad(
        output, (x, weight, bias), torch.ones(1).expand(output.shape), retain_graph=True
    )
    expected = torch.autograd.grad(output, (x, weight, bias), torch.ones(output.shape))
    assert all(torch.equal(a, b) for a, b in zip(outcome, expected, strict=True))


@pytest.mark.parametrize("channels", [3, 16])
def test_no_images(channels) -> None:
    tensors = drawn(0, channels, 5, 4, 6)
    output, x_grad, weight_grad, bias_grad = results(ops.conv3x3, tensors)
    assert output.shape == (0, 5, 4, 6)
    assert x_grad.shape == (0, channels, 4, 6)
    assert torch.equal(weight_grad, torch.zeros(5, channels, 3, 3))
    assert torch.equal(bias_grad, torch.zeros(5))
    with torch.no_grad():
        assert ops.conv3x3_norm_relu_pool(*tensors, *following(5)).shape == (0, 5, 2, 3)


@pytest.mark.parametrize("size", [(37, 3, 20, 8, 8), (37, 12, 70, 8, 8), (5, 32, 16, 33, 31)], ids=str)
def test_a_bound_on_the_threads_changes_no_bit(size) -> None:
    tensors = drawn(*size)
    norm = following(size[2])
    outcomes = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3, 7):
            torch.set_num_threads(number)
            outcomes.append(results(ops.conv3x3, tensors))
            with torch.no_grad():
                outcomes[-1].append(ops.conv3x3_norm_relu_pool(*tensors, *norm))
    finally:
        torch.set_num_threads(threads)
    for outcome in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcome, outcomes[0], strict=True))


def peak_bytes() -> int:
    """The most memory that this process has had since "5" was written to clear_refs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_gradients_of_weights_take_no_more_memory_for_more_images() -> None:
    """Of large images each is summed by itself, but no more of these sums are kept than threads compute."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the system does not tell how much memory was in use at most")
    taken = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for images in (3, 16):
            x, grad = (torch.rand(images, 384, 46, 45).to(memory_format=torch.channels_last) for _ in "12")
            Path("/proc/self/clear_refs").write_text("5")
            before = peak_bytes()
            torch.ops.dgdd.conv3x3_weight_grad(x, grad)
            taken.append(peak_bytes() - before)
    finally:
        torch.set_num_threads(threads)
    weights = 4 * 384 * 384 * 9
    assert taken[1] < taken[0] + 4 * weights


@pytest.mark.parametrize("size", [(11, 3, 20, 6, 5), (11, 20, 3, 6, 5), (11, 33, 18, 8, 8)], ids=str)
def test_samples_are_alone(size) -> None:
    """However a batch is cut, an image's results and its gradient are the same bits."""
    x, weight, bias = drawn(*size)
    output, x_grad, _, _ = results(ops.conv3x3, (x, weight, bias))
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    norm = following(size[2])
    with torch.no_grad():
        pooled = ops.conv3x3_norm_relu_pool(x, weight, bias, *norm)
    for first, end in itertools.pairwise((0, 1, 2, 5, 11)):
        own = x[first:end].detach().requires_grad_()
        alone = ops.conv3x3(own, weight, bias)
        assert torch.equal(alone, output[first:end])
        (own_grad,) = torch.autograd.grad(alone, own, grad[first:end])
        assert torch.equal(own_grad, x_grad[first:end])
        with torch.no_grad():
            assert torch.equal(ops.conv3x3_norm_relu_pool(own, weight, bias, *norm), pooled[first:end])


def test_repeated_calls_give_the_same_bits() -> None:
    for channels in (3, 40):
        tensors = drawn(30, channels, 24, 16, 16)
        first, second = (results(ops.conv3x3, tensors) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=str)
@pytest.mark.parametrize(("channels", "reach"), [(3, 1), (16, 2), (40, 4)])
def test_what_is_not_finite_stays_near(channels, reach, bad) -> None:
    """In its image, and there in its tile; where it counts, it is seen."""
    x, weight, bias = drawn(3, channels, 10, 16, 16, grads=False)
    before = ops.conv3x3(x, weight, bias)
    x[1, 2, 7, 8] = bad
    after = ops.conv3x3(x, weight, bias)
    far = torch.ones(16, 16, dtype=torch.bool)
    far[7 - reach : 8 + reach, 8 - reach : 9 + reach] = False
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert torch.equal(after[1][:, far], before[1][:, far])
    assert not after[1, :, 6:9, 7:10].isfinite().any()
