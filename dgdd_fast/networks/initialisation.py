"""Filling a network afresh, reproducibly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .library import LibraryNetwork
from .network import Network

_NORMALISATIONS = (nn.GroupNorm, nn.BatchNorm2d, nn.InstanceNorm2d, nn.LayerNorm)


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
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                for parameter, values in _drawn(network, module, generator):
                    parameter.copy_(values)
            elif isinstance(module, _NORMALISATIONS):
                module.reset_parameters()
            elif _has_own(module):
                own = getattr(module, "initialise", None)
                if not callable(own):
                    kind = type(module).__name__
                    raise TypeError(
                        f"no initialisation is defined for {kind}; give it a method initialise(generator)"
                    )
                own(generator)


def is_drawn_by_rule(network: nn.Module) -> bool:
    """Whether no layer draws in its own way, so that `drawn_parameters` are all that `initialise` draws."""
    if isinstance(network, LibraryNetwork):
        return False
    known = (nn.Conv2d, nn.Linear, *_NORMALISATIONS)
    return all(isinstance(module, known) or not _has_own(module) for module in network.modules())


def drawn_parameters(network: nn.Module, generator: torch.Generator) -> list[Tensor]:
    """What `initialise` would draw in a network that `is_drawn_by_rule`, for `fill_parameters`, on the
    generator's device; the network stays as it is."""
    return [values for layer in _layers(network) for _, values in _drawn(network, layer, generator)]


@torch.no_grad()
def fill_parameters(network: nn.Module, drawn: Sequence[Tensor]) -> None:
    """Fill in what `drawn_parameters` drew, wherever it is; normalisations are taken to be as they were
    built."""
    parameters = [parameter for layer in _layers(network) for parameter in _refilled(network, layer)]
    torch._foreach_copy_(parameters, list(drawn))


def _layers(network: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """Those whose parameters are drawn."""
    return (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear))


def _drawn(
    network: nn.Module, layer: nn.Conv2d | nn.Linear, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter of a layer, and new values for it."""
    outputs, inputs, *window = layer.weight.shape
    for parameter in _refilled(network, layer):
        values = torch.empty(parameter.shape, device=generator.device)
        if _is_he_normal(network, layer):
            deviation = math.sqrt(2 / math.prod((outputs, *window)))
            yield parameter, values.normal_(0, deviation, generator=generator)
        else:
            bound = 1 / math.sqrt(math.prod((inputs, *window)))
            yield parameter, values.uniform_(-bound, bound, generator=generator)


def _refilled(network: nn.Module, layer: nn.Conv2d | nn.Linear) -> list[Tensor]:
    if layer.bias is None or _is_he_normal(network, layer):
        return [layer.weight]
    return [layer.weight, layer.bias]


def _is_he_normal(network: nn.Module, layer: nn.Module) -> bool:
    return isinstance(network, Network) and network.he_normal and isinstance(layer, nn.Conv2d)


def _has_own(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None
