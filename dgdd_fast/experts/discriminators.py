"""Domain discriminators fitted to a trained network: as good as a linear layer on its features can be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Precision
from ..data.augment import AugmentDraw
from ..data.real_images import RealImages
from ..networks import rows_per_chunk
from ..parallel import each, slices
from ..precision import autocast
from .pool import Expert

_STEPS = 200  # at most; the loss is convex, and some dozens do


@torch.no_grad()
def refit_discriminators_(
    expert: Expert, real: RealImages, draw: AugmentDraw, precision: Precision = "float32"
) -> list[float]:
    """Give the discriminators of a trained `expert`, in place, the weights of a logistic regression on the
    average-pooled features of all images of `real`, each augmented by its row of `draw`.

    Returns the percentage of those images whose domain each stage's discriminator then tells.
    """
    told = []
    for stage, features in enumerate(_pooled(expert, real, draw, precision)):
        discriminator = expert.discriminators[stage]
        weight, bias = logistic_regression(features, real.domains, real.num_domains)
        discriminator.weight.copy_(weight)  # type: ignore[operator]
        discriminator.bias.copy_(bias)  # type: ignore[operator]
        told.append(100 * float((discriminator(features).argmax(1) == real.domains).float().mean()))
    return told


def logistic_regression(features: Tensor, classes: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The weight [K, C] and bias [K] of the linear layer that tells the `classes`, int64 [N], of the
    `features` [N, C] by cross entropy, summed, with half the squared weights of the *standardised* features
    added: a channel's scale decides nothing. The weights of a channel add up to zero over the classes, and
    are zero where the channel is constant. float64 on the features' device.
    """
    features = features.double()
    mean, std = features.mean(0), features.std(0, correction=0)
    varies = std > 1e-6 * mean.abs()
    standardised = torch.where(varies, (features - mean) / std, 0.0)
    weight = features.new_zeros(num_classes, features.shape[1], requires_grad=True)
    bias = features.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(standardised, weight, bias)
        total = F.cross_entropy(logits, classes, reduction="sum") + weight.square().sum() / 2
        total = total / len(features)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = torch.where(varies, weight.detach() / std, 0.0)
    return found, bias.detach() - found @ mean


def _pooled(expert: Expert, real: RealImages, draw: AugmentDraw, precision: Precision) -> list[Tensor]:
    """The average-pooled features [N, C] of each stage, float32."""
    network = expert.network
    rows = torch.arange(len(real.pixels), device=real.device)

    def stages_of(part: slice) -> list[Tensor]:
        images = real.augmented(rows[part], draw, rows[part])
        pooled = []
        with autocast(precision, real.device):
            maps = network.forward_to(images, 0)
            for blocks in network.stages:
                maps = blocks(maps)
                pooled.append(maps.mean((2, 3)).float())
        return pooled

    parts = each(stages_of, slices(len(rows), rows_per_chunk(network, real.device)))
    return [torch.cat(stage) for stage in zip(*parts, strict=True)]
