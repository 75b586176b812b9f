"""VGG-11 (Simonyan and Zisserman, ICLR 2015) with one linear layer, as distilled sets are tested on it."""

from __future__ import annotations

from torch import Tensor, nn

from ..config import NetworkConfig
from .convolution import Convolution
from .network import Layers, Network, channels_innermost, normalisation


class VGG11(Network):
    """Eight 3x3 convolutions (64, 128, 2 x 256, 4 x 512 channels at width 64), each with normalisation and
    ReLU, in five groups with 2x2 max pooling between; then an average over the pixels and one linear layer.

    The average gives 512 features whatever the resolution. At 32 px, where the last map is one pixel, the
    network is the published one; without it the classifier would grow with the image, to sizes that a few
    distilled images could not fit.

    Raises ValueError for images with a side below 32 px, which the five poolings would leave without pixels.
    """

    own_width = 64

    def __init__(
        self, num_classes: int, resolution: tuple[int, int], config: NetworkConfig, channels: int = 3
    ) -> None:
        width = self.settings(config, resolution).width
        if min(resolution) < 32:
            raise ValueError(
                f"a VGG-11 halves an image five times and needs sides of at least 32 px, got "
                f"{resolution[0]} x {resolution[1]}"
            )
        super().__init__(num_classes, (channels, *resolution), width, 8 * width)
        layers: list[nn.Module] = []
        for group in ((1,), (2,), (4, 4), (8, 8), (8, 8)):
            for factor in group:
                layers += [
                    Convolution(channels, factor * width),
                    normalisation(config.norm, factor * width),
                    nn.ReLU(inplace=True),
                ]
                channels = factor * width
            layers.append(nn.MaxPool2d(2))
        self.layers = Layers(*layers)

    def features(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, feature_dim]: the last maps, averaged over their pixels."""
        maps: Tensor = self.layers(channels_innermost(images))
        return maps.mean((2, 3))
