"""The compiled operators as typed functions: Spectral Gradient Surgery (SGS) of per-domain image gradients,
the weighted masking of feature channels (CADM), the augmentation of a batch (DSA), the convolutions of the
ConvNet and what follows them. Importing it takes torch and numpy alone.

The same functions stand in plain PyTorch in `dgdd_fast.ops.reference`, which is their specification.

What holds for all of them; what holds for some is said in their modules:

* Tensors lie on the CPU or on one CUDA device, in any strides. float32 and float64 are computed in their own
  precision; bfloat16 and float16 are storage, computed in float32. All floating tensors of a call share one
  dtype, and so do the results. The convolutions alone are for float32 on the CPU.
* The same call gives the same bits, on one device and machine. The tests ask CUDA for it too; no GPU
  has run them yet.
* A wrong argument raises RuntimeError that names the operator, the argument, what was expected and what came.
  The exception: a `domain_index`, row, operation or parameter out of range on CUDA, where reading it back
  would stop the stream; that sample's results are NaN.
"""

from .augmentation import AUGMENTATIONS, sample_augment
from .convolution import conv3x3, conv3x3_norm_relu_pool
from .masking import channel_scores, mask_channels, weighted_channel_mask
from .normalization import norm_relu_pool
from .spectral import EPS, spectral_consensus, spectral_surgery, spectral_surgery_step_

__all__ = [
    "AUGMENTATIONS",
    "EPS",
    "channel_scores",
    "conv3x3",
    "conv3x3_norm_relu_pool",
    "mask_channels",
    "norm_relu_pool",
    "sample_augment",
    "spectral_consensus",
    "spectral_surgery",
    "spectral_surgery_step_",
    "weighted_channel_mask",
]
