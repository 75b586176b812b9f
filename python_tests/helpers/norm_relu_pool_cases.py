"""Inputs of `norm_relu_pool`."""

import pytest
import torch
from masking_cases import channels_last_copy
from torch import Tensor

LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])


def drawn(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    channels_last: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """x of mean 1 and deviation 2, weights about 1, biases about 0; all of them require a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64)

    x = 1 + 2 * normal(*shape)
    weight, bias = 1 + 0.3 * normal(shape[1]), 0.3 * normal(shape[1])
    x, weight, bias = (tensor.to(dtype).to(device) for tensor in (x, weight, bias))
    if channels_last:
        x = channels_last_copy(x)
    return tuple(tensor.requires_grad_() for tensor in (x, weight, bias))
