"""The masking operators as citizens of PyTorch: autograd, opcheck, torch.compile, streams, CUDA graphs."""

import pytest
import torch
from masking_cases import Masking
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference


def cases(device: torch.device) -> list[tuple[str, tuple[object, ...]]]:
    """Operators and arguments: both layouts, every mode, features that require a gradient, no sample."""
    plain = Masking.drawn(dtype=torch.float32, device=device)
    last = Masking.drawn(
        (8, 5, 3), dtype=torch.bfloat16, device=device, channels_last=True, per_pixel=True, rescale=False
    )
    empty = Masking.drawn(samples=0, device=device)
    rows = Masking.drawn((12,), dtype=torch.float32, device=device, normalize=False)
    followed = Masking.drawn((8, 5, 3), dtype=torch.float32, device=device, channels_last=True)
    followed.features.requires_grad_()
    result: list[tuple[str, tuple[object, ...]]] = []
    for case in (plain, last, empty, rows, followed):
        scores = reference.channel_scores(*case.score_arguments()).detach()
        mask = reference.weighted_channel_mask(*case.mask_arguments(scores))
        result += [
            ("weighted_channel_mask", case.mask_arguments(scores)),
            ("weighted_channel_mask", case.mask_arguments(scores.clone().requires_grad_())),
            ("mask_channels", case.arguments()),
            ("apply_channel_mask", (case.features, mask, 1.5)),
        ]
        if not case.features.requires_grad:
            result.append(("channel_scores", case.score_arguments()))
    return result


@pytest.mark.needs_gpu
@pytest.mark.parametrize("number", range(24))
def test_opcheck(number: int, device: torch.device) -> None:
    name, arguments = cases(device)[number]
    torch.library.opcheck(getattr(torch.ops.dgdd, name).default, arguments)


@pytest.mark.needs_gpu
def test_opcheck_of_scores_that_require_a_gradient(device: torch.device) -> None:
    """Without the check that runs backward, which there is none of."""
    case = Masking.drawn(dtype=torch.float32, device=device)
    case.features.requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.dgdd.channel_scores.default, case.score_arguments(), test_utils=checks)


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("rescale", [True, False])
def test_gradients(rescale: bool, channels_last: bool, device: torch.device) -> None:
    """Numerically, to the second order: the mask does not move under gradcheck's small steps."""
    case = Masking.drawn((6, 3, 2), samples=3, device=device, channels_last=channels_last, rescale=rescale)
    case.features.requires_grad_()

    def squared(features: Tensor) -> Tensor:
        masked, _ = ops.mask_channels(features, *case.arguments()[1:])
        return masked.square()

    assert torch.autograd.gradcheck(squared, case.features)
    assert torch.autograd.gradgradcheck(squared, case.features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gradients_are_those_of_the_specification(dtype: torch.dtype, device: torch.device) -> None:
    case = Masking.drawn((21, 6, 6), dtype=dtype, device=device)
    case.features.requires_grad_()
    masked, mask = ops.mask_channels(*case.arguments())
    upstream = torch.randn(masked.shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(device)
    (gradient,) = torch.autograd.grad(masked, case.features, upstream)
    (expected,) = torch.autograd.grad(reference.mask_channels(*case.arguments())[0], case.features, upstream)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, expected)
    assert gradient[mask == 0].eq(0).all()


def test_nothing_flows_through_the_choice(device: torch.device) -> None:
    case = Masking.drawn(device=device)
    case.features.requires_grad_()
    case.weight.requires_grad_()
    masked, mask = ops.mask_channels(*case.arguments())
    assert not mask.requires_grad
    masked.sum().backward()
    assert case.weight.grad is None
    scores = ops.channel_scores(*case.score_arguments())
    assert scores.requires_grad
    chosen = ops.weighted_channel_mask(*case.mask_arguments(scores))
    assert not chosen.requires_grad
    (case.features * chosen[..., None, None]).sum().backward()  # not through the scores: that raises
    with pytest.raises(RuntimeError, match="dgdd::channel_scores is not differentiable: scores are for"):
        scores.sum().backward()


@pytest.mark.needs_gpu
def test_compile_without_graph_breaks(device: torch.device) -> None:
    """Whole graphs with symbolic sizes, forward and backward; aot_eager traces like inductor."""

    def function(features: Tensor, weight: Tensor, index: Tensor, uniforms: Tensor) -> Tensor:
        masked, mask = ops.mask_channels(features * 2, weight, index, uniforms, 2)
        scores = ops.channel_scores(features.detach(), weight, index, True)
        return masked.square().sum((2, 3)) + mask + ops.weighted_channel_mask(scores, uniforms, 3)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for samples, size in ((2, 5), (5, 4)):
        for channels_last in (False, True):
            case = Masking.drawn(
                (6, size, 3), samples, dtype=torch.float32, device=device, channels_last=channels_last
            )
            gradients = []
            for call in (function, compiled):
                features = case.features.clone().requires_grad_()
                result = call(features, *case.arguments()[1:4])
                result.sum().backward()
                gradients.append((result.detach(), features.grad))
            torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.needs_gpu
@pytest.mark.slow
def test_compile_with_inductor(device: torch.device) -> None:
    case = Masking.drawn(dtype=torch.float32, device=device)
    compiled = torch.compile(ops.mask_channels, fullgraph=True)
    torch.testing.assert_close(compiled(*case.arguments()), ops.mask_channels(*case.arguments()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": torch.zeros(4)}, r"features must be \[N, C, \*\]"),
        ({"weight": torch.zeros(3, 8)}, "weight must be"),
        ({"domain_index": torch.zeros(5, dtype=torch.int64)}, "domain_index must be"),
        ({"uniforms": torch.zeros(4, 8)}, "uniforms must be"),
        ({"num_masked": 8}, r"num_masked must be in \[0, C\] = \[0, 7\], got 8"),
    ],
    ids=str,
)
def test_tracing_refuses_what_running_refuses(changed: dict[str, object], message: str) -> None:
    case = Masking.drawn(dtype=torch.float32)
    for name, value in changed.items():
        setattr(case, name, value)
    arguments = [
        argument.to("meta") if isinstance(argument, Tensor) else argument for argument in case.arguments()
    ]
    with pytest.raises(RuntimeError, match=message):
        ops.mask_channels(*arguments)


def test_results_in_inference_mode(device: torch.device) -> None:
    case = Masking.drawn(dtype=torch.float32, device=device)
    expected = ops.mask_channels(*case.arguments())
    with torch.inference_mode():
        result = ops.mask_channels(*case.arguments())
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


@pytest.mark.needs_gpu
@pytest.mark.parametrize("shape", [(16, 8, 8), (16, 200, 200)], ids=str)
def test_a_stream_of_the_users_own(shape: tuple[int, ...], cuda: torch.device) -> None:
    case = Masking.drawn(shape, dtype=torch.float32, device=cuda)
    expected, expected_mask = ops.mask_channels(*case.arguments())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        case.features.mul_(2)  # in this stream only: a kernel in another would read the old numbers
        masked, mask = ops.mask_channels(*case.arguments())
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(mask, expected_mask)
    assert torch.equal(masked, 2 * expected)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("shape", [(16, 8, 8), (16, 200, 200)], ids=str)
def test_capture_in_a_cuda_graph(shape: tuple[int, ...], cuda: torch.device) -> None:
    case = Masking.drawn(shape, dtype=torch.float32, device=cuda)
    ops.mask_channels(*case.arguments())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        masked, mask = ops.mask_channels(*case.arguments())
    for seed in range(3):
        case.uniforms.copy_(Masking.drawn(shape, seed=seed).uniforms)
        graph.replay()
        expected, expected_mask = ops.mask_channels(*case.arguments())
        assert torch.equal(mask, expected_mask)
        assert torch.equal(masked, expected)
