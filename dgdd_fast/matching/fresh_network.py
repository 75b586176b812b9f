"""A network that every iteration draws anew."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..networks import Network, drawn_parameters, fill_parameters, initialise, is_drawn_by_rule
from ..plans import Aside
from ..seeds import generator

MOST_ON_HOST = 1_000_000  # numbers, for which threads of the host keep up with a GPU
AnyNetwork = TypeVar("AnyNetwork", bound=Network)


class NetworkPlan(NamedTuple):
    """The parameters of an iteration, where the host draws them ahead; None where they are drawn when the
    network is filled."""

    iteration: Aside
    parameters: list[Tensor] | None


class FreshNetwork(Generic[AnyNetwork]):
    """`network`, frozen, with the parameters that the iteration draws in the run with `seed`.

    The host draws them, to the same numbers for every device, and ahead of a GPU in threads, of which one
    takes 0.2 s for the 11 million of a ResNet-18, as long as a GPU needs for many iterations. So a GPU draws
    those of large networks by itself: from the same seed, but to numbers of its own.
    """

    def __init__(self, network: AnyNetwork, seed: int) -> None:
        self.network: AnyNetwork = network.requires_grad_(False)
        self.seed = seed
        self.by_rule = is_drawn_by_rule(network)
        device = network.classifier.weight.device
        count = sum(parameter.numel() for parameter in network.parameters())
        self.drawn_ahead = self.by_rule and (device.type == "cpu" or count <= MOST_ON_HOST)
        self.drawn_on = device if self.by_rule and not self.drawn_ahead else torch.device("cpu")

    def plan(self, iteration: int) -> NetworkPlan:
        """On the host, in any thread."""
        return NetworkPlan(Aside(iteration), self._draw(iteration) if self.drawn_ahead else None)

    def fill(self, plan: NetworkPlan) -> None:
        """Queues it on the network's device, and waits for nothing if `by_rule`."""
        iteration = plan.iteration.value
        if self.by_rule:
            drawn = self._draw(iteration) if plan.parameters is None else plan.parameters
            fill_parameters(self.network, drawn)
        else:
            initialise(self.network, self._random(iteration))

    def _draw(self, iteration: int) -> list[Tensor]:
        return drawn_parameters(self.network, self._random(iteration))

    def _random(self, iteration: int) -> torch.Generator:
        return generator(self.seed, "network", iteration, device=self.drawn_on)
