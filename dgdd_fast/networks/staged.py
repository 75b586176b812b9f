"""Networks in stages that may be passed one by one: what experts, masks, attention and mixed styles need."""

from __future__ import annotations

from torch import Tensor, nn

from .network import Network, channels_innermost


class StagedNetwork(Network):
    """A stem, stages one after another, and the features of the last maps.

    A subclass fills the three attributes in its constructor, and that is all that it must do.

    Attributes:
        stem: from the images to the maps that the first stage takes.
        stages: of which each takes the maps of the one before and leaves them as they are.
        channels: of the maps after each stage.
    """

    stem: nn.Module
    stages: nn.ModuleList
    channels: tuple[int, ...]

    def features(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, feature_dim]."""
        last = len(self.stages)
        return self.forward_from(self.forward_to(images, last), last)

    def forward_to(self, images: Tensor, stage: int) -> Tensor:
        """The maps after `stage` (0: after the stem): [N, channels, H, W] -> [N, channels[stage - 1], h, w].

        ``forward_from(forward_to(x, s), s)`` equals ``features(x)`` for every s, on the CPU bit for bit.
        """
        maps: Tensor = self.stem(channels_innermost(images))
        for layers in self.stages[: self._checked(stage)]:
            maps = layers(maps)
        return maps

    def forward_from(self, maps: Tensor, stage: int) -> Tensor:
        """The features [N, feature_dim] that follow from the maps after `stage`, which stay as they are."""
        for layers in self.stages[self._checked(stage) :]:
            maps = layers(maps)
        return self.head(maps)

    def head(self, maps: Tensor) -> Tensor:
        """The features of the last maps: their mean over the pixels, unless a network has others."""
        return maps.mean((2, 3))

    def activations(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """What each stage ends in, [N, channels, h, w] each, and the features [N, feature_dim] (DataDAM)."""
        activations = [self.forward_to(images, 0)]
        for layers in self.stages:
            activations.append(layers(activations[-1]))
        return activations[1:], self.head(activations[-1])

    def _checked(self, stage: int) -> int:
        if not 0 <= stage <= len(self.stages):
            raise ValueError(f"stage must be 0 (the stem) to {len(self.stages)}, got {stage}")
        return stage
