"""Pseudo-domains where there are no domain labels: clusters of images that look alike in style (SGS, Appendix
C).

An image's style is the mean and the standard deviation of every channel after every block of a random
ConvNet. That network has no normalisation layers, which would take away what is to be measured.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from ..config import DistillConfig, NetworkConfig
from ..extras import extra
from ..networks import ConvNet, initialise, rows_per_chunk
from ..seeds import derive_seed, generator
from ..steps import counted
from .dataset import DomainDataset, normalise
from .image_rows import chunks

_STARTS = 10  # of K-means


def apply_pseudo_domains(
    sources: DomainDataset, config: DistillConfig, device: torch.device
) -> DomainDataset:
    """`sources` with the domains that a run takes them to have: their own, or the styles it asks for."""
    if config.pseudo_domains is None:
        return sources
    return with_pseudo_domains(sources, config.pseudo_domains, config.network, config.seed, device)


def with_pseudo_domains(
    sources: DomainDataset, count: int, network: NetworkConfig, seed: int, device: torch.device | None = None
) -> DomainDataset:
    """`sources` with its domains replaced by at most `count` clusters of style, the largest first.

    K-means on the style statistics, each standardised over the images, with ten starts. Classes play no part,
    so a cluster may lack some. There are fewer than `count` clusters where fewer images differ; scikit-learn
    then warns.

    Args:
        sources: whatever domains it has are forgotten.
        count: clusters to look for.
        network: width and depth of the ConvNet; the other settings are not used.
        seed: of the ConvNet and of K-means.
        device: where the ConvNet runs.

    Raises ValueError for a count below one or above the number of images.
    """
    if not 1 <= count <= len(sources):
        raise ValueError(
            f"the number of pseudo-domains must be in 1..{len(sources)}, the number of images, got {count}"
        )
    with extra("report", "looking for pseudo-domains"):
        from sklearn.cluster import KMeans  # slow to import, and not needed elsewhere

    style = style_statistics(sources, network, seed, device).double()
    style = (style - style.mean(0)) / style.std(0, correction=0).clamp_min(1e-12)
    # The starts one by one, each from where the random numbers of the one before end: so they can be told.
    random = np.random.RandomState(derive_seed(seed, "pseudo-domains", "k-means") % 2**32)
    fits = [
        KMeans(count, n_init=1, random_state=random).fit(style.numpy())
        for _ in counted("looking for styles", range(_STARTS))
    ]
    best = min(fits, key=lambda means: float(means.inertia_))
    _, found, sizes = np.unique(best.labels_, return_inverse=True, return_counts=True)
    rank = np.empty_like(sizes)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return dataclasses.replace(
        sources,
        domains=torch.from_numpy(rank[found]).to(sources.images.device),
        domain_names=tuple(f"style{number}" for number in range(1, len(sizes) + 1)),
    )


@torch.inference_mode()
def style_statistics(
    sources: DomainDataset, network: NetworkConfig, seed: int, device: torch.device | None = None
) -> Tensor:
    """float32 [N, 2 * width * depth]: mean and standard deviation over the pixels of each channel, block
    after block of a random ConvNet without normalisation layers."""
    device = device or torch.device("cpu")
    convnet = style_network(sources.resolution, network, seed).to(device)
    mean, std = sources.channel_statistics()
    parts = chunks(sources.images, "measuring styles", rows_per_chunk(convnet, device))
    return torch.cat([style_of(convnet, normalise(part.to(device), mean, std)).cpu() for part in parts])


def style_network(resolution: tuple[int, int], network: NetworkConfig, seed: int) -> ConvNet:
    """The random ConvNet without normalisation layers, with the width and depth of `network`."""
    config = dataclasses.replace(network, architecture="convnet", norm="none")
    convnet = ConvNet(1, resolution, config)  # a class is the least there is; its classifier is not used
    initialise(convnet, generator(seed, "pseudo-domains", "network"))
    return convnet


@torch.inference_mode()
def style_of(convnet: ConvNet, images: Tensor) -> Tensor:
    """The style statistics [N, 2 * width * depth] of normalised images [N, 3, H, W]."""
    maps, statistics = images, []
    for block in convnet.stages:
        maps = block(maps)
        statistics += [maps.mean((2, 3)), maps.std((2, 3), correction=0)]
    return torch.cat(statistics, 1)
