"""Soft labels: for each training image a distribution over the classes, as a network trained on the real
images predicts it. They carry what that network learnt from all of these, which the images alone do not."""

from __future__ import annotations

import torch
from torch import Tensor

from ..networks import Network, rows_per_chunk
from .mosaics import decode

_SUM_ERROR = 1e-3  # of probabilities, from 1: float32 and other tools' float16


@torch.inference_mode()
def predicted_labels(network: Network, tiles: Tensor, factor: int) -> Tensor:
    """What `network` predicts for tiles [N, 3, h, w], seen as networks are trained on them, enlarged: float32
    [N, K] on the CPU."""
    device = network.classifier.weight.device
    parts = torch.split(tiles, rows_per_chunk(network, device))
    logits = torch.cat([network(decode(part.to(device), factor)).cpu() for part in parts])
    return logits.float().softmax(1)


def check_soft_labels(soft: Tensor, labels: Tensor, classes: int) -> None:
    """Raises ValueError unless `soft` is a distribution over `classes` for each of the training images, whose
    classes are `labels`, int64 [M].

    An image may well be taken for one of another class. But labels that on average give the images' own
    classes less than half of what guessing would are of classes in another order.
    """
    expected = f"float32 [{len(labels)}, {classes}] on {labels.device}"
    if soft.dtype != torch.float32 or soft.shape != (len(labels), classes) or soft.device != labels.device:
        raise ValueError(
            f"soft_labels must be {expected}, a probability for each training image and class, got "
            f"{soft.dtype} {list(soft.shape)} on {soft.device}"
        )
    broken = ~torch.isfinite(soft).all(1) | (soft < 0).any(1) | ((soft.sum(1) - 1).abs() > _SUM_ERROR)
    if broken.any():
        row = int(broken.int().argmax())
        raise ValueError(
            f"soft_labels of training image {row} must be finite, 0 or more and sum to 1, got "
            f"{float(soft[row].min()):.4g} .. {float(soft[row].max()):.4g}, sum {float(soft[row].sum()):.6g}"
        )
    own = float(soft.gather(1, labels[:, None]).mean())
    if own < 0.5 / classes:
        raise ValueError(
            f"soft_labels give the images' own classes {own:.2%} on average, less than half of what guessing "
            "would: their columns must be in the order of class_names"
        )
