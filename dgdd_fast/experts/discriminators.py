"""Domain discriminators fitted to a trained network: as good as a linear layer on its features can be."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import AugmentSettings, Precision, PretrainSettings
from ..data.augment import augment, draw_batch
from ..data.real_images import RealImages
from ..networks import rows_per_chunk
from ..parallel import each, slices
from ..precision import autocast
from ..steps import counted
from .pool import Expert

_MOST = 30_000  # images: their features in float64, of three views, take a GiB or two
_STEPS = 200  # at most; the loss is convex, and some dozens do


def rows_to_examine(count: int, random: torch.Generator) -> Tensor:
    """int64: all of `count` images, or 30,000 drawn from them, in order."""
    if count <= _MOST:
        return torch.arange(count)
    return torch.randperm(count, generator=random)[:_MOST].sort().values


@torch.no_grad()
def refit_discriminators_(
    expert: Expert, real: RealImages, config: PretrainSettings, random: torch.Generator
) -> list[float]:
    """Give the discriminators of a trained `expert`, in place, the weights of a logistic regression on the
    average-pooled features of all images of `real`, or of 30,000 drawn from them: half of its weight is on
    the images as they are, half on the same augmented, once as `config` trains the experts and once with a
    cutout besides, as matching has it. What identifies the domain of unchanged images may be gone behind
    a cutout.

    Returns the percentage of the images, as they are, whose domain each stage's discriminator then predicts
    correctly.
    """
    rows = rows_to_examine(len(real), random)
    domains_of_rows = real.domains[rows.to(real.device)]
    views = [_pooled(expert, real, rows, config.precision)]
    for augmentation in _augmentations(config.augment):
        views.append(_pooled(expert, real, rows, config.precision, augmentation, random, config.batch_size))
    weights = torch.ones(len(views), len(rows), device=real.device)
    weights[0] = max(1, len(views) - 1)
    told = []
    stages = list(zip(expert.discriminators, *views, strict=True))
    for discriminator, plain, *augmented in counted("refitting discriminators", stages):
        features, domains = torch.cat([plain, *augmented]), domains_of_rows.repeat(len(views))
        weight, bias = logistic_regression(features, domains, real.num_domains, weights.flatten())
        discriminator.weight.copy_(weight)
        discriminator.bias.copy_(bias)
        told.append(100 * float((discriminator(plain).argmax(1) == domains_of_rows).float().mean()))
    return told


def logistic_regression(
    features: Tensor, classes: Tensor, num_classes: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The weight [K, C] and bias [K] of the linear layer that predicts the `classes`, int64 [N], from
    the `features` [N, C], fitted by cross entropy, summed with the `weights` [N], 1 unless given. Half the
    squared weights of the *standardised* features are added: a channel's scale decides nothing. The weights
    of a channel add up to zero over the classes, and are zero where the channel is constant. float64 on the
    features' device.
    """
    features = features.double()
    weights = features.new_ones(len(features)) if weights is None else weights.double()
    mean, std = features.mean(0), features.std(0, correction=0)
    varies = std > 1e-6 * mean.abs()
    standardised = torch.where(varies, (features - mean) / std, 0.0)
    weight = features.new_zeros(num_classes, features.shape[1], requires_grad=True)
    bias = features.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(standardised, weight, bias)
        total = F.cross_entropy(logits, classes, reduction="none") @ weights + weight.square().sum() / 2
        total = total / len(features)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = torch.where(varies, weight.detach() / std, 0.0)
    return found, bias.detach() - found @ mean


def _augmentations(training: AugmentSettings) -> list[AugmentSettings]:
    """The training's augmentation, and that with a cutout; none where the training has none."""
    if training.strategy == "none":
        return []
    if "cutout" in training.strategy:
        return [training]
    return [training, dataclasses.replace(training, strategy=f"{training.strategy}_cutout")]


def _pooled(
    expert: Expert,
    real: RealImages,
    wanted: Tensor,
    precision: Precision,
    augmentation: AugmentSettings | None = None,
    random: torch.Generator | None = None,
    batch: int = 128,
) -> list[Tensor]:
    """The average-pooled features [N, C] of each stage, float32, of the images `wanted`, int64 [N]; augmented
    in batches, with draws of `random`, where `augmentation` is given."""
    network = expert.network
    size = rows_per_chunk(network, real.device)
    parts: list[list[Tensor]] = []
    for rows in counted("features to refit discriminators on", torch.split(wanted, batch)):
        images = real.take(rows)
        if augmentation is not None and random is not None:
            images = augment(images, draw_batch(augmentation, real.resolution, len(rows), random))

        def stages_of(part: slice, images: Tensor = images) -> list[Tensor]:
            pooled = []
            with autocast(precision, real.device):
                maps = network.forward_to(images[part], 0)
                for blocks in network.stages:
                    maps = blocks(maps)
                    pooled.append(maps.mean((2, 3)).float())
            return pooled

        parts += each(stages_of, slices(len(images), size))
    return [torch.cat(stage) for stage in zip(*parts, strict=True)]
