"""The compiled operators as typed functions; `reference` has the same in plain PyTorch, their specification.

Importing it takes torch and numpy alone.
"""

from .operators import (
    AUGMENTATIONS,
    EPS,
    channel_scores,
    mask_channels,
    norm_relu_pool,
    sample_augment,
    spectral_consensus,
    spectral_surgery,
    spectral_surgery_step_,
    weighted_channel_mask,
)

__all__ = [
    "AUGMENTATIONS",
    "EPS",
    "channel_scores",
    "mask_channels",
    "norm_relu_pool",
    "sample_augment",
    "spectral_consensus",
    "spectral_surgery",
    "spectral_surgery_step_",
    "weighted_channel_mask",
]
