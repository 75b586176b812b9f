"""Inputs of `conv3x3`."""

import torch
from masking_cases import channels_last_copy
from torch import Tensor


def drawn(
    samples: int, channels: int, results: int, height: int, width: int, seed: int = 0, grads: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """x of mean 1 and deviation 2, channels last; weights as a network draws them; biases about 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    x = channels_last_copy(1 + 2 * normal(samples, channels, height, width))
    tensors = x, normal(results, channels, 3, 3) / (9 * channels) ** 0.5, normal(results)
    return tuple(tensor.requires_grad_(grads) for tensor in tensors)


def following(results: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of the normalisation that follows."""
    generator = torch.Generator().manual_seed(2)
    weight, bias = (torch.randn(results, generator=generator) for _ in range(2))
    return 1 + 0.3 * weight, 0.3 * bias
