"""The CUDA half from the dispatcher to the launch, in the emulated build: what is launched, where, in which
order, and that no device refuses it. What the kernels compute is tested where the CPU's results are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import emulated_cuda
import pytest
import torch
from masking_cases import DTYPES, Masking, channels_last_copy
from spectral_cases import Surgery
from torch import Tensor

from dgdd_fast import ops

DEVICES = ["A100", "H100", "H200", "B200", "RTX 4090", "RTX 5090"]


@pytest.fixture
def emulated() -> Iterator[emulated_cuda.EmulatedCuda]:
    if emulated_cuda.module() is None:
        pytest.skip("no CUDA device is emulated: make test builds what it takes")
    with emulated_cuda.EmulatedCuda() as mode:
        yield mode


def kernels(emulated: emulated_cuda.EmulatedCuda) -> list[str]:
    """What was launched since the last call, without template arguments."""
    names = [launch["kernel"].split("<")[0] for launch in emulated.runtime.launches()]
    emulated.runtime.clear_launches()
    return names


# -------- every launch is legal on every device


def masking_shapes() -> Iterator[tuple[torch.dtype, bool, int, int, int]]:
    """Storage, layout, samples, channels and the side of the maps: those of the networks and others."""
    channels = (1, 3, 24, 64, 96, 100, 128, 192, 256, 384, 512, 768, 1024, 2048)
    for shape in product(DTYPES, (False, True), (1, 64, 256), channels, (1, 4, 7, 8, 16, 32)):
        dtype, _, samples, count, side = shape
        if samples * count * side * side * dtype.itemsize < 2**31:
            yield shape


def unfilled(dtype: torch.dtype, channels_last: bool, samples: int, channels: int, side: int) -> Tensor:
    """Memory that nobody touches takes no room, however large."""
    if channels_last:
        return torch.empty(samples, side, side, channels, dtype=dtype).movedim(-1, 1)
    return torch.empty(samples, channels, side, side, dtype=dtype)


def refusals(call: Callable[..., None], shapes: Iterable[tuple[Any, ...]]) -> list[str]:
    """What the device refuses of `shapes`, and why."""
    refused = []
    for shape in shapes:
        try:
            call(*shape)
        except RuntimeError as error:
            refused.append(f"{shape}: {error}")
    return refused


def operate(dtype: torch.dtype, height: int, width: int, domains: int, samples: int) -> None:
    grads = torch.empty(domains, samples, 1, height, width, dtype=dtype)
    ops.spectral_surgery(grads, None, torch.empty(samples, dtype=torch.int64), 1.0, 0.3)


def mask(dtype: torch.dtype, channels_last: bool, samples: int, channels: int, side: int) -> None:
    features = unfilled(dtype, channels_last, samples, channels, side)
    weight = torch.empty(3, channels, dtype=dtype)
    index = torch.empty(samples, dtype=torch.int64)
    uniforms = torch.empty(samples, channels, dtype=dtype)
    ops.mask_channels(features, weight, index, uniforms, channels // 3)
    if channels % 3 == 0:
        ops.mask_channels(features, weight, index, uniforms, channels // 3, per_pixel=True)
        ops.channel_scores(features, weight, index)


@pytest.mark.parametrize("name", DEVICES)
def test_every_launch_of_the_masking_operators_is_legal(
    name: str, emulated: emulated_cuda.EmulatedCuda
) -> None:
    """Calls with more shared memory come later: a limit that one of them has raised hides nothing."""
    emulated.runtime.set_runs_kernels(False)
    emulated.runtime.set_device(name)
    shared_bytes = {}
    for shape in masking_shapes():
        mask(*shape)
        shared_bytes[shape] = max(launch["shared_bytes"] for launch in emulated.runtime.launches())
        emulated.runtime.clear_launches()
    assert len(shared_bytes) > 1500
    emulated.runtime.set_device(name, 1)
    refused = refusals(mask, sorted(shared_bytes, key=shared_bytes.__getitem__))
    assert not refused, (len(refused), refused[:5])
    assert {"fused_kernel", "scores_kernel", "select_kernel", "apply_kernel", "ranges_kernel"} == set(
        kernels(emulated)
    )


@pytest.mark.parametrize("name", DEVICES)
def test_every_launch_of_the_spectral_operators_is_legal(
    name: str, emulated: emulated_cuda.EmulatedCuda
) -> None:
    emulated.runtime.set_runs_kernels(False)
    emulated.runtime.set_device(name)
    sides = (1, 2, 7, 16, 28, 31, 32, 33, 48, 64, 96, 128)
    shapes = list(product(DTYPES, sides, (32, 64, 128), (1, 3, 8), (1, 11)))
    shapes += [
        (dtype, side, side, 3, samples)
        for dtype in DTYPES
        for side in (32, 64, 128)
        for samples in (140, 1000)
    ]
    refused = refusals(operate, shapes)
    assert len(shapes) > 800
    assert not refused, refused[:5]
    assert {"fused_tile_kernel", "half_spectrum_kernel", "reduce_kernel", "finish_kernel"} == set(
        kernels(emulated)
    )


@pytest.mark.parametrize(("shape", "dtype"), [((512, 4, 4), torch.float32), ((256, 8, 8), torch.float16)])
def test_shared_memory_beyond_the_default_with_the_static_part_counted(
    shape: tuple[int, ...], dtype: torch.dtype, emulated: emulated_cuda.EmulatedCuda
) -> None:
    """Dynamic parts of less than 48 KB that do not fit beside the static one without opting in."""
    emulated.runtime.set_device("H200", 2)  # where nothing has raised a limit
    case = Masking.drawn(shape, dtype=dtype, channels_last=True, samples=2)
    ops.mask_channels(*case.arguments())
    (launch,) = emulated.runtime.launches()
    assert launch["kernel"].startswith("fused_kernel")
    assert 48 * 1024 - 17_000 < launch["shared_bytes"] < 48 * 1024


# -------- what is launched


def test_an_operator_launches_in_the_current_stream(emulated: emulated_cuda.EmulatedCuda) -> None:
    emulated.runtime.set_stream(7)
    ops.spectral_surgery(*Surgery.drawn(size=(32, 32), dtype=torch.float32, samples=1).arguments())
    emulated.runtime.set_stream(9)
    ops.spectral_surgery(*Surgery.drawn(size=(6, 5), dtype=torch.float32, samples=1).arguments())
    case = Masking.drawn((16, 3, 3), dtype=torch.float32, per_pixel=True, samples=1)
    ops.mask_channels(*case.arguments())
    assert [launch["stream"] for launch in emulated.runtime.launches()] == [7, 9, 9, 9, 9, 9, 9]
    assert kernels(emulated) == [
        *("fused_tile_kernel", "reduce_kernel", "finish_kernel"),
        *("ranges_kernel", "scores_kernel", "select_kernel", "apply_kernel"),
    ]


def test_nothing_is_launched_for_no_sample(emulated: emulated_cuda.EmulatedCuda) -> None:
    for size in ((32, 32), (128, 128), (6, 7)):
        case = Surgery.drawn(samples=0, size=size, dtype=torch.float32)
        assert ops.spectral_surgery(*case.arguments()).shape == (0, 3, *size)
    masking = Masking.drawn(samples=0, dtype=torch.float32)
    assert ops.mask_channels(*masking.arguments())[0].shape == (0, 7, 3, 4)
    assert kernels(emulated) == []


def test_the_general_tier_takes_a_whole_batch_at_once(emulated: emulated_cuda.EmulatedCuda) -> None:
    """Two launches and two transforms for 420 planes of 224 pixels, whatever the size of the caches."""
    emulated.runtime.set_runs_kernels(False)
    grads = torch.zeros(3, 140, 3, 224, 224)
    ops.spectral_surgery(grads, None, torch.zeros(140, dtype=torch.int64), 1.0, 0.3)
    assert kernels(emulated) == ["reduce_kernel", "finish_kernel"]


def test_the_general_tier_cuts_calls_that_memory_does_not_hold(
    emulated: emulated_cuda.EmulatedCuda,
) -> None:
    """Five planes, two at a time: the same results, to the library's rounding, in three passes."""
    case = Surgery.drawn(samples=5, channels=1, size=(9, 10), dtype=torch.float32, valid=True)
    expected = ops.spectral_surgery(*case.arguments())
    kernels(emulated)
    emulated.runtime.set_most_spectra_bytes(2 * 3 * 9 * 6 * 8 + 100)
    torch.testing.assert_close(ops.spectral_surgery(*case.arguments()), expected)
    assert kernels(emulated) == 3 * ["reduce_kernel", "finish_kernel"]


def test_strides_are_read_where_a_kernel_can_and_copied_where_not(
    emulated: emulated_cuda.EmulatedCuda,
) -> None:
    case = Masking.drawn((16, 4, 6), dtype=torch.float32, samples=2)
    expected, expected_mask = ops.mask_channels(*case.arguments())
    wide = torch.zeros(2, 16, 4, 12)
    wide[..., ::2] = case.features
    for features in (
        channels_last_copy(case.features),
        wide[..., ::2],
        case.features.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        case.features = features
        masked, mask = ops.mask_channels(*case.arguments())
        assert torch.equal(mask, expected_mask)
        torch.testing.assert_close(masked, expected)


# -------- devices and drivers that a build does not fit


def test_a_build_for_other_architectures(emulated: emulated_cuda.EmulatedCuda) -> None:
    case = Surgery.drawn(size=(32, 32), dtype=torch.float32, samples=1)
    emulated.runtime.set_architectures([80], 0)
    with pytest.raises(
        RuntimeError, match=r"no kernel image .* compute capability 90: build .* CUDAARCHS=90"
    ):
        ops.spectral_surgery(*case.arguments())
    emulated.runtime.set_device("A100")
    ops.spectral_surgery(*case.arguments())


def test_a_driver_too_old(emulated: emulated_cuda.EmulatedCuda) -> None:
    emulated.runtime.set_driver_version(12040)
    with pytest.raises(RuntimeError, match=r"driver supports CUDA 12.4, .* with CUDA 13.0: install a newer"):
        ops.spectral_surgery(*Surgery.drawn(size=(32, 32), dtype=torch.float32).arguments())
