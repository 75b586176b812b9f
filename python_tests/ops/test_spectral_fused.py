"""What is particular to the fused tiers.

CPU: planes in pairs, domains in groups, scratch memory. CUDA: a plane a block, one launch, no memory between.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulated_cuda import EmulatedCuda, stands_for_cuda
from spectral_cases import Surgery, assert_as_accurate, random, relative_error

from dgdd_fast import ops
from dgdd_fast.ops import reference

SIZES = [32, 64, 128]
HALF = [torch.bfloat16, torch.float16]


def assert_right(case: Surgery) -> None:
    """Both results of the step, which takes every path of the tier's output, and the agreement."""
    wide = case.widened()
    images = random(*case.domain_grads.shape[1:], seed=5).to(case.domain_grads)
    buffer = random(*case.domain_grads.shape[1:], seed=6).to(case.domain_grads)
    stepped = [(images.clone(), buffer.clone()) for _ in range(2)] + [(images.double(), buffer.double())]
    ops.spectral_surgery_step_(*case.step_arguments(*stepped[0]))
    reference.spectral_surgery_step_(*case.step_arguments(*stepped[1]))
    reference.spectral_surgery_step_(*wide.step_arguments(*stepped[2]))
    updates = (
        ops.spectral_surgery(*case.arguments()),
        reference.spectral_surgery(*case.arguments()),
        reference.spectral_surgery(*wide.arguments()),
    )
    for result, same_dtype, truth in [*zip(*stepped, strict=True), updates]:
        assert_as_accurate(result, same_dtype, truth)
    for result, same_dtype, truth in zip(
        ops.spectral_consensus(case.domain_grads),
        reference.spectral_consensus(case.domain_grads),
        reference.spectral_consensus(wide.domain_grads),
        strict=True,
    ):
        assert_as_accurate(result, same_dtype, truth)


@pytest.mark.parametrize("domains", range(1, 17))
def test_any_number_of_domains(domains: int, device: torch.device) -> None:
    """With many domains the spectra of some are carried while the next ones are transformed."""
    for size in SIZES:
        weighted = domains % 2 == 0
        assert_right(
            Surgery.drawn(
                domains,
                1,
                3,
                (size, size),
                torch.float32,
                device,
                weighted_deviation=weighted,
                valid=weighted,
            )
        )


def test_more_domains_than_fit_at_32(device: torch.device) -> None:
    assert_right(Surgery.drawn(50, 1, 1, (32, 32), torch.float32, device))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("weighted_deviation", [False, True])
def test_pairs_that_span_two_samples(
    size: int, dtype: torch.dtype, base: bool, weighted_deviation: bool, device: torch.device
) -> None:
    """Nine planes: pairs of one sample, pairs of two with other assigned and valid domains, and one alone."""
    case = Surgery.drawn(3, 3, 3, (size, size), dtype, device, base, True, weighted_deviation)
    case.domain_index = torch.tensor([2, 0, 1], device=device)
    case.domain_valid = torch.tensor(
        [[True, False, True], [True, True, False], [True, False, True]], device=device
    )
    assert_right(case)


@pytest.mark.parametrize("size", SIZES)
def test_a_small_plane_beside_a_large_one_keeps_its_digits(size: int, device: torch.device) -> None:
    grads = random(3, 1, 4, size, size, dtype=torch.float32, device=device)
    scales = torch.tensor([1.0, 1e-12, 1e9, 1.0], device=device)
    expected, _ = ops.spectral_consensus(grads, 0.0)
    class_signal, _ = ops.spectral_consensus(grads * scales[:, None, None], 0.0)
    for channel, scale in enumerate(scales.tolist()):
        assert relative_error(class_signal[0, channel] / scale, expected[0, channel].double()) < 1e-6


@pytest.mark.parametrize("scale", [2.0**-120, 2.0**-60, 2.0**60, 2.0**110])
def test_scale_within_the_range_of_float32_changes_no_bit(scale: float, device: torch.device) -> None:
    """Powers of two: even where the squares of the magnitudes leave the range. CUDA's square roots may round
    otherwise there."""
    grads = random(3, 1, 3, 32, 32, dtype=torch.float32, device=device)
    class_signal, resultant_length = ops.spectral_consensus(grads, 0.0)
    scaled_signal, scaled_length = ops.spectral_consensus(grads * scale, 0.0)
    # At 2^-120 a few gradients are subnormal.
    tolerance = 1e-6 if scale == 2.0**-120 or stands_for_cuda(device) else 0.0
    torch.testing.assert_close(scaled_signal / scale, class_signal, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        scaled_length, resultant_length, rtol=1e-5 if tolerance else 0.0, atol=tolerance
    )


@pytest.mark.parametrize("eps", [1e-3, 1.0, 1e9])
def test_eps_is_absolute_whatever_the_scale_of_the_plane(eps: float, device: torch.device) -> None:
    grads = random(3, 1, 4, 32, 32, dtype=torch.float32, device=device)
    grads *= torch.tensor([1e-3, 1e-3, 1e3, 1e3], device=device)[
        :, None, None
    ]  # partners alike: they share rounding
    truth = reference.spectral_consensus(grads.double(), eps)
    for result, expected in zip(ops.spectral_consensus(grads, eps), truth, strict=True):
        for channel in range(4):
            assert relative_error(result[0, channel], expected[0, channel]) < 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_resultant_length_has_each_bin_in_its_place(size: int, device: torch.device) -> None:
    """Two domains that share one wave and are opposite otherwise agree at its frequency alone."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    impulse = torch.zeros(size, size)
    impulse[0, 0] = 1
    for row, column in [(0, 0), (1, 0), (0, 1), (3, 5), (size - 3, 5), (size // 2, size // 2), (size - 1, 7)]:
        wave = torch.cos(2 * torch.pi * ((row * y + column * x) % size).double() / size).float()
        grads = torch.stack([wave + impulse, wave - impulse])[:, None, None].to(device)
        _, resultant_length = ops.spectral_consensus(grads)
        expected = torch.zeros(size, size // 2 + 1)
        expected[row, column] = 1
        if column in (0, size // 2):
            expected[(size - row) % size, column] = 1
        torch.testing.assert_close(resultant_length[0, 0].cpu(), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_bad_planes_are_nan_and_their_partners_right(
    size: int, dtype: torch.dtype, device: torch.device
) -> None:
    clean = Surgery.drawn(samples=5, channels=1, size=(size, size), dtype=dtype, device=device)
    bad = Surgery.drawn(samples=5, channels=1, size=(size, size), dtype=dtype, device=device)
    bad.domain_grads[0, 0, 0, 3, 4] = torch.nan
    bad.domain_grads[2, 3, 0, -1, -1] = -torch.inf
    bad.domain_grads[1, 4, 0, 0, 0] = torch.inf
    truth = reference.spectral_surgery(*clean.widened().arguments())
    update = ops.spectral_surgery(*bad.arguments())
    for sample in (0, 3, 4):
        assert update[sample].isnan().all()
    for sample in (1, 2):
        expected = reference.spectral_surgery(*clean.arguments())[sample]
        assert_as_accurate(update[sample], expected, truth[sample])


@pytest.mark.parametrize("size", SIZES)
def test_any_number_of_threads_and_any_alignment_give_the_same_bits(size: int) -> None:
    case = Surgery.drawn(samples=7, size=(size, size), dtype=torch.float32, valid=True)
    shifted = torch.empty(case.domain_grads.numel() + 1)[1:].view_as(case.domain_grads)
    shifted.copy_(case.domain_grads)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            for grads in (case.domain_grads, shifted):
                case.domain_grads = grads
                results.append(ops.spectral_surgery(*case.arguments()))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("size", SIZES)
def test_cuda_takes_any_alignment(size: int, cuda: torch.device) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        case = Surgery.drawn(samples=3, size=(size, size), dtype=dtype, device=cuda)
        expected = ops.spectral_surgery(*case.arguments())
        shifted = torch.empty(case.domain_grads.numel() + 1, dtype=dtype, device=cuda)[1:]
        case.domain_grads = shifted.view_as(case.domain_grads).copy_(case.domain_grads)
        update = ops.spectral_surgery(*case.arguments())
        if os.environ.get("DGDD_SPECTRAL_KERNELS") == "pipelined":  # the simple ones take what is not aligned
            assert relative_error(update, expected.double()) < 8 * torch.finfo(dtype).eps
        else:
            assert torch.equal(update, expected)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("size", SIZES)
def test_cuda_needs_no_memory_but_the_result(size: int, cuda: torch.device) -> None:
    case = Surgery.drawn(samples=50, size=(size, size), dtype=torch.float32, device=cuda)
    ops.spectral_surgery(*case.arguments())
    before = torch.cuda.memory_allocated(cuda)
    torch.cuda.reset_peak_memory_stats(cuda)
    result = ops.spectral_surgery(*case.arguments())
    assert torch.cuda.max_memory_allocated(cuda) - before <= result.nbytes + 2 * 2**20


@pytest.mark.needs_gpu
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("domains", [2, 5])
def test_few_planes_on_cuda_as_among_many(size: int, domains: int, cuda: torch.device) -> None:
    """The domains of few planes are summed side by side, those of many one after another."""
    grads = random(domains, 2, 1, size, size, dtype=torch.float32, device=cuda)
    few = ops.spectral_consensus(grads)
    grads = grads.repeat(1, 1500, 1, 1, 1)
    many, again = ops.spectral_consensus(grads), ops.spectral_consensus(grads)
    for first, result, same in zip(few, many, again, strict=True):
        assert torch.equal(result, same)
        assert torch.equal(result, result[:2].repeat(1500, 1, 1, 1))
        assert relative_error(result[:2], first.double()) < 1e-6


@pytest.mark.needs_gpu
@pytest.mark.parametrize("planes", [65_536 + 3, pytest.param(2**21 + 3, marks=pytest.mark.slow)])
def test_more_planes_than_cuda_counts_in_16_or_31_bits(planes: int, cuda: torch.device) -> None:
    """More than 65,535 blocks, and more than 2^31 pixels."""
    needed = planes * 32 * 32 * 2 * 2 + 2**30
    if torch.cuda.mem_get_info(cuda)[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of memory on the GPU")
    grads = torch.zeros(1, planes, 1, 32, 32, dtype=torch.bfloat16, device=cuda)
    grads[:, -5:] = random(1, 5, 1, 32, 32, dtype=torch.bfloat16, device=cuda)
    index = torch.zeros(planes, dtype=torch.int64, device=cuda)
    update = ops.spectral_surgery(grads, None, index, 1.3, 0.4)
    assert torch.equal(
        update[-5:], ops.spectral_surgery(grads[:, -5:].contiguous(), None, index[:5], 1.3, 0.4)
    )
    assert not update[:-5].any()


@pytest.mark.needs_gpu
@pytest.mark.parametrize("size", SIZES)
def test_a_device_that_is_not_the_current_one(size: int, cuda: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    case = Surgery.drawn(size=(size, size), dtype=torch.float32, device="cuda:1")
    expected = reference.spectral_surgery(*case.arguments())
    with torch.cuda.device(0):
        update = ops.spectral_surgery(*case.arguments())
    assert update.device == torch.device("cuda:1")
    assert relative_error(update, expected.double()) < 1e-6


KERNELS = {
    "simple": {32: "fused_tile_kernel", 64: "fused_tile_kernel", 128: "half_spectrum_kernel"},
    "pipelined": {
        32: "fused_tile_pipelined_kernel",
        64: "fused_tile_pipelined_kernel",
        128: "half_spectrum_cluster_kernel",  # few planes
    },
}


@pytest.mark.parametrize("size", SIZES)
def test_the_kernels_that_the_environment_chooses(size: int, cuda: torch.device) -> None:
    emulated = EmulatedCuda.active
    if emulated is None:
        pytest.skip("a GPU does not tell which kernels it ran")
    emulated.runtime.clear_launches()
    ops.spectral_consensus(random(3, 2, size, size, dtype=torch.float32, device=cuda))
    (launch,) = emulated.runtime.launches()
    chosen = os.environ.get("DGDD_SPECTRAL_KERNELS", "simple")
    assert launch["kernel"].split("<")[0] == KERNELS[chosen][size]


def run_with_kernels(value: str, tests: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-k", tests, __file__]
    environment = {**os.environ, "DGDD_SPECTRAL_KERNELS": value}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_some_of_this_with_the_other_kernels(cuda: torch.device) -> None:
    """A Python reads the environment once."""
    other = "simple" if os.environ.get("DGDD_SPECTRAL_KERNELS") == "pipelined" else "pipelined"
    done = run_with_kernels(other, "cuda and (environment_chooses or (any_number and (4 or 5)))")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_kernels_that_do_not_exist(cuda: torch.device) -> None:
    done = run_with_kernels("fast", "environment_chooses and 32")
    message = 'DGDD_SPECTRAL_KERNELS is "fast"; it must be simple (the default) or pipelined'
    assert done.returncode == 1
    assert "RuntimeError" in done.stdout
    assert message in done.stdout


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc"
)
def test_memory_stays_below_the_input() -> None:
    """What a call adds to the process at its peak, by what its gradients take: fused and general tier."""
    script = """
import torch
from dgdd_fast import ops
from pathlib import Path

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

index = torch.zeros(40, dtype=torch.int64)
for size in (128, 160):
    ops.spectral_surgery(torch.zeros(3, 1, 3, size, size), None, index[:1], 1.0, 0.3)
    grads = torch.ones(3, 40, 3, size, size)
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    ops.spectral_surgery(grads, None, index, 1.0, 0.3)
    print((kilobytes("VmHWM") - before) * 1024 / grads.nbytes)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    fused, general = map(float, done.stdout.split())
    assert fused < 0.4  # the result itself is a third of the input
    assert general < 1.0
