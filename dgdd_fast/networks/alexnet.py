"""The AlexNet that distilled sets are tested on: Krizhevsky's layers as they are used for small images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NetworkConfig
from .convolution import Convolution
from .network import Layers, Network, channels_innermost, normalisation


class AlexNet(Network):
    """Five convolutions (128, 192, 256, 192, 192 channels at width 128), each with normalisation and ReLU;
    2x2 max pooling after the first, second and fifth; then one linear layer.

    The last maps, of an eighth of the image's sides, are averaged over equal cells: 4 x 4 of them for images
    of 32, 64, 128 or 224 px, at most 7 a side for any other size. So the classifier is the published one at
    32 px and does not grow with the image, which a few distilled images could not fit. (Cells of one size,
    not PyTorch's adaptive pooling, whose backward on a GPU adds in no fixed order.)

    Raises ValueError for images with a side below 8 px.
    """

    own_width = 128

    def __init__(
        self, num_classes: int, resolution: tuple[int, int], config: NetworkConfig, channels: int = 3
    ) -> None:
        width = self.settings(config, resolution).width
        if min(resolution) < 8:
            raise ValueError(
                f"an AlexNet needs sides of at least 8 px, got {resolution[0]} x {resolution[1]}"
            )
        rows, columns = resolution[0] // 8, resolution[1] // 8
        cell = (max(1, rows // 4), max(1, columns // 4))
        last = max(1, width * 3 // 2)
        features = last * (rows // cell[0]) * (columns // cell[1])
        super().__init__(num_classes, (channels, *resolution), width, features)
        self.cell = cell
        layers: list[nn.Module] = []
        for outputs, size, pooled in (
            (width, 5, True),
            (last, 5, True),
            (2 * width, 3, False),
            (last, 3, False),
            (last, 3, True),
        ):
            layers += [
                Convolution(channels, outputs)
                if size == 3
                else nn.Conv2d(channels, outputs, size, padding=size // 2),
                normalisation(config.norm, outputs),
                nn.ReLU(inplace=True),
            ]
            if pooled:
                layers.append(nn.MaxPool2d(2))
            channels = outputs
        self.layers = Layers(*layers)

    def features(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, feature_dim]: the last maps, pooled and flattened."""
        return torch.flatten(F.avg_pool2d(self.layers(channels_innermost(images)), self.cell), 1)
