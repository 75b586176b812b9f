"""3x3 convolutions: where they are the operators of this package, and where PyTorch's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import conv3x3


class Convolution(nn.Conv2d):
    """A 3x3 convolution with padding 1, as ``nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)``; the
    channels may be in `groups` that do not see each other."""

    def __init__(
        self, inputs: int, outputs: int, groups: int = 1, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel_size=3, stride=stride, padding=1, groups=groups, bias=bias)

    def is_own(self, maps: Tensor) -> bool:
        """Whether `maps` are convolved by ``ops.conv3x3``: on the CPU in float32, in one group, pixel by
        pixel. Elsewhere PyTorch's own is faster, or the only one that there is."""
        return (
            maps.device.type == "cpu"
            and self.groups == 1
            and self.stride == (1, 1)
            and maps.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
        )

    def forward(self, maps: Tensor) -> Tensor:
        return conv3x3(maps, self.weight, self.bias) if self.is_own(maps) else super().forward(maps)
