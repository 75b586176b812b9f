"""channel_scores and mask_channels against the specification: shapes, dtypes, layouts, bad numbers."""

import math

import pytest
import torch
from emulated_cuda import on_the_cpu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from masking_cases import DTYPES, SHAPES, Masking, channels_last_copy
from spectral_cases import assert_as_accurate
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference


def check_scores(case: Masking) -> None:
    features, weight, *others = case.score_arguments()
    truth = reference.channel_scores(features.double(), weight.double(), *others)
    scores = ops.channel_scores(*case.score_arguments())
    assert scores.is_contiguous()
    assert_as_accurate(scores, reference.channel_scores(*case.score_arguments()), truth)


def check_masking(case: Masking) -> None:
    """The mask is that of the two operators, and the features are multiplied by it as in plain PyTorch."""
    masked, mask = ops.mask_channels(*case.arguments())
    scores = ops.channel_scores(*case.score_arguments())
    assert torch.equal(mask, ops.weighted_channel_mask(*case.mask_arguments(scores)))
    assert torch.equal(mask, reference.weighted_channel_mask(*case.mask_arguments(scores)))
    assert (mask == 0).sum(1).eq(case.num_masked).all()

    channels = case.features.shape[1]
    scale = channels / (channels - case.num_masked) if case.rescale else 1.0
    wide = case.features.float() if case.features.dtype.itemsize == 2 else case.features
    factors = (mask.to(wide.dtype) * scale)[(...,) + (None,) * (wide.dim() - 2)]
    assert torch.equal(masked, (wide * factors).to(masked.dtype))
    if case.features.is_contiguous() or case.features.stride(1) != 1:
        assert masked.is_contiguous()
    else:
        assert masked.movedim(1, -1).is_contiguous()


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_dtype_and_layout(
    shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, device: torch.device
) -> None:
    for per_pixel in (False, True):
        case = Masking.drawn(
            shape, dtype=dtype, device=device, channels_last=channels_last, per_pixel=per_pixel
        )
        check_scores(case)
        check_masking(case)


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 9), st.integers(1, 40)),
    samples=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    share=st.floats(0, 1),
    rescale=st.booleans(),
    normalize=st.booleans(),
    per_pixel=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_drawn_shapes_and_modes(
    shape: tuple[int, ...],
    samples: int,
    dtype: torch.dtype,
    channels_last: bool,
    share: float,
    rescale: bool,
    normalize: bool,
    per_pixel: bool,
    seed: int,
) -> None:
    num_masked = min(int(share * (shape[0] + 1)), shape[0] - rescale)
    case = Masking.drawn(
        shape,
        samples,
        dtype=dtype,
        channels_last=channels_last,
        num_masked=num_masked,
        rescale=rescale,
        normalize=normalize,
        per_pixel=per_pixel,
        seed=seed,
    )
    check_scores(case)
    check_masking(case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weight_and_uniforms_in_float32_beside_half_features(
    dtype: torch.dtype, device: torch.device
) -> None:
    case = Masking.drawn((40, 5, 5), dtype=dtype, device=device)
    case.weight = case.weight.float() * (1 + 2**-12)
    case.uniforms = torch.rand(4, 40, generator=torch.Generator().manual_seed(3)).to(device)
    check_scores(case)
    check_masking(case)


def layouts(features: Tensor) -> list[Tensor]:
    """The same numbers [N, C, H, W] in other memory."""
    transposed = features.transpose(-1, -2).contiguous().transpose(-1, -2)
    every_second_channel = features.repeat_interleave(2, 1)[:, ::2]
    every_second_column = features.repeat_interleave(2, -1)[..., ::2]
    every_second_sample = features.repeat_interleave(2, 0)[::2]
    some_of_the_points = channels_last_copy(torch.cat([features, features], 2))[:, :, : features.shape[2]]
    some_of_the_columns = channels_last_copy(torch.cat([features, features], 3))[..., : features.shape[3]]
    some_of_the_channels = channels_last_copy(torch.cat([features, features], 1))[:, : features.shape[1]]
    result = [
        transposed,
        every_second_channel,
        every_second_column,
        every_second_sample,
        some_of_the_points,
        some_of_the_columns,
        some_of_the_channels,
    ]
    assert not any(layout.is_contiguous() for layout in result)
    return result


@pytest.mark.parametrize("per_pixel", [False, True])
def test_strides_change_no_mask(per_pixel: bool, device: torch.device) -> None:
    case = Masking.drawn((6, 5, 7), dtype=torch.float32, device=device, per_pixel=per_pixel)
    expected_scores = ops.channel_scores(*case.score_arguments())
    expected_masked, expected_mask = ops.mask_channels(*case.arguments())
    case.weight = case.weight.t().contiguous().t()
    case.uniforms = case.uniforms.t().contiguous().t()
    case.domain_index = torch.stack([case.domain_index, case.domain_index], 1)[:, 0]
    for features in layouts(case.features):
        case.features = features
        torch.testing.assert_close(ops.channel_scores(*case.score_arguments()), expected_scores)
        masked, mask = ops.mask_channels(*case.arguments())
        assert torch.equal(mask, expected_mask)
        assert torch.equal(masked, expected_masked)
        check_masking(case)
        applied = torch.ops.dgdd.apply_channel_mask.default(features, mask, 6 / 4)
        assert torch.equal(applied, expected_masked)
        assert applied.stride() == masked.stride()


def test_expanded_features_are_read_as_their_copies(device: torch.device) -> None:
    case = Masking.drawn((1, 5, 7), dtype=torch.float32, device=device)
    case.features = case.features.expand(-1, 6, -1, -1)
    case.weight = case.weight.expand(-1, 6)
    case.uniforms = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)).to(device)
    case.num_masked = 2
    check_scores(case)
    check_masking(case)


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
def test_the_same_bits_with_every_number_of_threads(channels_last: bool) -> None:
    case = Masking.drawn((48, 9, 9), samples=7, dtype=torch.float32, channels_last=channels_last)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(ops.mask_channels(*case.arguments()))
    finally:
        torch.set_num_threads(threads)
    for masked, mask in results[1:]:
        assert torch.equal(masked, results[0][0])
        assert torch.equal(mask, results[0][1])


def test_a_call_gives_the_same_bits_again(device: torch.device) -> None:
    for shape in [(64, 16, 16), (40, 70, 70)]:
        case = Masking.drawn(shape, samples=9, dtype=torch.float32, device=device)
        first = ops.mask_channels(*case.arguments())
        for _ in range(3):
            again = ops.mask_channels(*case.arguments())
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("shape", [(0, 5, 3, 4), (2, 0, 3, 4), (2, 5, 0, 4), (0, 0, 0), (0, 5)], ids=str)
def test_empty_axes(
    shape: tuple[int, ...], per_pixel: bool, channels_last: bool, device: torch.device
) -> None:
    case = Masking.drawn(shape[1:], shape[0], device=device, channels_last=channels_last, per_pixel=per_pixel)
    scores = ops.channel_scores(*case.score_arguments())
    masked, mask = ops.mask_channels(*case.arguments())
    assert scores.shape == mask.shape == shape[:2]
    assert masked.shape == shape
    if scores.numel() != 0:  # the mean of nothing
        assert scores.isnan().all()
        assert mask.isnan().all()


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
def test_a_bad_feature_shows_in_its_sample_and_in_no_other(
    bad: float, per_pixel: bool, channels_last: bool, device: torch.device
) -> None:
    case = Masking.drawn((21, 20, 20), samples=3, device=device, dtype=torch.float32, per_pixel=per_pixel)
    case.weight = case.weight.abs() + 0.1
    expected_masked, expected_mask = ops.mask_channels(*case.arguments())
    case.features[1, 4, 3, 2] = bad
    if channels_last:
        case.features = channels_last_copy(case.features)
    scores = ops.channel_scores(*case.score_arguments())
    truth = reference.channel_scores(*case.score_arguments())
    masked, mask = ops.mask_channels(*case.arguments())
    torch.testing.assert_close(scores, truth, equal_nan=True)
    assert torch.equal(mask[::2], expected_mask[::2])
    assert torch.equal(masked[::2], expected_masked[::2])
    assert not masked[1, 4, 3, 2].isfinite()  # also where 0 times infinity is what masks it
    torch.testing.assert_close(
        masked[1], reference.mask_channels(*case.arguments())[0][1], equal_nan=True, rtol=1e-6, atol=0
    )
    if math.isnan(bad) or per_pixel:
        assert mask[1].isnan().all()
        assert masked[1].isnan().all()
    else:
        assert (mask[1] == 0).sum() == case.num_masked


def test_per_pixel_of_huge_and_tiny_features(device: torch.device) -> None:
    """The range of float32 neither overflows nor vanishes."""
    features = torch.tensor([[-3e38, 3e38, 1e38], [1e-45, 3e-45, 4e-45], [2.0, 2.0, 2.0]]).to(device)
    scores = ops.channel_scores(
        features[..., None], torch.ones(1, 3).to(device), torch.zeros(3, dtype=torch.int64).to(device), True
    )
    assert scores.min() >= 0
    assert scores.max() <= 1
    torch.testing.assert_close(scores[0].cpu(), torch.tensor([0, 1, 2 / 3]))
    assert scores[1, 0] == 0
    assert scores[1, 2] == 1
    assert scores[2].eq(1).all()  # all channels equal


def test_a_domain_index_out_of_range_on_cuda(cuda: torch.device) -> None:
    """Not read back, never read out of bounds: NaN for that sample only. The CPU raises an error instead."""
    for shape in [(16, 4, 4), (16, 200, 200)]:
        case = Masking.drawn(shape, dtype=torch.float32, device=cuda)
        expected, expected_mask = ops.mask_channels(*case.arguments())
        for bad in (-1, 3, 2**62):
            case.domain_index[2] = bad
            masked, mask = ops.mask_channels(*case.arguments())
            assert ops.channel_scores(*case.score_arguments())[2].isnan().all()
            assert masked[2].isnan().all()
            assert mask[2].isnan().all()
            others = [0, 1, 3]
            assert torch.equal(masked[others], expected[others])
            assert torch.equal(mask[others], expected_mask[others])


def test_cpu_and_cuda_choose_the_same_channels(cuda: torch.device) -> None:
    """From the same scores and uniforms, bit for bit, in every dtype."""
    for dtype in DTYPES:
        for channels in (5, 64, 1000):
            case = Masking.drawn((channels,), samples=50, dtype=dtype)
            for normalize in (True, False):
                with on_the_cpu():
                    mask = ops.weighted_channel_mask(case.features, case.uniforms, channels // 3, normalize)
                on_cuda = ops.weighted_channel_mask(
                    case.features.to(cuda), case.uniforms.to(cuda), channels // 3, normalize
                )
                assert torch.equal(on_cuda.cpu(), mask)
