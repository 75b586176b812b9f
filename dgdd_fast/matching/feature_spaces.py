"""Where real and synthetic images are compared: the features that an objective takes."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, Protocol

from torch import Tensor

from ..config import DistillSettings
from ..data.real_images import RealImages
from ..generalization.fact import draw_partners, mix_normalised
from ..networks import Network, StagedNetwork, build_network, build_staged_network
from ..plans import OnHost
from ..seeds import generator
from .batches import RealBatch
from .fresh_network import AnyNetwork, FreshNetwork, NetworkPlan
from .losses.attention import attention_vector


class FeatureSpace(Protocol):
    """Where real and synthetic images are compared, another one each iteration."""

    @property
    def network(self) -> Network:
        """What computes the features, frozen, from each image by itself."""

    def plan(self, iteration: int, batch: RealBatch) -> Any:
        """What `iteration` draws for its features, on the host and in any thread; `batch` are its real
        images."""

    def prepare(self, plan: Any) -> None:
        """Called before an iteration, with the numbers of its `plan` on the device."""

    def synthetic(self, images: Tensor, rows: slice) -> Tensor:
        """The features [n, F] of those synthetic images [n, 3, H, W] that are `rows` of all."""

    def real(self, images: Tensor, rows: slice) -> Tensor:
        """The features of those real images that are `rows` of the B."""


class _Fresh(Generic[AnyNetwork]):
    """A network that every iteration draws anew, whatever is taken of it."""

    def __init__(self, network: AnyNetwork, seed: int) -> None:
        self.fresh = FreshNetwork(network, seed)
        self.network = self.fresh.network

    def plan(self, iteration: int, batch: RealBatch) -> NetworkPlan:
        return self.fresh.plan(iteration)

    def prepare(self, plan: NetworkPlan) -> None:
        self.fresh.fill(plan)


class RandomNetwork(_Fresh[Network]):
    """The features of DM: those of a freshly initialised network."""

    def __init__(self, real: RealImages, config: DistillSettings) -> None:
        network = build_network(real.num_classes, real.resolution, config.network)
        super().__init__(network.to(real.device), config.seed)

    def synthetic(self, images: Tensor, rows: slice) -> Tensor:
        return self.network.features(images)

    def real(self, images: Tensor, rows: slice) -> Tensor:
        return self.network.features(images)


class RandomAttention(_Fresh[StagedNetwork]):
    """What DataDAM compares, in a freshly initialised network with stages: attention maps and features."""

    def __init__(self, real: RealImages, config: DistillSettings) -> None:
        self.power = config.attention_power
        network = build_staged_network(real.num_classes, real.resolution, config.network)
        super().__init__(network.to(real.device), config.seed)

    def synthetic(self, images: Tensor, rows: slice) -> Tensor:
        activations, features = self.network.activations(images)
        return attention_vector(activations[:-1], features, self.power)

    def real(self, images: Tensor, rows: slice) -> Tensor:
        return self.synthetic(images, rows)


class MixPlan(NamedTuple):
    """For each real and each synthetic image a partner and the share of its amplitude; the plan of the space
    behind."""

    of_real: tuple[Tensor | OnHost, Tensor]
    of_synthetic: tuple[Tensor | OnHost, Tensor]
    space: Any


class MixedAmplitudes:
    """Another feature space, of images whose amplitude spectra are mixed with those of real images of any
    domain: FACT's augmentation in distillation (CADM, Section 4)."""

    def __init__(
        self, space: FeatureSpace, real: RealImages, synthetic: int, config: DistillSettings
    ) -> None:
        """`synthetic` is the number of synthetic images."""
        self.space, self.of, self.count, self.seed = space, real, synthetic, config.seed

    @property
    def network(self) -> Network:
        return self.space.network

    def plan(self, iteration: int, batch: RealBatch) -> MixPlan:
        random = generator(self.seed, "fact", iteration)
        domains = self.of.domains_on_cpu
        draws = []
        for count in (len(batch.cells), self.count):
            partner, share = draw_partners(count, domains, random, domains.device)
            draws.append((self.of.rows(partner), share))
        return MixPlan(draws[0], draws[1], self.space.plan(iteration, batch))

    def prepare(self, plan: MixPlan) -> None:
        self.mixes = plan
        self.space.prepare(plan.space)

    def synthetic(self, images: Tensor, rows: slice) -> Tensor:
        return self.space.synthetic(self._mixed(images, rows, self.mixes.of_synthetic), rows)

    def real(self, images: Tensor, rows: slice) -> Tensor:
        return self.space.real(self._mixed(images, rows, self.mixes.of_real), rows)

    def _mixed(self, images: Tensor, rows: slice, draws: tuple[Any, Tensor]) -> Tensor:
        partner, share = (part[rows] for part in draws)
        partners = self.of.take(partner)
        return mix_normalised(images, partners, share, self.of.mean, self.of.std)
