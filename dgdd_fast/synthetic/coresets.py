"""Real images that stand for their class: herding in the features of a trained network."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import DomainDataset, normalise
from ..networks import Network, rows_per_chunk
from ..steps import counted


def herding(features: Tensor, count: int) -> Tensor:
    """Rows of `features` [n, F] whose running mean stays as close as can be to the mean of all (Welling,
    2009).

    Step k takes, of the rows not yet taken, the one that brings the sum of the first k closest to k times the
    mean. Where `count` exceeds n the order is gone through again.

    Returns:
        int64 [count], the rows in the order in which they are taken.

    Raises ValueError where there is no row.
    """
    if len(features) == 0:
        raise ValueError("herding needs at least one row")
    # Only differences from the mean matter: the next row minimises ||(sum so far) + x|| of centred rows.
    centred = features.double()
    centred = centred - centred.mean(0)
    squares = centred.square().sum(1)
    total = torch.zeros_like(centred[0])
    free = torch.ones(len(centred), dtype=torch.bool, device=centred.device)
    order: list[int] = []
    for _ in range(min(count, len(centred))):
        # ||total + x||^2 without ||total||^2, which is the same for all.
        row = int((squares + 2 * centred @ total).masked_fill(~free, torch.inf).argmin())
        order.append(row)
        free[row] = False
        total = total + centred[row]
    rounds = -(-count // len(order)) if order else 0
    return torch.tensor((order * rounds)[:count], dtype=torch.int64)


def herded_rows(
    sources: DomainDataset, network: Network, assigned: Tensor, balanced: bool, mean: Tensor, std: Tensor
) -> Tensor:
    """The rows of `sources` that herding in `network`'s features chooses for each class: int64 [K * T],
    T of them.

    Args:
        sources: the images to choose from.
        network: trained on them.
        assigned: int64 [K, T], the domain of each tile to be made of one, see `assign_domains`: how many rows
            each domain gives to a class.
        balanced: herd each (class, domain) cell towards its own mean, as many rows as `assigned` says; else
            each class whatever the domains.
        mean, std: what images are normalised with, [3] each.
    """
    rows: list[Tensor] = []
    for label, cells in enumerate(counted("herding", sources.cells())):
        parts = cells if balanced else [torch.cat(cells)]
        for domain, part in enumerate(parts):
            count = int((assigned[label] == domain).sum()) if balanced else assigned.shape[1]
            if count:
                rows.append(part[herding(_features(sources, part, network, mean, std), count)])
    return torch.cat(rows)


@torch.inference_mode()
def _features(sources: DomainDataset, rows: Tensor, network: Network, mean: Tensor, std: Tensor) -> Tensor:
    device = network.classifier.weight.device
    chunks = (sources.images[part].to(device) for part in torch.split(rows, rows_per_chunk(network, device)))
    return torch.cat([network.features(normalise(chunk, mean, std)).cpu() for chunk in chunks])
