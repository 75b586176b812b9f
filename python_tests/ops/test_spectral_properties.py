"""What must hold of Spectral Gradient Surgery whatever the numbers: algebra, limits, corner cases."""

import math

import pytest
import torch
from spectral_cases import Surgery, random
from torch import Tensor

from dgdd_fast import ops

PROPERTY_SIZES = [(32, 32), (64, 64), (128, 128), (9, 14), (9, 34)]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # float32 against standard normal numbers


@pytest.fixture(params=PROPERTY_SIZES, ids=str)
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


def planes(*shape: int, device: torch.device, seed: int = 0) -> Tensor:
    return random(*shape, seed=seed, dtype=torch.float32, device=device)


def test_equal_domains_agree_fully(size: tuple[int, int], device: torch.device) -> None:
    one = planes(4, 3, *size, device=device)
    class_signal, resultant_length = ops.spectral_consensus(one.expand(5, -1, -1, -1, -1))
    torch.testing.assert_close(class_signal, one, **TOLERANCE)
    torch.testing.assert_close(resultant_length, torch.ones_like(resultant_length), **TOLERANCE)


def test_equal_domains_leave_no_deviation(size: tuple[int, int], device: torch.device) -> None:
    one = planes(4, 3, *size, device=device)
    index = torch.tensor([0, 1, 2, 0], device=device)
    update = ops.spectral_surgery(one.expand(3, -1, -1, -1, -1), None, index, 0.0, 100.0)
    torch.testing.assert_close(update, one, rtol=1e-3, atol=1e-3)  # beta = 100 magnifies the rounding


def test_a_single_domain_agrees_with_itself(size: tuple[int, int], device: torch.device) -> None:
    one = planes(1, 2, *size, device=device)
    class_signal, resultant_length = ops.spectral_consensus(one)
    torch.testing.assert_close(class_signal, one[0], **TOLERANCE)
    torch.testing.assert_close(resultant_length, torch.ones_like(resultant_length), **TOLERANCE)


def test_opposite_domains_cancel_exactly(size: tuple[int, int], device: torch.device) -> None:
    one = planes(3, *size, device=device)
    class_signal, resultant_length = ops.spectral_consensus(torch.stack([one, -one]))
    assert torch.equal(resultant_length, torch.zeros_like(resultant_length))
    assert torch.equal(class_signal, torch.zeros_like(class_signal))


def test_scale_passes_through(size: tuple[int, int], device: torch.device) -> None:
    grads = planes(3, 3, *size, device=device)
    expected = ops.spectral_consensus(grads, 0.0)
    for scale in (2.0**-40, 2.0**20):  # powers of two: exact
        class_signal, resultant_length = ops.spectral_consensus(grads * scale, 0.0)
        torch.testing.assert_close(class_signal, expected[0] * scale, rtol=1e-4, atol=1e-5 * scale)
        torch.testing.assert_close(resultant_length, expected[1], **TOLERANCE)


def test_order_of_domains_does_not_matter(size: tuple[int, int], device: torch.device) -> None:
    grads = planes(5, 3, *size, device=device)
    for result, expected in zip(
        ops.spectral_consensus(grads[[3, 0, 4, 2, 1]]), ops.spectral_consensus(grads), strict=True
    ):
        torch.testing.assert_close(result, expected, **TOLERANCE)


def test_resultant_length_is_in_0_1_and_grows_smaller_with_eps(
    size: tuple[int, int], device: torch.device
) -> None:
    grads = planes(3, 3, *size, device=device)
    _, resultant_length = ops.spectral_consensus(grads)
    assert resultant_length.min() >= 0
    assert resultant_length.max() <= 1 + 1e-6
    _, with_eps = ops.spectral_consensus(grads, 10.0)
    assert (with_eps < resultant_length).all()


def test_circular_shift_commutes(size: tuple[int, int], device: torch.device) -> None:
    grads = planes(3, 3, *size, device=device)
    class_signal, resultant_length = ops.spectral_consensus(grads)
    shifted_signal, shifted_length = ops.spectral_consensus(grads.roll((2, 5), (-2, -1)))
    torch.testing.assert_close(shifted_signal, class_signal.roll((2, 5), (-2, -1)), **TOLERANCE)
    torch.testing.assert_close(shifted_length, resultant_length, **TOLERANCE)


def test_consensus_has_no_more_energy_than_the_mean(size: tuple[int, int], device: torch.device) -> None:
    """Parseval with R <= 1, in every plane."""
    grads = planes(3, 6, *size, device=device)
    class_signal, _ = ops.spectral_consensus(grads)
    assert (class_signal.norm(dim=(-2, -1)) <= grads.mean(0).norm(dim=(-2, -1)) * (1 + 1e-6)).all()


def test_alpha_and_beta_zero_is_the_base(size: tuple[int, int], device: torch.device) -> None:
    grads, base = planes(3, 4, 3, *size, device=device), planes(4, 3, *size, device=device, seed=1)
    index = torch.tensor([0, 1, 2, 0], device=device)
    assert torch.equal(ops.spectral_surgery(grads, base, index, 0.0, 0.0), base)
    torch.testing.assert_close(ops.spectral_surgery(grads, None, index, 0.0, 0.0), grads.mean(0), **TOLERANCE)


def test_the_parts_add_up_to_each_domain(size: tuple[int, int], device: torch.device) -> None:
    """With a zero base and alpha = beta = 1: g_cls + g_dom^d = g^d."""
    grads = planes(3, 6, 2, *size, device=device)
    index = torch.tensor([0, 1, 2, 0, 2, 1], device=device)
    update = ops.spectral_surgery(grads, torch.zeros_like(grads[0]), index, 1.0, 1.0)
    torch.testing.assert_close(update, grads[index, torch.arange(6, device=device)], **TOLERANCE)


@pytest.mark.parametrize("eps", [0.0, 1e-12])
def test_zero_gradients_give_zero_not_nan(size: tuple[int, int], eps: float, device: torch.device) -> None:
    grads = torch.zeros(3, 5, *size, device=device)
    grads[:, 3] = 1.0  # a constant plane: all but one of its bins are zero, or rounding of zero
    for result in ops.spectral_consensus(grads, eps):
        assert result.isfinite().all()
        assert torch.equal(result[[0, 1, 2, 4]], torch.zeros_like(result[[0, 1, 2, 4]]))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_bad_plane_spoils_no_other(size: tuple[int, int], poison: float, device: torch.device) -> None:
    case = Surgery.drawn(samples=5, size=size, dtype=torch.float32, device=device, base=True)
    expected_consensus = ops.spectral_consensus(case.domain_grads)
    expected = ops.spectral_surgery(*case.arguments())
    clean_images, clean_buffer = torch.zeros_like(expected), torch.zeros_like(expected)
    ops.spectral_surgery_step_(*case.step_arguments(clean_images, clean_buffer))

    for bad in [(0, 0), (2, 1), (4, 2)]:
        case.domain_grads = case.domain_grads.clone()
        kept = case.domain_grads[(1, *bad, 0, 0)].clone()
        case.domain_grads[(1, *bad, 0, 0)] = poison
        images, buffer = torch.zeros_like(expected), torch.zeros_like(expected)
        ops.spectral_surgery_step_(*case.step_arguments(images, buffer))
        others = torch.ones(5, 3, dtype=torch.bool, device=device)
        others[bad] = False
        consensus = ops.spectral_consensus(case.domain_grads)
        update = ops.spectral_surgery(*case.arguments())
        pairs = [
            (consensus[0], expected_consensus[0]),
            (consensus[1], expected_consensus[1]),
            (update, expected),
            (images, clean_images),
            (buffer, clean_buffer),
        ]
        for result, clean in pairs:
            assert result[bad].isnan().any()
            torch.testing.assert_close(result[others], clean[others], **TOLERANCE)
        case.domain_grads[(1, *bad, 0, 0)] = kept


def test_a_bad_value_in_the_images_or_the_base_stays_where_it_is(
    size: tuple[int, int], device: torch.device
) -> None:
    case = Surgery.drawn(size=size, dtype=torch.float32, device=device, base=True)
    assert case.base_grad is not None
    images, buffer = torch.zeros_like(case.base_grad), torch.zeros_like(case.base_grad)
    images[0, 0, 0, 0] = math.nan
    buffer[1, 0, 0, 0] = math.nan
    case.base_grad[2, 0, 0, 0] = math.nan
    ops.spectral_surgery_step_(*case.step_arguments(images, buffer))
    assert images.isnan().nonzero().tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]]
    assert buffer.isnan().nonzero().tolist() == [[1, 0, 0, 0], [2, 0, 0, 0]]


def test_an_invalid_domain_is_not_read(size: tuple[int, int], device: torch.device) -> None:
    """NaN and huge numbers in invalid cells change nothing."""
    valid = torch.tensor([[True, True, False], [False, True, True], [True, False, True]], device=device)
    case = Surgery.drawn(samples=3, size=size, dtype=torch.float32, device=device)
    case.domain_index = torch.tensor([0, 1, 2], device=device)
    case.domain_valid = valid
    expected = ops.spectral_surgery(*case.arguments())
    for poison in (math.nan, 1e30):
        spoiled = case.domain_grads.clone()
        spoiled[~valid] = poison
        other = Surgery(spoiled, None, case.domain_index, domain_valid=valid)
        assert torch.equal(ops.spectral_surgery(*other.arguments()), expected)


def test_an_invalid_assigned_domain_adds_nothing(size: tuple[int, int], device: torch.device) -> None:
    case = Surgery.drawn(samples=2, size=size, dtype=torch.float32, device=device)
    case.domain_index = torch.tensor([1, 1], device=device)
    case.domain_valid = torch.tensor([[True, True], [False, True], [True, True]], device=device)
    case.domain_grads[1, 0] = math.nan
    update = ops.spectral_surgery(*case.arguments())
    case.beta = 0.0
    without_deviation = ops.spectral_surgery(*case.arguments())
    torch.testing.assert_close(update[0], without_deviation[0], **TOLERANCE)
    assert not torch.allclose(update[1], without_deviation[1])


def test_a_sample_without_any_valid_domain_keeps_its_base(
    size: tuple[int, int], device: torch.device
) -> None:
    case = Surgery.drawn(samples=2, size=size, dtype=torch.float32, device=device)
    case.domain_valid = torch.tensor([[False, True]] * 3, device=device)
    case.domain_grads[:, 0] = math.nan
    update = ops.spectral_surgery(*case.arguments())
    assert torch.equal(update[0], torch.zeros_like(update[0]))
    assert update[1].isfinite().all()
    case.base_grad = planes(2, 3, *size, device=device, seed=9)
    assert torch.equal(ops.spectral_surgery(*case.arguments())[0], case.base_grad[0])


@pytest.mark.parametrize("samples_and_channels", [(0, 3), (2, 0)], ids=str)
def test_empty_batches(
    size: tuple[int, int], samples_and_channels: tuple[int, int], device: torch.device
) -> None:
    shape = (*samples_and_channels, *size)
    grads = torch.empty(3, *shape, device=device)
    index = torch.zeros(samples_and_channels[0], dtype=torch.int64, device=device)
    class_signal, resultant_length = ops.spectral_consensus(grads)
    assert class_signal.shape == shape
    assert resultant_length.shape == (*shape[:-1], size[1] // 2 + 1)
    assert ops.spectral_surgery(grads, None, index, 1.0, 0.3).shape == shape
    empty = torch.empty(shape, device=device)
    ops.spectral_surgery_step_(empty, empty.clone(), grads, None, index, 1.0, 0.3, 0.1, 0.9)


def test_the_same_call_gives_the_same_bits(size: tuple[int, int], device: torch.device) -> None:
    case = Surgery.drawn(samples=7, size=size, dtype=torch.float32, device=device)
    first = ops.spectral_surgery(*case.arguments())
    assert all(torch.equal(ops.spectral_surgery(*case.arguments()), first) for _ in range(5))


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (128, 128)], ids=str)
def test_the_number_of_threads_changes_no_bit_of_the_fused_sizes(size: tuple[int, int]) -> None:
    case = Surgery.drawn(samples=7, size=size, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = ops.spectral_surgery(*case.arguments())
        torch.set_num_threads(2)
        together = ops.spectral_surgery(*case.arguments())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, together)


def test_domain_index_out_of_range_is_nan_on_cuda_for_that_sample_only(
    size: tuple[int, int], cuda: torch.device
) -> None:
    """The CPU raises: see the tests of the messages."""
    case = Surgery.drawn(samples=4, size=size, dtype=torch.float32, device=cuda)
    expected = ops.spectral_surgery(*case.arguments())
    case.domain_index[1], case.domain_index[2] = -1, 3
    update = ops.spectral_surgery(*case.arguments())
    assert update[[1, 2]].isnan().all()
    assert torch.equal(update[[0, 3]], expected[[0, 3]])


# SGS, Appendix B: spectra G^d = M_d exp(i theta_d) with bounded magnitudes independent of the phases. Phases
# are wrapped normal with E exp(i theta) = rho, magnitudes uniform in [0.5, 1.5], so E M = 1, E M^2 = 13/12.
# Seeds are fixed, so the tests are deterministic. Over seeds, a correct operator would fail an assertion of
# five standard errors in less than one of 10^6 draws.

MEAN_SQUARE = 13 / 12


def domains_with_concentration(rho: float, domains: int, seed: int, device: torch.device) -> Tensor:
    """[domains, 4, 64, 64] gradients whose spectra have mean phase 0 and circular concentration rho."""
    generator = torch.Generator().manual_seed(seed)
    shape = (domains, 4, 64, 33)
    if rho > 0:
        phase = torch.randn(shape, generator=generator) * math.sqrt(-2 * math.log(rho))
    else:
        phase = torch.rand(shape, generator=generator) * (2 * math.pi)
    magnitude = torch.rand(shape, generator=generator) + 0.5
    return torch.fft.irfft2(torch.polar(magnitude, phase), s=(64, 64)).to(device)


def free_bins(half_spectrum: Tensor) -> Tensor:
    """Without the two columns whose bins the symmetry of a real signal's spectrum ties to each other."""
    return half_spectrum[..., 1:32].double()


@pytest.mark.parametrize("rho", [0.9, 0.6, 0.3])
def test_agreement_tends_to_the_circular_concentration(rho: float, device: torch.device) -> None:
    biases = []
    for domains in (16, 64, 256):
        _, resultant_length = ops.spectral_consensus(domains_with_concentration(rho, domains, 1, device))
        bins = free_bins(resultant_length)
        bias = MEAN_SQUARE / (
            2 * rho * domains
        )  # the modulus of a mean exceeds the mean by its variance over twice its size
        standard_error = bins.std().item() / math.sqrt(bins.numel())
        biases.append(abs(bins.mean().item() - rho))
        assert biases[-1] <= bias + 5 * standard_error
    assert biases[-1] < 0.02


def test_agreement_on_noise_decays_as_one_over_the_number_of_domains(device: torch.device) -> None:
    for domains in (16, 64, 256):
        class_signal, resultant_length = ops.spectral_consensus(
            domains_with_concentration(0.0, domains, 2, device)
        )
        consensus = free_bins(torch.fft.rfft2(class_signal.double()).abs())
        # |R Gbar| = |sum|^2 / (D sum M), where |sum|^2 / D tends to an exponential law with mean E M^2; the
        # rest is of relative size 1 / D.
        mean = consensus.mean().item() * domains
        tolerance = MEAN_SQUARE * (5 / math.sqrt(consensus.numel()) + 1 / domains)
        assert abs(mean - MEAN_SQUARE) <= tolerance
        square = free_bins(resultant_length).square().mean().item() * domains
        assert abs(square - MEAN_SQUARE) <= tolerance


def test_full_concentration_recovers_the_signal(device: torch.device) -> None:
    """rho = 1: the same phases in every domain, whatever the magnitudes."""
    generator = torch.Generator().manual_seed(3)
    signal = torch.fft.rfft2(torch.randn(4, 64, 64, generator=generator, dtype=torch.float64))
    magnitudes = torch.rand(8, 4, 64, 33, generator=generator, dtype=torch.float64) + 0.5
    magnitudes[..., [0, 32]] = 1.0  # keeps the tied bins symmetric
    grads = torch.fft.irfft2(signal * magnitudes, s=(64, 64)).float().to(device)
    class_signal, resultant_length = ops.spectral_consensus(grads)
    torch.testing.assert_close(class_signal, grads.mean(0), **TOLERANCE)
    torch.testing.assert_close(resultant_length, torch.ones_like(resultant_length), rtol=1e-3, atol=1e-3)
