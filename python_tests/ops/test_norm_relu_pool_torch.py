"""`norm_relu_pool` in PyTorch: gradients, tracing, compiling, errors."""

import re

import pytest
import torch
from norm_relu_pool_cases import LAYOUTS, drawn
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference


@LAYOUTS
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_gradients_numerically(pool, channels_last, device) -> None:
    x, weight, bias = drawn((2, 3, 7, 6), device=device, channels_last=channels_last)
    assert torch.autograd.gradcheck(
        lambda *tensors: ops.norm_relu_pool(*tensors, 1e-5, pool), (x, weight, bias)
    )


def test_a_second_derivative_says_how_to_have_one(device) -> None:
    x, weight, bias = drawn((2, 3, 6, 6), torch.float32, device)
    pooled = ops.norm_relu_pool(x, weight, bias)
    (grad,) = torch.autograd.grad(pooled.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiable once.*ops\.reference\.norm_relu_pool"):
        grad.square().sum().backward()
    pooled = reference.norm_relu_pool(x, weight, bias)
    (grad,) = torch.autograd.grad(pooled.square().sum(), x, create_graph=True)
    grad.square().sum().backward()


def opcheck_cases(device: torch.device) -> list[tuple[str, tuple[object, ...]]]:
    plain = drawn((3, 5, 8, 6), torch.float32, device)
    last = drawn((3, 5, 8, 6), torch.bfloat16, device, channels_last=True)
    half = (last[0].detach(), *(tensor.detach().float() for tensor in plain[1:]))
    empty = drawn((0, 5, 8, 6), torch.float32, device)
    cases: list[tuple[str, tuple[object, ...]]] = []
    for tensors in (plain, last, half, empty):
        cases.append(("norm_relu_pool", (*tensors, 1e-5, 2)))
        constant = tuple(tensor.detach() for tensor in tensors)
        grad = torch.ones_like(ops.norm_relu_pool(*constant))
        cases.append(("norm_relu_pool_backward", (grad, *constant, 1e-5, 2)))
    return cases


@pytest.mark.needs_gpu
@pytest.mark.parametrize("number", range(8))
def test_opcheck(number, device) -> None:
    name, arguments = opcheck_cases(device)[number]
    torch.library.opcheck(getattr(torch.ops.dgdd, name).default, arguments)


@pytest.mark.needs_gpu
def test_compile_without_graph_breaks(device) -> None:
    """Whole graphs with symbolic sizes, forward and backward; aot_eager traces like inductor."""

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.norm_relu_pool(2 * x, weight, bias, 1e-5, 2).square()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for samples, size in ((2, 8), (5, 6)):
        for channels_last in (False, True):
            tensors = drawn((samples, 6, size, 9), torch.float32, device, channels_last)
            outcomes = []
            for call in (function, compiled):
                pooled = call(*tensors)
                outcomes.append([pooled, *torch.autograd.grad(pooled.sum(), tensors)])
            for a, b in zip(*outcomes, strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.needs_gpu
@pytest.mark.slow
def test_compile_with_inductor(device) -> None:
    tensors = drawn((3, 8, 9, 8), torch.float32, device)
    compiled = torch.compile(ops.norm_relu_pool, fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), ops.norm_relu_pool(*tensors))


def test_results_in_inference_mode(device) -> None:
    x, weight, bias = (tensor.detach() for tensor in drawn((2, 3, 6, 6), torch.float32, device))
    expected = ops.norm_relu_pool(x, weight, bias)
    with torch.inference_mode():
        assert torch.equal(ops.norm_relu_pool(x, weight, bias), expected)


X, ROW = torch.zeros(4, 5, 6, 7), torch.zeros(5)


ERRORS = [
    ({"x": X.long()}, "x must be float32, float64, bfloat16 or float16, got int64"),
    ({"x": X[0]}, "x must be [N, C, H, W], got [5, 6, 7]"),
    ({"weight": ROW.double()}, "weight must be float32 like x, got float64"),
    ({"x": X.half(), "bias": ROW.bfloat16()}, "bias must be float16 like x, or float32, got bfloat16"),
    ({"weight": ROW[:4]}, "weight must be [C] = [5], got [4]"),
    ({"bias": X}, "bias must be [C] = [5], got [4, 5, 6, 7]"),
    ({"eps": -1.0}, "eps must be finite and at least 0, got -1"),
    ({"eps": float("nan")}, "eps must be finite and at least 0, got nan"),
    ({"pool": 0}, "pool must be at least 1, got 0"),
    ({"pool": 7}, "x must be [N, C, H, W] with H and W at least pool = 7, got [4, 5, 6, 7]"),
    (
        {"x": X[:, :, :, :0], "pool": 1},
        "x must be [N, C, H, W] with H and W at least pool = 1, got [4, 5, 6, 0]",
    ),
]


@pytest.mark.parametrize(("changed", "message"), ERRORS, ids=lambda value: str(value)[:50])
def test_errors(changed, message) -> None:
    arguments = {"x": X, "weight": ROW, "bias": ROW, "eps": 1e-5, "pool": 2, **changed}
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::norm_relu_pool: {message}")):
        ops.norm_relu_pool(**arguments)
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::norm_relu_pool_backward: {message}")):
        torch.ops.dgdd.norm_relu_pool_backward.default(torch.zeros(4, 5, 3, 3), *arguments.values())


def test_errors_of_the_upstream_gradient() -> None:
    backward = torch.ops.dgdd.norm_relu_pool_backward.default
    for grad, message in (
        (torch.zeros(4, 5, 3, 3).double(), "pooled_grad must be float32 like x, got float64"),
        (
            torch.zeros(4, 5, 3, 4),
            "pooled_grad must be [N, C, H / pool, W / pool] = [4, 5, 3, 3], got [4, 5, 3, 4]",
        ),
    ):
        with pytest.raises(RuntimeError, match=re.escape(f"dgdd::norm_relu_pool_backward: {message}")):
            backward(grad, X, ROW, ROW, 1e-5, 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": X[0]}, r"x must be \[N, C, H, W\]"),
        ({"weight": ROW[:4]}, "weight must be"),
        ({"pool": 0}, "pool must be at least 1"),
        ({"pool": 7}, "H and W at least pool = 7"),
    ],
    ids=str,
)
def test_tracing_refuses_what_running_refuses(changed, message) -> None:
    arguments = {"x": X, "weight": ROW, "bias": ROW, "eps": 1e-5, "pool": 2, **changed}
    meta = [value.to("meta") if isinstance(value, Tensor) else value for value in arguments.values()]
    with pytest.raises(RuntimeError, match=message):
        ops.norm_relu_pool(*meta)
