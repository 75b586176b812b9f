"""The augmentation operator as a citizen of PyTorch: autograd, opcheck, compilation, streams, CUDA graphs."""

import pytest
import torch
from augmentation_cases import Augmentation
from torch import Tensor

from dgdd_fast import ops


def cases(device: torch.device) -> list[Augmentation]:
    """uint8 and floating images, with and without rows, images that require a gradient, no row."""
    followed = Augmentation.drawn(device=device)
    followed.images.requires_grad_()
    all_rows = Augmentation.drawn(images=7, batch=None, dtype=torch.bfloat16, device=device)
    all_rows.images.requires_grad_()
    return [
        Augmentation.drawn(dtype=torch.uint8, device=device),
        Augmentation.drawn(dtype=torch.uint8, result=torch.float16, batch=None, images=7, device=device),
        Augmentation.drawn(batch=0, device=device),
        followed,
        all_rows,
    ]


@pytest.mark.needs_gpu
@pytest.mark.parametrize("number", range(5))
def test_opcheck(number: int, device: torch.device) -> None:
    case = cases(device)[number]
    torch.library.opcheck(torch.ops.dgdd.sample_augment.default, case.schema_arguments())
    if case.images.is_floating_point():
        batch = ops.sample_augment(*case.arguments()).detach()
        for gradient in (batch, batch.clone().requires_grad_()):
            torch.library.opcheck(
                torch.ops.dgdd.sample_augment_backward.default, case.backward_arguments(gradient)
            )


@pytest.mark.parametrize("rows", [True, False])
def test_gradients(rows: bool, device: torch.device) -> None:
    """Numerically, to the second order: the gradient is linear in what comes from above."""
    case = Augmentation.drawn(
        (2, 4, 5), 3 if rows else 7, 7 if rows else None, dtype=torch.float64, device=device
    )
    case.images.requires_grad_()

    def squared(images: Tensor) -> Tensor:
        return ops.sample_augment(images, *case.arguments()[1:]).square()

    assert torch.autograd.gradcheck(squared, case.images)
    assert torch.autograd.gradgradcheck(squared, case.images)


def test_images_may_change_before_backward(device: torch.device) -> None:
    """Nothing of them is kept."""
    case = Augmentation.drawn(device=device)
    leaf = case.images.clone().requires_grad_()
    images = leaf * 1
    batch = ops.sample_augment(images, *case.arguments()[1:])
    images.detach().zero_()
    with torch.no_grad():
        images += 1
    batch.sum().backward()
    assert leaf.grad is not None


def test_nothing_flows_to_other_arguments(device: torch.device) -> None:
    case = Augmentation.drawn(dtype=torch.uint8, device=device)
    case.mean.requires_grad_()
    case.parameters.requires_grad_()
    batch = ops.sample_augment(*case.arguments())
    batch.sum().backward()
    assert case.mean.grad is None
    assert case.parameters.grad is None


@pytest.mark.needs_gpu
def test_compile_without_graph_breaks(device: torch.device) -> None:
    """Whole graphs with symbolic sizes, forward and backward; aot_eager traces like inductor."""

    def function(images: Tensor, rows: Tensor, operation: Tensor, parameters: Tensor) -> Tensor:
        return ops.sample_augment(images * 2, rows, operation, parameters, None, None, 4, (3, 2)).square()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape, batch in (((3, 9, 8), 21), ((3, 6, 7), 14)):
        case = Augmentation.drawn(shape, batch=batch, device=device)
        gradients = []
        for call in (function, compiled):
            images = case.images.clone().requires_grad_()
            result = call(images, *case.arguments()[1:4])
            result.sum().backward()
            gradients.append((result.detach(), images.grad))
        torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.needs_gpu
@pytest.mark.slow
def test_compile_with_inductor(device: torch.device) -> None:
    case = Augmentation.drawn(dtype=torch.uint8, device=device)
    compiled = torch.compile(ops.sample_augment, fullgraph=True)
    torch.testing.assert_close(compiled(*case.arguments()), ops.sample_augment(*case.arguments()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": torch.zeros(4)}, r"images must be \[M, C, H, W\]"),
        ({"operation": torch.zeros(5, dtype=torch.int64)}, "operation must be"),
        ({"parameters": torch.zeros(21, 2)}, "parameters must be"),
        ({"mean": None}, "mean and std must be tensors"),
        ({"std": torch.zeros(4)}, "std must be"),
    ],
    ids=str,
)
def test_tracing_refuses_what_running_refuses(changed: dict[str, object], message: str) -> None:
    case = Augmentation.drawn(dtype=torch.uint8)
    for name, value in changed.items():
        setattr(case, name, value)
    arguments = [
        argument.to("meta") if isinstance(argument, Tensor) else argument for argument in case.arguments()
    ]
    with pytest.raises(RuntimeError, match=message):
        ops.sample_augment(*arguments)


def test_results_in_inference_mode(device: torch.device) -> None:
    case = Augmentation.drawn(device=device)
    expected = ops.sample_augment(*case.arguments())
    with torch.inference_mode():
        assert torch.equal(ops.sample_augment(*case.arguments()), expected)


@pytest.mark.needs_gpu
def test_a_stream_of_the_users_own(cuda: torch.device) -> None:
    case = Augmentation.drawn((3, 32, 32), device=cuda)
    expected = ops.sample_augment(*case.arguments())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        case.operation.fill_(0)  # in this stream only: a kernel in another would read the old ones
        result = ops.sample_augment(*case.arguments())
    torch.cuda.current_stream().wait_stream(stream)
    assert not torch.equal(result, expected)
    assert torch.equal(result, case.images[case.rows])


@pytest.mark.needs_gpu
def test_capture_in_a_cuda_graph(cuda: torch.device) -> None:
    """Forward and backward; another draw has the same shapes."""
    case = Augmentation.drawn((3, 32, 32), device=cuda)
    case.images.requires_grad_()
    upstream = torch.ones(21, 3, 32, 32, device=cuda)

    def both() -> tuple[Tensor, Tensor]:
        batch = ops.sample_augment(*case.arguments())
        return batch, torch.autograd.grad(batch, case.images, upstream)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        both()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch, gradient = both()
    for seed in range(3):
        other = Augmentation.drawn((3, 32, 32), device=cuda, seed=seed)
        assert case.rows is not None
        assert other.rows is not None
        case.rows.copy_(other.rows)
        case.parameters.copy_(other.parameters)
        graph.replay()
        expected, expected_gradient = both()
        assert torch.equal(batch, expected)
        assert torch.equal(gradient, expected_gradient)
