"""What is particular to the general tier: every size, chunks of planes, any alignment, very large tensors."""

import pytest
import torch
from spectral_cases import Surgery, assert_as_accurate, random, relative_error

from dgdd_fast import ops
from dgdd_fast.ops import reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(1024, 1024), (1021, 1019), (227, 227), (1, 1024), (1024, 1)], ids=str)
def test_sizes_up_to_1024(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    case = Surgery.drawn(domains=2, samples=1, channels=1, size=size, dtype=dtype, device=device)
    truth = reference.spectral_surgery(*case.widened().arguments())
    assert_as_accurate(
        ops.spectral_surgery(*case.arguments()), reference.spectral_surgery(*case.arguments()), truth
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(50, 50), (51, 51), (33, 33), (60, 31)], ids=str)
def test_cuda_takes_any_alignment(size: tuple[int, int], dtype: torch.dtype, cuda: torch.device) -> None:
    """Even and odd numbers of pixels and of bins in a plane, whose accesses are packed where they can be."""
    case = Surgery.drawn(samples=3, size=size, dtype=dtype, device=cuda, base=True, weighted_deviation=False)
    shape = case.domain_grads.shape[1:]
    images, buffer = (random(*shape, seed=seed, dtype=dtype, device=cuda) for seed in (5, 6))
    expected = images.clone(), buffer.clone()
    ops.spectral_surgery_step_(*case.step_arguments(*expected))

    def shifted(tensor: torch.Tensor) -> torch.Tensor:
        memory = torch.empty(tensor.numel() + 1, dtype=dtype, device=cuda)
        return memory[1:].view_as(tensor).copy_(tensor)

    assert case.base_grad is not None
    case.domain_grads, case.base_grad = shifted(case.domain_grads), shifted(case.base_grad)
    result = shifted(images), shifted(buffer)
    ops.spectral_surgery_step_(*case.step_arguments(*result))
    for one, other in zip(result, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("size", [(100, 90), (99, 91)], ids=str)
def test_cuda_cuts_large_calls_into_chunks(size: tuple[int, int], cuda: torch.device) -> None:
    """Planes beyond any second-level cache, not a multiple of the chunks; every third sample is the same."""
    spectrum_bytes = 3 * size[0] * (size[1] // 2 + 1) * 8
    samples = 3 * (256 * 2**20 // spectrum_bytes // 3) + 3
    few = Surgery.drawn(samples=3, channels=1, size=size, dtype=torch.float32, device=cuda, valid=True)
    many = Surgery(
        few.domain_grads.repeat(1, samples // 3, 1, 1, 1),
        None,
        few.domain_index.repeat(samples // 3),
        domain_valid=None if few.domain_valid is None else few.domain_valid.repeat(1, samples // 3),
    )
    truth = reference.spectral_surgery(*few.widened().arguments())
    same_dtype = reference.spectral_surgery(*few.arguments())
    update = ops.spectral_surgery(*many.arguments())
    assert torch.equal(ops.spectral_surgery(*many.arguments()), update)
    for copy in (0, samples // 6, samples // 3 - 1):
        assert_as_accurate(update[3 * copy : 3 * copy + 3], same_dtype, truth)
    torch.testing.assert_close(update, update[:3].repeat(samples // 3, 1, 1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.needs_gpu
@pytest.mark.slow
def test_more_than_two_to_the_31_elements(cuda: torch.device) -> None:
    planes, height, width, needs_gigabytes = 240_000, 100, 90, 24
    assert planes * height * width > 2**31
    if torch.cuda.mem_get_info(cuda)[0] < needs_gigabytes * 2**30:
        pytest.skip(f"needs {needs_gigabytes} GiB of memory on the GPU")
    grads = torch.zeros(2, planes, 1, height, width, dtype=torch.bfloat16, device=cuda)
    grads[:, -5:] = random(2, 5, 1, height, width, dtype=torch.bfloat16, device=cuda)
    index = torch.zeros(planes, dtype=torch.int64, device=cuda)
    update = ops.spectral_surgery(grads, None, index, 1.3, 0.4)
    expected = reference.spectral_surgery(grads[:, -5:], None, index[:5], 1.3, 0.4)
    assert relative_error(update[-5:], expected.double()) < 2**-7
    assert not update[:-5].any()
