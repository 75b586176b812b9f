"""Real and synthetic images by style in the plane (SGS, Figure 3; CADM, Figure 3a)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import NetworkConfig
from ..data import DomainDataset, normalise
from ..data.pseudo_domains import style_network, style_of
from ..extras import extra
from ..seeds import generator
from ..synthetic.distilled_set import DistilledSet

with extra("report", "drawing styles"):
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA

REAL_PER_DOMAIN = 150
STYLE_NETWORK = NetworkConfig(width=32)  # a picture needs no more
PANELS_IN_A_ROW = 3

Points = NDArray[np.float64]


def projection(seed: int = 0) -> tuple[str, Any]:
    """How styles are projected to the plane: "UMAP" where umap-learn is installed, else "PCA", and the
    estimator."""
    try:
        import umap
    except ImportError:
        return "PCA", PCA(2, random_state=seed)
    return "UMAP", umap.UMAP(n_components=2, random_state=seed, n_jobs=1)


def feature_figure(dataset: DomainDataset, sets: Mapping[str, DistilledSet], held_out: str | None) -> Figure:
    """A panel for each set: real images of every domain as dots, the synthetic ones as stars, coloured by
    domain, at the style statistics of a random ConvNet projected to the plane.

    The plane is that of the real images; every set is normalised as the first.

    Args:
        dataset: the real images of all domains, the target's too.
        sets: by name, at least one; of the same data.
        held_out: the domain that no set has seen; it is drawn in grey.
    """
    first = next(iter(sets.values()))
    convnet = style_network(dataset.resolution, STYLE_NETWORK, 0)
    rows = torch.cat([_some(dataset, domain) for domain in range(dataset.num_domains)])
    real = style_of(convnet, normalise(dataset.images[rows], first.mean, first.std)).double()
    mean, std = real.mean(0), real.std(0, correction=0).clamp_min(1e-12)
    name, estimator = projection()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap-learn tells which of its arguments imply others
        real_points: Points = estimator.fit_transform(((real - mean) / std).numpy())
        points = {
            label: estimator.transform(((_style(convnet, images) - mean) / std).numpy())
            for label, images in sets.items()
        }
    columns = min(PANELS_IN_A_ROW, len(sets))
    lines = -(-len(sets) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.8 * lines + 0.7), dpi=100, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    domains = dataset.domains[rows].numpy()
    for axes in grid.flat[len(sets) :]:
        axes.set_visible(False)
    for axes, (label, images) in zip(grid.flat, sets.items(), strict=False):
        for domain, domain_name in enumerate(dataset.domain_names):
            colour = "0.6" if domain_name == held_out else f"C{domain}"
            mine = real_points[domains == domain]
            suffix = " (held out)" if domain_name == held_out else ""
            axes.scatter(*mine.T, s=14, color=colour, alpha=0.5, linewidths=0, label=domain_name + suffix)
        _, _, assigned = images.training_images
        for domain, domain_name in enumerate(images.domain_names):
            known = domain_name in dataset.domain_names
            colour = f"C{dataset.domain_names.index(domain_name)}" if known else "black"
            stars = points[label][(assigned == domain).numpy()]
            axes.scatter(*stars.T, s=80, marker="*", color=colour, edgecolors="black", linewidths=0.6)
        axes.set_title(label, fontsize=10)
        axes.set(xticks=[], yticks=[])
    handles, labels = grid.flat[0].get_legend_handles_labels()
    note = f"{name} of the styles; dots: real images, stars: synthetic"
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), title=note, markerscale=2)
    return figure


def _style(convnet: Any, images: DistilledSet) -> Tensor:
    return style_of(convnet, images.training_images.images).double()


def _some(dataset: DomainDataset, domain: int) -> Tensor:
    """At most `REAL_PER_DOMAIN` rows of a domain."""
    rows = (dataset.domains == domain).nonzero().squeeze(1)
    chosen = torch.randperm(len(rows), generator=generator(0, "features", domain))[:REAL_PER_DOMAIN]
    return rows[chosen]
