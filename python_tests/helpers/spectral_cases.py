"""Arguments and error measures that the tests of the spectral operators share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Squares, one pixel, a row, a column, even, odd, prime, rectangular, and widths with a large prime factor.
SIZES = [
    (32, 32),
    (64, 64),
    (128, 128),
    (64, 128),
    (128, 64),
    (1, 1),
    (1, 7),
    (5, 1),
    (2, 2),
    (3, 5),
    (7, 6),
    (33, 31),
    (32, 64),
    (37, 53),
    (8, 34),
    (1, 17),
]


def random(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
) -> Tensor:
    """Standard normal numbers, the same for every dtype and device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).to(device)


@dataclass
class Surgery:
    """The arguments of one call of spectral_surgery or spectral_surgery_step_."""

    domain_grads: Tensor
    base_grad: Tensor | None
    domain_index: Tensor
    alpha: float = 1.3
    beta: float = 0.4
    eps: float = 1e-12
    weighted_deviation: bool = True
    domain_valid: Tensor | None = None

    @classmethod
    def drawn(
        cls,
        domains: int = 3,
        samples: int = 4,
        channels: int = 3,
        size: tuple[int, int] = (6, 7),
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        base: bool = False,
        valid: bool = False,
        weighted_deviation: bool = True,
        seed: int = 0,
    ) -> Surgery:
        """Domain gradients with a common part, so that the agreement covers all of (0, 1)."""
        shape = (samples, channels, *size)
        common = random(1, *shape, seed=seed)
        grads = (common + random(domains, *shape, seed=seed + 1)).to(dtype).to(device)
        generator = torch.Generator().manual_seed(seed + 2)
        mask = torch.rand(domains, samples, generator=generator) < 0.7
        return cls(
            domain_grads=grads,
            base_grad=random(*shape, seed=seed + 3, dtype=dtype, device=device) if base else None,
            domain_index=torch.randint(domains, (samples,), generator=generator).to(device),
            weighted_deviation=weighted_deviation,
            domain_valid=mask.to(device) if valid else None,
        )

    def arguments(self) -> tuple[object, ...]:
        """In the order of spectral_surgery."""
        return (
            self.domain_grads,
            self.base_grad,
            self.domain_index,
            self.alpha,
            self.beta,
            self.eps,
            self.weighted_deviation,
            self.domain_valid,
        )

    def step_arguments(
        self, images: Tensor, buffer: Tensor, lr: float = 0.7, momentum: float = 0.9
    ) -> tuple[object, ...]:
        """In the order of spectral_surgery_step_."""
        return (
            images,
            buffer,
            *self.arguments()[:5],
            lr,
            momentum,
            *self.arguments()[5:],
        )

    def widened(self) -> Surgery:
        """The same numbers in float64."""
        return Surgery(
            self.domain_grads.double(),
            None if self.base_grad is None else self.base_grad.double(),
            self.domain_index,
            self.alpha,
            self.beta,
            self.eps,
            self.weighted_deviation,
            self.domain_valid,
        )


def relative_error(result: Tensor, truth: Tensor) -> float:
    """The L2 norm of the error over that of the truth (absolute where the truth is 0)."""
    norm = truth.double().norm().item()
    return (result.double() - truth.double()).norm().item() / (norm or 1.0)


def assert_as_accurate(
    result: Tensor, same_dtype_reference: Tensor, truth: Tensor, roundings: float = 2
) -> None:
    """At most twice the error of PyTorch in the same dtype, or two roundings where that is exact by luck."""
    assert result.dtype == same_dtype_reference.dtype
    assert result.shape == truth.shape
    floor = torch.finfo(result.dtype).eps
    if result.dtype == torch.float64:  # the truth has rounding errors of its own
        floor *= 4
    error = relative_error(result, truth)
    allowed = max(2 * relative_error(same_dtype_reference, truth), roundings * floor)
    assert error <= allowed, f"relative error {error:.2e}, allowed {allowed:.2e}"


def check_consensus(grads: Tensor) -> None:
    results = ops.spectral_consensus(grads)
    same_dtype = reference.spectral_consensus(grads)
    truth = reference.spectral_consensus(grads.double())
    for result, reference_result, true_result in zip(results, same_dtype, truth, strict=True):
        assert result.is_contiguous()
        assert_as_accurate(result, reference_result, true_result)


def check_surgery(case: Surgery) -> None:
    truth = reference.spectral_surgery(*case.widened().arguments())
    assert_as_accurate(
        ops.spectral_surgery(*case.arguments()), reference.spectral_surgery(*case.arguments()), truth
    )


def check_step(case: Surgery) -> None:
    """Two steps from random images and a random buffer."""
    shape = case.domain_grads.shape[1:]
    dtype, device = case.domain_grads.dtype, case.domain_grads.device

    def stepped(case: Surgery, step: Callable[..., None], as_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        images = random(*shape, seed=11, dtype=dtype, device=device).to(as_dtype)
        buffer = random(*shape, seed=12, dtype=dtype, device=device).to(as_dtype)
        for _ in range(2):
            step(*case.step_arguments(images, buffer))
        return images, buffer

    results = stepped(case, ops.spectral_surgery_step_, dtype)
    same_dtype = stepped(case, reference.spectral_surgery_step_, dtype)
    truth = stepped(case.widened(), reference.spectral_surgery_step_, torch.float64)
    for result, reference_result, true_result in zip(results, same_dtype, truth, strict=True):
        assert_as_accurate(result, reference_result, true_result)
