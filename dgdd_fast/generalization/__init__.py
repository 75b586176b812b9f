"""Methods of domain generalisation for training on a distilled set: what SGS is compared with (SGS, Section
4.2).

Each is the loss of a batch; the training loop around it stays as it is. All of them combine images of a
batch, so they need whole batches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import EvaluateConfig
from ..networks import Network
from ..precision import at_least_float32
from .advfreq import AdvFreq
from .fact import Fact
from .mixstyle import install_mixstyle

Loss = Callable[[Tensor, Tensor, int], Tensor]


def training_loss(
    config: EvaluateConfig, network: Network, mean: Tensor, std: Tensor, random: torch.Generator
) -> Loss:
    """The loss that `config.generalize` asks for: of a normalised and augmented batch [B, 3, H, W], its
    labels [B] or probabilities [B, K], and the epoch, counted from 0, a scalar to minimise over the network's
    parameters.

    Args:
        config: `generalize` and `epochs` are used.
        network: the network to be trained; "mixstyle" adds to it.
        mean, std: [3], what the images are normalised with.
        random: for all draws of the method.

    Raises ValueError where the method does not fit the network.
    """
    if config.generalize == "fact":
        return Fact(network, mean, std, config.epochs, random)
    if config.generalize == "advfreq":
        return AdvFreq(network, mean, std, random)
    if config.generalize == "mixstyle":
        install_mixstyle(network, random)
    return lambda images, labels, _: F.cross_entropy(at_least_float32(network(images)), labels)
