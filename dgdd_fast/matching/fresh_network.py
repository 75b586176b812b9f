"""A network that every iteration draws anew."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from ..networks import Network, drawn_parameters, fill_parameters, initialise
from ..plans import Aside
from ..seeds import generator

AnyNetwork = TypeVar("AnyNetwork", bound=Network)


class NetworkPlan(NamedTuple):
    """The parameters of an iteration; None for a network whose layers draw them in their own way."""

    iteration: Aside
    parameters: list[Tensor] | None


class FreshNetwork(Generic[AnyNetwork]):
    """`network`, frozen, with the parameters that the iteration draws in the run with `seed`."""

    def __init__(self, network: AnyNetwork, seed: int) -> None:
        self.network: AnyNetwork = network.requires_grad_(False)
        self.seed = seed

    def plan(self, iteration: int) -> NetworkPlan:
        """On the host, in any thread."""
        random = generator(self.seed, "network", iteration)
        return NetworkPlan(Aside(iteration), drawn_parameters(self.network, random))

    def fill(self, plan: NetworkPlan) -> None:
        if plan.parameters is None:
            initialise(self.network, generator(self.seed, "network", plan.iteration.value))
        else:
            fill_parameters(self.network, plan.parameters)
