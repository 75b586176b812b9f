"""The compiled spectral operators against the specification in float64: sizes, dtypes, modes, strides."""

import pytest
import torch
from spectral_cases import DTYPES, SIZES, Surgery, check_consensus, check_step, check_surgery, random
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_and_dtype(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    case = Surgery.drawn(size=size, dtype=dtype, device=device)
    check_consensus(case.domain_grads)
    check_surgery(case)
    check_step(case)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (128, 128), (9, 10)], ids=str)
@pytest.mark.parametrize("weighted_deviation", [True, False])
@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("valid", [True, False])
def test_every_mode(
    size: tuple[int, int], weighted_deviation: bool, base: bool, valid: bool, device: torch.device
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        case = Surgery.drawn(
            domains=4,
            samples=5,
            channels=1,
            size=size,
            dtype=dtype,
            device=device,
            base=base,
            valid=valid,
            weighted_deviation=weighted_deviation,
        )
        check_surgery(case)
        check_step(case)


@pytest.mark.parametrize("domains", range(1, 17))
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (15, 8)], ids=str)
def test_one_to_sixteen_domains(domains: int, size: tuple[int, int], device: torch.device) -> None:
    case = Surgery.drawn(
        domains=domains, samples=2, channels=3, size=size, dtype=torch.float32, device=device
    )
    check_consensus(case.domain_grads)
    check_surgery(case)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (128, 128)], ids=str)
def test_every_number_of_planes_of_the_fused_sizes(size: tuple[int, int], device: torch.device) -> None:
    for planes in range(1, 20 if size[0] == 32 else 6):
        check_consensus(random(3, planes, *size, seed=planes, dtype=torch.float32, device=device))


def test_consensus_takes_any_number_of_axes_between(device: torch.device) -> None:
    grads = random(3, 2, 2, 2, 8, 9, dtype=torch.float32, device=device)
    check_consensus(grads)
    class_signal, resultant_length = ops.spectral_consensus(grads[:, 0, 0, 0])
    whole_signal, whole_length = ops.spectral_consensus(grads)
    torch.testing.assert_close(class_signal, whole_signal[0, 0, 0])
    torch.testing.assert_close(resultant_length, whole_length[0, 0, 0])


def strided(tensor: Tensor) -> list[Tensor]:
    """The same numbers transposed, as every second element of a larger tensor, and channels last."""
    transposed = tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    larger = torch.zeros(*tensor.shape[:-1], tensor.shape[-1] * 2, dtype=tensor.dtype, device=tensor.device)
    larger[..., ::2] = tensor
    channels_last = tensor.movedim(-3, -1).contiguous().movedim(-1, -3)
    layouts = [transposed, larger[..., ::2], channels_last]
    assert not any(layout.is_contiguous() for layout in layouts)
    return layouts


@pytest.mark.parametrize("size", [(32, 32), (6, 9)], ids=str)
def test_strides_change_nothing(size: tuple[int, int], device: torch.device) -> None:
    case = Surgery.drawn(size=size, dtype=torch.float32, device=device, base=True, valid=True)
    assert case.base_grad is not None
    assert case.domain_valid is not None
    expected = ops.spectral_surgery(*case.arguments())
    images = random(*expected.shape, seed=5, dtype=torch.float32, device=device)
    buffer = random(*expected.shape, seed=6, dtype=torch.float32, device=device)
    new_images, new_buffer = images.clone(), buffer.clone()
    ops.spectral_surgery_step_(*case.step_arguments(new_images, new_buffer))
    strided_valid = case.domain_valid.t().contiguous().t()
    strided_index = torch.stack([case.domain_index, case.domain_index], 1)[:, 0]
    layouts = zip(
        strided(case.domain_grads), strided(case.base_grad), strided(images), strided(buffer), strict=True
    )
    for grads, base, strided_images, strided_buffer in layouts:
        other = Surgery(grads, base, strided_index, domain_valid=strided_valid)
        assert torch.equal(ops.spectral_surgery(*other.arguments()), expected)
        ops.spectral_surgery_step_(*other.step_arguments(strided_images, strided_buffer))
        assert torch.equal(strided_images, new_images)
        assert torch.equal(strided_buffer, new_buffer)


def test_an_expanded_gradient_is_read_as_its_copies(device: torch.device) -> None:
    one = random(1, 2, 3, 8, 8, dtype=torch.float32, device=device)
    expanded = ops.spectral_consensus(one.expand(3, -1, -1, -1, -1))
    repeated = ops.spectral_consensus(one.repeat(3, 1, 1, 1, 1))
    assert all(torch.equal(a, b) for a, b in zip(expanded, repeated, strict=True))


def test_negative_view_is_resolved(device: torch.device) -> None:
    """The imaginary part of a conjugate is a view whose sign is pending; the operator must see the number."""
    complex_grads = torch.complex(
        random(3, 2, 1, 6, 6, device=device), random(3, 2, 1, 6, 6, seed=1, device=device)
    )
    grads = complex_grads.conj().imag
    assert grads.is_neg()
    class_signal, _ = ops.spectral_consensus(grads)
    torch.testing.assert_close(class_signal, reference.spectral_consensus(-complex_grads.imag)[0])
