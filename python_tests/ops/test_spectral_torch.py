"""The spectral operators as citizens of PyTorch: opcheck, torch.compile, streams, CUDA graphs, memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from spectral_cases import Surgery, random
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference


def cases(device: torch.device) -> list[tuple[str, tuple[object, ...]]]:
    """Operators and arguments: with and without the optional ones, fused and general sizes, no sample."""
    plain = Surgery.drawn(dtype=torch.float32, device=device)
    full = Surgery.drawn(size=(32, 32), dtype=torch.bfloat16, device=device, base=True, valid=True)
    empty = Surgery.drawn(samples=0, dtype=torch.float64, device=device)
    result: list[tuple[str, tuple[object, ...]]] = []
    for case in (plain, full, empty):
        shape, dtype = case.domain_grads.shape[1:], case.domain_grads.dtype
        images, buffer = (random(*shape, seed=seed, dtype=dtype, device=device) for seed in (5, 6))
        result += [
            ("spectral_consensus", (case.domain_grads,)),
            ("spectral_surgery", case.arguments()),
            ("spectral_surgery_step_", case.step_arguments(images, buffer)),
        ]
    return result


@pytest.mark.needs_gpu
@pytest.mark.parametrize("number", range(9))
def test_opcheck(number: int, device: torch.device) -> None:
    name, arguments = cases(device)[number]
    torch.library.opcheck(getattr(torch.ops.dgdd, name).default, arguments)


@pytest.mark.needs_gpu
def test_opcheck_of_inputs_that_require_a_gradient(device: torch.device) -> None:
    """Without the check that runs backward, which there is none of."""
    case = Surgery.drawn(dtype=torch.float32, device=device)
    case.domain_grads.requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.dgdd.spectral_surgery.default, case.arguments(), test_utils=checks)
    torch.library.opcheck(torch.ops.dgdd.spectral_consensus.default, (case.domain_grads,), test_utils=checks)


@pytest.mark.needs_gpu
def test_compile_without_graph_breaks(device: torch.device) -> None:
    """Whole graphs with symbolic sizes; aot_eager traces like inductor and needs no compiler."""

    def function(images: Tensor, buffer: Tensor, grads: Tensor, index: Tensor) -> Tensor:
        class_signal, resultant_length = ops.spectral_consensus(grads * 2)
        ops.spectral_surgery_step_(images, buffer, grads, None, index, 1.0, 0.3, 0.1, 0.9)
        return ops.spectral_surgery(grads, images, index, 1.0, 0.3) + class_signal * resultant_length.mean()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for samples in (2, 5):
        case = Surgery.drawn(samples=samples, size=(8, 9), dtype=torch.float32, device=device)
        tensors = [
            (torch.zeros_like(case.domain_grads[0]), torch.zeros_like(case.domain_grads[0])) for _ in "ab"
        ]
        expected = function(*tensors[0], case.domain_grads, case.domain_index)
        result = compiled(*tensors[1], case.domain_grads, case.domain_index)
        torch.testing.assert_close(result, expected)
        torch.testing.assert_close(tensors[1], tensors[0])


@pytest.mark.needs_gpu
@pytest.mark.slow
def test_compile_with_inductor(device: torch.device) -> None:
    case = Surgery.drawn(dtype=torch.float32, device=device)
    compiled = torch.compile(ops.spectral_surgery, fullgraph=True)
    torch.testing.assert_close(compiled(*case.arguments()), ops.spectral_surgery(*case.arguments()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base_grad": torch.zeros(4, 3, 6, 8)}, "base_grad must be"),
        ({"domain_index": torch.zeros(5, dtype=torch.int64)}, "domain_index must be"),
        ({"domain_valid": torch.zeros(3, 5, dtype=torch.bool)}, "domain_valid must be"),
        ({"domain_grads": torch.zeros(3, 4, 6, 7)}, r"domain_grads must be \[D, N, C, H, W\]"),
    ],
    ids=str,
)
def test_tracing_refuses_what_running_refuses(changed: dict[str, Tensor], message: str) -> None:
    case = Surgery.drawn(dtype=torch.float32)
    for name, value in changed.items():
        setattr(case, name, value)
    arguments = [
        argument.to("meta") if isinstance(argument, Tensor) else argument for argument in case.arguments()
    ]
    with pytest.raises(RuntimeError, match=message):
        ops.spectral_surgery(*arguments)


def test_results_in_inference_mode(device: torch.device) -> None:
    case = Surgery.drawn(dtype=torch.float32, device=device)
    expected = ops.spectral_surgery(*case.arguments())
    with torch.inference_mode():
        assert torch.equal(ops.spectral_surgery(*case.arguments()), expected)
        images, buffer = torch.zeros_like(expected), torch.zeros_like(expected)
        ops.spectral_surgery_step_(*case.step_arguments(images, buffer))
    assert torch.equal(buffer, expected)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (128, 128), (50, 50)], ids=str)
def test_a_stream_of_the_users_own(size: tuple[int, int], cuda: torch.device) -> None:
    case = Surgery.drawn(size=size, dtype=torch.float32, device=cuda)
    expected = reference.spectral_surgery(*case.arguments())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        case.domain_grads.mul_(2)  # in this stream only: a kernel in another would read the old numbers
        update = ops.spectral_surgery(*case.arguments())
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(update, 2 * expected, rtol=1e-4, atol=1e-4)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (128, 128), (50, 50)], ids=str)
def test_capture_in_a_cuda_graph(size: tuple[int, int], cuda: torch.device) -> None:
    case = Surgery.drawn(size=size, dtype=torch.float32, device=cuda)
    images, buffer = torch.zeros_like(case.domain_grads[0]), torch.zeros_like(case.domain_grads[0])
    ops.spectral_surgery_step_(*case.step_arguments(images, buffer))  # FFT plans are made outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.spectral_surgery_step_(*case.step_arguments(images, buffer))
    expected_images, expected_buffer = images.clone(), buffer.clone()
    for _ in range(3):
        graph.replay()
        reference.spectral_surgery_step_(*case.step_arguments(expected_images, expected_buffer))
    torch.testing.assert_close(images, expected_images, rtol=1e-4, atol=1e-4)


@contextmanager
def largest_allocation() -> Iterator[list[int]]:
    """The most bytes that torch's allocator hands out at once, in any thread; in the list at the end."""
    largest: list[int] = []
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        yield largest
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    largest.append(max(event.nbytes() for event in events if event.name() == "[memory]"))


@pytest.mark.parametrize("size", [(32, 32), (128, 128), (100, 90), (224, 224)], ids=str)
def test_no_temporary_is_larger_than_the_input(size: tuple[int, int]) -> None:
    case = Surgery.drawn(domains=3, samples=8, size=size, dtype=torch.float32)
    input_bytes = case.domain_grads.numel() * 4
    with largest_allocation() as largest:
        ops.spectral_surgery(*case.arguments())
    assert largest[0] <= input_bytes
    with largest_allocation() as largest:
        reference.spectral_surgery(*case.arguments())
    assert largest[0] > input_bytes  # the measure sees the reference's whole spectra
