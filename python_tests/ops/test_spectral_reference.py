"""The specification in dgdd_fast.ops.reference against the definitions: full Fourier transforms and loops."""

import pytest
import torch
from spectral_cases import Surgery, random

from dgdd_fast.ops import reference


def test_consensus_is_equations_7_to_10() -> None:
    grads = random(3, 2, 5, 6)
    eps = 1e-3
    spectra = torch.fft.fft2(grads)
    resultant_length = spectra.sum(0).abs() / (spectra.abs().sum(0) + eps)
    signal = torch.fft.ifft2(resultant_length * spectra.mean(0))

    class_signal, half = reference.spectral_consensus(grads, eps)

    assert signal.imag.abs().max() < 1e-15
    torch.testing.assert_close(class_signal, signal.real)
    torch.testing.assert_close(half, resultant_length[..., :4])


@pytest.mark.parametrize("weighted_deviation", [True, False])
@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("valid", [True, False])
def test_surgery_is_equation_11_sample_by_sample(weighted_deviation: bool, base: bool, valid: bool) -> None:
    case = Surgery.drawn(samples=9, base=base, valid=valid, weighted_deviation=weighted_deviation)
    update = reference.spectral_surgery(*case.arguments())
    for sample in range(9):
        kept = [d for d in range(3) if case.domain_valid is None or case.domain_valid[d, sample]]
        grads = case.domain_grads[:, sample]
        assigned = int(case.domain_index[sample])
        if kept:
            mean = grads[kept].mean(0)
            class_signal, _ = reference.spectral_consensus(grads[kept], case.eps)
        else:
            mean = class_signal = torch.zeros_like(grads[0])
        expected = mean if case.base_grad is None else case.base_grad[sample]
        expected = expected + case.alpha * class_signal
        if assigned in kept:
            expected = expected + case.beta * (
                grads[assigned] - (class_signal if weighted_deviation else mean)
            )
        torch.testing.assert_close(update[sample], expected)


def test_step_is_sgd_with_momentum() -> None:
    case = Surgery.drawn()
    images = random(4, 3, 6, 7, seed=7).requires_grad_()
    expected = images.detach().clone()
    buffer = torch.zeros_like(expected)
    optimiser = torch.optim.SGD([images], lr=0.7, momentum=0.9)
    for _ in range(3):
        images.grad = reference.spectral_surgery(*case.arguments())
        optimiser.step()
        reference.spectral_surgery_step_(*case.step_arguments(expected, buffer))
    torch.testing.assert_close(expected, images.detach())
