"""`conv3x3` in PyTorch: derivatives, tracing, compiling, errors."""

import re

import pytest
import torch
from convolution_cases import drawn, following
from spectral_cases import assert_as_accurate
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference


@pytest.mark.parametrize("channels", [3, 9])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (0, 1, 2)], ids=str)
def test_only_the_gradients_that_are_asked_for(wanted, channels) -> None:
    tensors = drawn(2, channels, 5, 4, 6)
    everything = torch.autograd.grad(ops.conv3x3(*tensors).square().sum(), tensors)
    some = [tensor.detach().requires_grad_(number in wanted) for number, tensor in enumerate(tensors)]
    asked = [some[number] for number in wanted]
    outcome = torch.autograd.grad(ops.conv3x3(*some).square().sum(), asked)
    for number, grad in zip(wanted, outcome, strict=True):
        assert torch.equal(grad, everything[number])


@pytest.mark.parametrize("channels", [3, 9])
def test_derivatives_of_the_gradients(channels) -> None:
    """As gradient matching needs them, in all three arguments and once more."""

    def outcome(function, tensors) -> list[Tensor]:
        output = function(*tensors)
        first = torch.autograd.grad(output.pow(3).sum(), tensors, create_graph=True)
        second = torch.autograd.grad(sum(grad.square().sum() for grad in first), tensors, create_graph=True)
        third = torch.autograd.grad(sum(grad.sum() for grad in second), tensors)
        return [*first, *second, *third]

    tensors = drawn(2, channels, 4, 5, 6)
    truth = outcome(reference.conv3x3, [tensor.detach().double().requires_grad_() for tensor in tensors])
    plain = outcome(reference.conv3x3, tensors)
    for result, other, true in zip(outcome(ops.conv3x3, tensors), plain, truth, strict=True):
        assert_as_accurate(result, other, true, roundings=4)


def test_the_operator_in_one_is_not_differentiable() -> None:
    tensors = (*drawn(2, 9, 5, 4, 6), *following(5))
    pooled = torch.ops.dgdd.conv3x3_norm_relu_pool.default(*tensors)
    with pytest.raises(RuntimeError, match=r"not differentiable.*takes two operators"):
        pooled.sum().backward()


def opcheck_cases() -> list[tuple[str, tuple[object, ...]]]:
    cases: list[tuple[str, tuple[object, ...]]] = []
    for size in ((3, 3, 5, 8, 6), (2, 9, 4, 5, 3), (0, 8, 4, 5, 3)):
        tensors = drawn(*size)
        x, weight, bias = (tensor.detach() for tensor in tensors)
        grad = torch.ones_like(ops.conv3x3(x, weight, bias)).requires_grad_()
        cases += [
            ("conv3x3", tensors),
            ("conv3x3", (x.contiguous(), weight, None)),
            ("conv3x3_weight_grad", (grad, tensors[0])),
            ("conv3x3_norm_relu_pool", (x, weight, bias, *following(size[2]), 1e-5, 2)),
        ]
    return cases


@pytest.mark.parametrize("number", range(12))
def test_opcheck(number) -> None:
    name, arguments = opcheck_cases()[number]
    torch.library.opcheck(getattr(torch.ops.dgdd, name).default, arguments)


def test_compile_without_graph_breaks() -> None:
    """Whole graphs with symbolic sizes, forward and backward; aot_eager traces like inductor."""

    def function(*tensors: Tensor) -> Tensor:
        return ops.conv3x3_norm_relu_pool(*tensors).square()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for samples, size in ((2, 8), (5, 6)):
        tensors = (*drawn(samples, 9, 6, size, 9), *following(6))
        outcomes = []
        for call in (function, compiled):
            pooled = call(*tensors)
            outcomes.append([pooled, *torch.autograd.grad(pooled.sum(), tensors[:3])])
            with torch.no_grad():
                outcomes[-1].append(call(*tensors))
        for a, b in zip(*outcomes, strict=True):
            torch.testing.assert_close(a, b)


def test_results_in_inference_mode() -> None:
    tensors = (*drawn(2, 9, 6, 6, 6, grads=False), *following(6))
    expected = ops.conv3x3_norm_relu_pool(*tensors)
    with torch.inference_mode():
        assert torch.equal(ops.conv3x3_norm_relu_pool(*tensors), expected)


X, WEIGHT, ROW = torch.zeros(2, 5, 6, 7), torch.zeros(4, 5, 3, 3), torch.zeros(4)

ERRORS = [
    ({"x": X.double()}, "x must be float32, got float64"),
    ({"x": X[0]}, "x must be [N, C, H, W], got [5, 6, 7]"),
    ({"x": X[..., :0]}, "x must be [N, C, H, W] with at least one channel and pixel, got [2, 5, 6, 0]"),
    ({"x": X[:, :0]}, "x must be [N, C, H, W] with at least one channel and pixel, got [2, 0, 6, 7]"),
    ({"weight": WEIGHT.double()}, "weight must be float32 like x, got float64"),
    ({"weight": WEIGHT[:0]}, "weight must be [C', C, 3, 3] with C' at least 1, got [0, 5, 3, 3]"),
    ({"weight": WEIGHT[..., 0]}, "weight must be [C', C, 3, 3] with C' at least 1, got [4, 5, 3]"),
    ({"weight": WEIGHT[:, :4]}, "weight must be [C', C, 3, 3] = [4, 5, 3, 3], got [4, 4, 3, 3]"),
    ({"weight": WEIGHT[..., :2]}, "weight must be [C', C, 3, 3] = [4, 5, 3, 3], got [4, 5, 3, 2]"),
    ({"bias": ROW.double()}, "bias must be float32 like x, got float64"),
    ({"bias": ROW[:3]}, "bias must be [C'] = [4], got [3]"),
]
ERRORS_OF_WHAT_FOLLOWS = [
    ({"norm_weight": ROW[:3]}, "weight must be [C'] = [4], got [3]"),
    ({"norm_bias": ROW.double()}, "bias must be float32 like x, got float64"),
    ({"eps": -1.0}, "eps must be finite and at least 0, got -1"),
    ({"pool": 0}, "pool must be at least 1, got 0"),
    ({"pool": 7}, "x must be [N, C, H, W] with H and W at least pool = 7, got [2, 5, 6, 7]"),
]


@pytest.mark.parametrize(("changed", "message"), ERRORS, ids=lambda value: str(value)[:50])
def test_errors(changed, message) -> None:
    arguments = {"x": X, "weight": WEIGHT, "bias": ROW, **changed}
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::conv3x3: {message}")):
        ops.conv3x3(**arguments)
    message = re.sub("^(weight|bias)", r"conv_\1", message)
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::conv3x3_norm_relu_pool: {message}")):
        ops.conv3x3_norm_relu_pool(*arguments.values(), ROW, ROW)


@pytest.mark.parametrize(("changed", "message"), ERRORS_OF_WHAT_FOLLOWS, ids=lambda value: str(value)[:50])
def test_errors_of_what_follows(changed, message) -> None:
    arguments = {"norm_weight": ROW, "norm_bias": ROW, "eps": 1e-5, "pool": 2, **changed}
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::conv3x3_norm_relu_pool: {message}")):
        ops.conv3x3_norm_relu_pool(X, WEIGHT, ROW, *arguments.values())


@pytest.mark.parametrize(
    ("grad", "message"),
    [
        (torch.zeros(2, 4, 6, 7).double(), "grad must be float32, got float64"),
        (torch.zeros(2, 4, 6, 6), "grad must be [N, C', H, W] = [2, 4, 6, 7], got [2, 4, 6, 6]"),
        (torch.zeros(2, 4, 6), "grad must be [N, C', H, W], got [2, 4, 6]"),
    ],
    ids=str,
)
def test_errors_of_the_upstream_gradient(grad, message) -> None:
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::conv3x3_weight_grad: {message}")):
        torch.ops.dgdd.conv3x3_weight_grad.default(grad, X)


@pytest.mark.parametrize("changed", [case[0] for case in ERRORS], ids=lambda value: str(value)[:50])
def test_tracing_refuses_what_running_refuses(changed) -> None:
    arguments = {"x": X, "weight": WEIGHT, "bias": ROW, **changed}
    meta = [tensor.to("meta") for tensor in arguments.values()]
    with pytest.raises(RuntimeError, match="must be"):
        ops.conv3x3(*meta)
    with pytest.raises(RuntimeError, match="must be"):
        ops.conv3x3_norm_relu_pool(*meta, ROW.to("meta"), ROW.to("meta"))


@pytest.mark.needs_gpu
def test_cuda_is_told_what_to_take(cuda) -> None:
    with pytest.raises(RuntimeError, match=r"x must be on the CPU \(elsewhere F.conv2d"):
        ops.conv3x3(X.to(cuda), WEIGHT.to(cuda), ROW.to(cuda))
