"""Normalisation, ReLU and pooling in one: against the specification in float64, in every dtype, layout and
size, and as a citizen of PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from masking_cases import DTYPES, channels_last_copy
from norm_relu_pool_cases import LAYOUTS, drawn
from spectral_cases import assert_as_accurate
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference

# [N, C, H, W] and pool: the ConvNet's; odd sides and channels; planes of one window, of one pixel; planes and
# rows longer than what a thread works on at once; a window as large as the plane.
SIZES = [
    ((2, 64, 32, 32), 2),
    ((3, 128, 8, 8), 2),
    ((3, 21, 16, 16), 2),
    ((7, 13, 7, 9), 2),
    ((5, 33, 11, 6), 3),
    ((3, 80, 5, 4), 1),
    ((40, 5, 2, 3), 2),
    ((9, 17, 1, 1), 1),
    ((2, 5, 70, 65), 2),
    ((1, 3, 2, 2500), 1),
    ((6, 11, 6, 5), 5),
]


def upstream(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)


def results(function, tensors, eps: float, pool: int) -> list[Tensor]:
    """The output and the three gradients."""
    pooled = function(*tensors, eps, pool)
    grad = upstream(pooled.shape, tensors[0].dtype, tensors[0].device).to(pooled.dtype)
    return [pooled, *torch.autograd.grad(pooled, tensors, grad)]


def check(tensors: tuple[Tensor, Tensor, Tensor], eps: float = 1e-5, pool: int = 2) -> list[Tensor]:
    """The output and the gradients are as accurate as PyTorch in the same dtype."""
    outcome = results(ops.norm_relu_pool, tensors, eps, pool)
    truth = results(
        reference.norm_relu_pool, [t.detach().double().requires_grad_() for t in tensors], eps, pool
    )
    for result, plain, true in zip(
        outcome, results(reference.norm_relu_pool, tensors, eps, pool), truth, strict=True
    ):
        # Three roundings of a sum over thousands of pixels, where PyTorch's own may be exact by luck.
        assert_as_accurate(result, plain, true, roundings=2 if result.dim() == 4 else 3)
    return outcome


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "pool"), SIZES, ids=str)
def test_every_size_and_dtype(shape, pool, dtype, channels_last, device) -> None:
    tensors = drawn(shape, dtype, device, channels_last)
    pooled, x_grad, _, _ = check(tensors, pool=pool)
    assert pooled.shape == (*shape[:2], shape[2] // pool, shape[3] // pool)
    if channels_last:
        assert pooled.movedim(1, -1).is_contiguous()
        assert x_grad.movedim(1, -1).is_contiguous()
    else:
        assert pooled.is_contiguous()
        assert x_grad.is_contiguous()


def test_it_is_what_pytorch_computes(device) -> None:
    tensors = drawn((4, 6, 9, 8), device=device)

    def composed(x, weight, bias, eps, pool):
        return F.avg_pool2d(F.relu(F.group_norm(x, 6, weight, bias, eps)), pool)

    expected = results(composed, tensors, 1e-3, 2)
    for function in (ops.norm_relu_pool, reference.norm_relu_pool):
        for a, b in zip(results(function, tensors, 1e-3, 2), expected, strict=True):
            torch.testing.assert_close(a, b)


@LAYOUTS
def test_a_mean_far_from_zero_costs_no_variance(channels_last, device) -> None:
    """A float32 mean of 1e4 is right to 1e-3. The difference of two mean squares would have the variance of 4
    wrong by some hundred."""
    x, weight, bias = (t.detach() for t in drawn((3, 8, 40, 30), torch.float32, device, channels_last))
    x += 1e4
    truth = reference.norm_relu_pool(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(ops.norm_relu_pool(x, weight, bias).double(), truth, rtol=1e-3, atol=1e-3)


@LAYOUTS
def test_constant_planes_and_one_far_number(channels_last, device) -> None:
    x, weight, bias = drawn((2, 4, 24, 24), torch.float32, device, channels_last)
    with torch.no_grad():
        x[0, 1] = 3.0
        x[0, 2] = 0.0
        x[1, 3, 0, 0] = 1e6
    pooled, x_grad, _, _ = results(ops.norm_relu_pool, (x, weight, bias), 1e-5, 2)
    assert torch.equal(pooled[0, 1], bias[1].relu().expand(12, 12))
    assert torch.equal(pooled[0, 2], bias[2].relu().expand(12, 12))
    assert x_grad.isfinite().all()
    check((x[1:].detach().clone().requires_grad_(), weight, bias))


@LAYOUTS
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_is_not_finite_stays_in_its_plane(dtype, bad, channels_last, device) -> None:
    tensors = drawn((3, 37, 9, 8), dtype, device, channels_last)
    expected = results(ops.norm_relu_pool, tensors, 1e-5, 2)
    with torch.no_grad():
        tensors[0][1, 5, 8, 7] = bad  # in no window: it counts in the statistics
        tensors[0][2, 36, 0, 0] = bad
    outcome = results(ops.norm_relu_pool, tensors, 1e-5, 2)
    hit = torch.zeros(3, 37, dtype=torch.bool, device=device)
    hit[1, 5] = hit[2, 36] = True
    for result, before in zip(outcome[:2], expected[:2], strict=True):
        assert result[hit].isnan().all()
        assert torch.equal(result[~hit], before[~hit])
    for result, before in zip(outcome[2:], expected[2:], strict=True):
        others = torch.tensor([channel for channel in range(37) if channel not in (5, 36)], device=device)
        assert torch.equal(result[others], before[others])
    assert outcome[2][[5, 36]].isnan().all()


def test_any_strides(device) -> None:
    x, weight, bias = (tensor.detach() for tensor in drawn((4, 12, 16, 16), torch.float32, device))
    wide = torch.stack((x, x + 1), -1)
    last = channels_last_copy(torch.cat((x, x), 1))
    views = {
        "every second number": wide[..., 0],
        "every second channel": torch.stack((x, x), 2).flatten(1, 2)[:, ::2],
        "transposed planes": x.transpose(2, 3).contiguous().transpose(2, 3),
        "some of more channels, channels last": last[:, 4:16].roll(-8, 1),
        "a part of channels last": last[:, :12],
        "rows with gaps": torch.cat((x, x), 3)[..., :16],
        "rows with gaps, channels last": channels_last_copy(torch.cat((x, x), 3))[..., :16],
        "samples backwards in memory": x.movedim(0, 1).contiguous().movedim(1, 0),
    }
    views["some of more channels, channels last"] = last[:, 4:16]
    x_of = {"some of more channels, channels last": torch.cat((x[:, 4:], x[:, :4]), 1)}
    for name, view in views.items():
        plain = x_of.get(name, x)
        expected = results(
            ops.norm_relu_pool, [t.clone().requires_grad_() for t in (plain, weight, bias)], 1e-5, 2
        )
        leaf = view.detach().requires_grad_()
        outcome = results(ops.norm_relu_pool, (leaf, weight.requires_grad_(), bias.requires_grad_()), 1e-5, 2)
        for a, b in zip(outcome, expected, strict=True):
            torch.testing.assert_close(a, b, msg=name)
        weight, bias = weight.detach(), bias.detach()


@LAYOUTS
def test_upstream_gradients_in_any_strides(channels_last, device) -> None:
    x, weight, bias = drawn((3, 5, 8, 6), torch.float32, device, channels_last)
    for grad in (
        torch.ones(1, device=device).expand(3, 5, 4, 3),
        torch.randn(3, 5, 3, 4, device=device).transpose(2, 3),
        channels_last_copy(torch.randn(3, 5, 4, 3, device=device)),
    ):
        pooled = ops.norm_relu_pool(x, weight, bias)
        outcome = torch.autograd.grad(pooled, (x, weight, bias), grad, retain_graph=True)
        expected = torch.autograd.grad(
            pooled, (x, weight, bias), grad.clone(memory_format=torch.contiguous_format)
        )
        for a, b in zip(outcome, expected, strict=True):
            assert torch.equal(a, b)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_parameters_beside_half_features(dtype, channels_last, device) -> None:
    x, weight, bias = drawn((3, 19, 8, 8), dtype, device, channels_last)
    wide = (x, *(tensor.detach().float().requires_grad_() for tensor in (weight, bias)))
    outcome = check(wide)
    assert [result.dtype for result in outcome] == [dtype, dtype, torch.float32, torch.float32]
    narrow = results(ops.norm_relu_pool, (x, weight, bias), 1e-5, 2)
    assert torch.equal(outcome[0], narrow[0])
    assert torch.equal(outcome[2].to(dtype), narrow[2])


@LAYOUTS
@pytest.mark.parametrize("shape", [(0, 4, 8, 8), (3, 0, 8, 8), (0, 0, 2, 2)], ids=str)
def test_nothing_to_do(shape, channels_last, device) -> None:
    pooled, x_grad, weight_grad, bias_grad = results(
        ops.norm_relu_pool, drawn(shape, torch.float32, device, channels_last), 1e-5, 2
    )
    assert pooled.shape == (*shape[:2], shape[2] // 2, shape[3] // 2)
    assert x_grad.shape == shape
    for grad in (weight_grad, bias_grad):
        assert torch.equal(grad, torch.zeros(shape[1], device=device))


@LAYOUTS
def test_a_bound_on_the_threads_changes_no_bit(channels_last) -> None:
    """Samples are shared out otherwise, and other planes are worked on together."""
    for shape in ((37, 70, 8, 8), (5, 66, 33, 32)):
        outcomes = []
        threads = torch.get_num_threads()
        try:
            for number in (1, 2, 3, 7):
                torch.set_num_threads(number)
                outcomes.append(
                    results(ops.norm_relu_pool, drawn(shape, torch.float32, "cpu", channels_last), 1e-5, 2)
                )
        finally:
            torch.set_num_threads(threads)
        for outcome in outcomes[1:]:
            assert all(torch.equal(a, b) for a, b in zip(outcome, outcomes[0], strict=True))


@LAYOUTS
def test_samples_are_alone(channels_last, device) -> None:
    x, weight, bias = drawn((7, 20, 12, 12), torch.float32, device, channels_last)
    pooled, x_grad, _, _ = results(ops.norm_relu_pool, (x, weight, bias), 1e-5, 2)
    grad = upstream(pooled.shape, torch.float32, x.device)
    for sample in range(7):
        own = x[sample : sample + 1].detach().requires_grad_()
        alone = ops.norm_relu_pool(own, weight, bias)
        assert torch.equal(alone[0], pooled[sample])
        (own_grad,) = torch.autograd.grad(alone, own, grad[sample : sample + 1])
        assert torch.equal(own_grad[0], x_grad[sample])


def test_repeated_calls_give_the_same_bits(device) -> None:
    for channels_last in (False, True):
        tensors = drawn((30, 40, 16, 16), torch.float32, device, channels_last)
        first, second = (results(ops.norm_relu_pool, tensors, 1e-5, 2) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
