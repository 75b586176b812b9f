"""The images that a run begins with, which are all that a coreset is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..config import DistillSettings, EvaluateConfig
from ..data import DomainDataset, normalise
from ..networks import Network
from ..seeds import derive_seed
from ..synthetic.coresets import herded_rows
from ..synthetic.crops import Observer, chosen_crops
from ..synthetic.initial import initial_rows, initial_tiles
from ..synthetic.mosaics import reduce
from ..synthetic.soft_labels import predicted_labels
from ..training import resolve_training, train_network


class Start(NamedTuple):
    """What is optimised: the tiles of the images; without mosaics, a tile is an image.

    Attributes:
        tiles: float32 [N, 3, h, w], normalised, class by class.
        assigned: int64 [K, T], the domain of each.
        soft_labels: float32 [N, K], what a network predicts for each; None: their classes are all there is.
    """

    tiles: Tensor
    assigned: Tensor
    soft_labels: Tensor | None = None


def initial_start(
    sources: DomainDataset,
    assigned: Tensor,
    config: DistillSettings,
    mean: Tensor,
    std: Tensor,
    device: torch.device,
) -> Start:
    """Real images or noise, as `config.init` says; the domains are those `assigned`."""
    return Start(initial_tiles(sources, assigned, config, mean, std), assigned)


def random_start(
    sources: DomainDataset,
    assigned: Tensor,
    config: DistillSettings,
    mean: Tensor,
    std: Tensor,
    device: torch.device,
) -> Start:
    """The same for images that are kept: those drawn whatever their domain are assigned their own."""
    tiles = initial_tiles(sources, assigned, config, mean, std)
    if config.init == "random":
        assigned = sources.domains[initial_rows(sources, assigned, config)].reshape(assigned.shape)
    return Start(tiles, assigned)


def herded_start(
    sources: DomainDataset,
    assigned: Tensor,
    config: DistillSettings,
    mean: Tensor,
    std: Tensor,
    device: torch.device,
) -> Start:
    """What herding chooses in the features of a network trained on the sources."""
    network = _observer("herding", sources, config, mean, std, device)
    rows = herded_rows(sources, network, assigned, config.init == "uniform", mean, std)
    tiles = reduce(normalise(sources.images[rows], mean, std), config.factor)
    return Start(tiles, sources.domains[rows].reshape(assigned.shape))


def cropped_start(
    sources: DomainDataset,
    assigned: Tensor,
    config: DistillSettings,
    mean: Tensor,
    std: Tensor,
    device: torch.device,
) -> Start:
    """The crops that a network trained on the sources is surest of (RDED), and what it takes them for."""
    network = _observer("rded", sources, config, mean, std, device)
    chosen = chosen_crops(
        sources,
        Observer(network, mean, std),
        assigned,
        balanced=config.init == "uniform",
        factor=config.factor,
        crops=config.crops,
        seed=config.seed,
    )
    soft = predicted_labels(network, chosen.tiles, config.factor) if config.soft_labels else None
    return Start(chosen.tiles, sources.domains[chosen.rows].reshape(assigned.shape), soft)


def _observer(
    name: str,
    sources: DomainDataset,
    config: DistillSettings,
    mean: Tensor,
    std: Tensor,
    device: torch.device,
) -> Network:
    """A network trained on the sources with the evaluation's settings; `name` tells its seed from others."""
    training = EvaluateConfig(
        epochs=config.herding_epochs,
        network=config.network,
        augment=config.augment,
        precision=config.precision,
        seed=derive_seed(config.seed, name),
    )
    settings = resolve_training(training, sources.resolution, sources.flip_safe)
    return train_network(
        sources.images, sources.labels, sources.num_classes, settings, mean=mean, std=std, device=device
    )
