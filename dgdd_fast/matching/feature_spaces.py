"""Where real and synthetic images are compared: the features that an objective takes."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..config import DistillSettings
from ..data.real_images import RealImages
from ..generalization.fact import draw_partners, mix_normalised
from ..networks import Network, build_network, build_staged_network, initialise
from ..seeds import generator
from .losses.attention import attention_vector


class FeatureSpace(Protocol):
    """Where real and synthetic images are compared, another one each iteration."""

    @property
    def network(self) -> Network:
        """What computes the features, frozen, from each image by itself."""

    def prepare(self, iteration: int, real_domains: Tensor) -> None:
        """Draws the features of `iteration`, for real images of the domains int64 [B]."""

    def synthetic(self, images: Tensor, rows: slice) -> Tensor:
        """The features [n, F] of those synthetic images [n, 3, H, W] that are `rows` of all."""

    def real(self, images: Tensor, rows: slice) -> Tensor:
        """The features of those real images that are `rows` of the B."""


class RandomNetwork:
    """The features of DM: those of a freshly initialised network."""

    def __init__(self, real: RealImages, config: DistillSettings) -> None:
        self.seed = config.seed
        self.network = build_network(real.num_classes, real.resolution, config.network).to(real.device)
        self.network.requires_grad_(False)

    def prepare(self, iteration: int, real_domains: Tensor) -> None:
        initialise(self.network, generator(self.seed, "network", iteration))

    def synthetic(self, images: Tensor, rows: slice) -> Tensor:
        return self.network.features(images)

    def real(self, images: Tensor, rows: slice) -> Tensor:
        return self.network.features(images)


class RandomAttention:
    """What DataDAM compares, in a freshly initialised network with stages: attention maps and features."""

    def __init__(self, real: RealImages, config: DistillSettings) -> None:
        self.seed, self.power = config.seed, config.attention_power
        network = build_staged_network(real.num_classes, real.resolution, config.network)
        self.network = network.to(real.device).requires_grad_(False)

    def prepare(self, iteration: int, real_domains: Tensor) -> None:
        initialise(self.network, generator(self.seed, "network", iteration))

    def synthetic(self, images: Tensor, rows: slice) -> Tensor:
        activations, features = self.network.activations(images)
        return attention_vector(activations[:-1], features, self.power)

    def real(self, images: Tensor, rows: slice) -> Tensor:
        return self.synthetic(images, rows)


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

    def prepare(self, iteration: int, real_domains: Tensor) -> None:
        self.space.prepare(iteration, real_domains)
        random = generator(self.seed, "fact", iteration)
        domains = self.of.domains_on_cpu
        self.of_real = draw_partners(len(real_domains), domains, random, domains.device)
        self.of_synthetic = draw_partners(self.count, domains, random, domains.device)

    def synthetic(self, images: Tensor, rows: slice) -> Tensor:
        return self.space.synthetic(self._mixed(images, rows, self.of_synthetic), rows)

    def real(self, images: Tensor, rows: slice) -> Tensor:
        return self.space.real(self._mixed(images, rows, self.of_real), rows)

    def _mixed(self, images: Tensor, rows: slice, draws: tuple[Tensor, Tensor]) -> Tensor:
        partner, share = (part[rows] for part in draws)
        partners = self.of.take(partner)
        return mix_normalised(images, partners, share, self.of.mean, self.of.std)
