"""Filling a network afresh, reproducibly."""

from __future__ import annotations

import math

import torch
from torch import nn

from .resnet import ResNet


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Refill every parameter in place with a draw from the network's usual initialisation.

    Convolutions of a ResNet: normal with variance 2 / fan_out (He et al., 2015); other convolutions and
    linear layers: weight and bias uniform in +-1/sqrt(fan_in), PyTorch's default; normalisations: weight 1,
    bias 0, running statistics reset. The values depend on the generator only, not on the network's device.
    Raises TypeError for a network with layers of another kind.
    """
    he_normal = isinstance(network, ResNet)
    with torch.no_grad():
        for module in network.modules():
            if he_normal and isinstance(module, nn.Conv2d):
                fan_out = module.weight[:, 0].numel()
                draw = torch.empty(module.weight.shape, device=generator.device)
                module.weight.copy_(draw.normal_(0, math.sqrt(2 / fan_out), generator=generator))
            elif isinstance(module, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(module.weight[0].numel())
                for parameter in (module.weight, module.bias):
                    if parameter is not None:
                        draw = torch.empty(parameter.shape, device=generator.device)
                        parameter.copy_(draw.uniform_(-bound, bound, generator=generator))
            elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
                module.reset_parameters()
            elif next(module.parameters(recurse=False), None) is not None:
                raise TypeError(f"no initialisation is defined for {type(module).__name__}")
