"""Filling a network afresh, reproducibly."""

from __future__ import annotations

import math

import torch
from torch import nn

from .library import LibraryNetwork
from .network import Network


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Refill every parameter in place with a draw from the network's usual initialisation.

    Convolutions of a network with `he_normal`: normal with variance 2 / fan_out (He et al., 2015); other
    convolutions and linear layers: weight and bias uniform in +-1/sqrt(fan_in), PyTorch's default;
    normalisations: weight 1, bias 0, running statistics reset. A layer of your own that has other parameters
    has a method ``initialise(generator)`` that refills them. The values depend on the generator only, not on
    the network's device. Networks of a library are drawn as it does. Raises TypeError for another layer.
    """
    if isinstance(network, LibraryNetwork):
        network.draw(generator)
        return
    he_normal = isinstance(network, Network) and network.he_normal
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
            elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d | nn.InstanceNorm2d | nn.LayerNorm):
                module.reset_parameters()
            elif next(module.parameters(recurse=False), None) is not None:
                own = getattr(module, "initialise", None)
                if not callable(own):
                    kind = type(module).__name__
                    raise TypeError(
                        f"no initialisation is defined for {kind}; give it a method initialise(generator)"
                    )
                own(generator)
