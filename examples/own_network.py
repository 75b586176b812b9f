"""A network of one's own in one file: three stages of depthwise and pointwise convolutions.

    dgdd --plugin examples/own_network.py distill --target street --set distill.network.architecture=depthwise
    dgdd --plugin examples/own_network.py evaluate runs/street --architecture depthwise
    dgdd --plugin examples/own_network.py pretrain --data pacs/ --target sketch --architecture depthwise

As it has stages, experts of it can be trained, matched in and masked; a subclass of `Network` that computes
`features` alone does everything else. From Python: `dgdd_fast.load_plugins(["examples/own_network.py"])`.
"""

from torch import nn

from dgdd_fast import NetworkConfig, register_network
from dgdd_fast.networks import StagedNetwork, normalisation


def stage(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    """Depthwise 3x3, pointwise, normalisation, ReLU; half the side."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs),
        nn.Conv2d(inputs, outputs, 1),
        normalisation(norm, outputs),
        nn.ReLU(),
        nn.AvgPool2d(2),
    )


class Depthwise(StagedNetwork):
    own_width = 32  # channels of the first stage, where the settings name none

    def __init__(
        self, num_classes: int, resolution: tuple[int, int], config: NetworkConfig, channels: int = 3
    ) -> None:
        width = self.settings(config, resolution).width
        if min(resolution) < 8:
            raise ValueError(f"a depthwise network needs sides of at least 8 px, got {resolution}")
        super().__init__(num_classes, (channels, *resolution), width, feature_dim=4 * width)
        self.channels = (width, 2 * width, 4 * width)
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        inputs = (width, *self.channels)
        self.stages = nn.ModuleList(
            stage(before, after, config.norm) for before, after in zip(inputs, self.channels, strict=False)
        )


register_network("depthwise", Depthwise, label="Depthwise")
