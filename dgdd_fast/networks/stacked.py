"""Several ConvNets as one, each with images, parameters and results of its own: many small trainings make few
large operations, which a GPU needs to be busy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .convnet import Block, ConvNet
from .network import channels_innermost


class StackedConvNet(nn.Module):
    """R ConvNets of one shape side by side: their channels one behind the other, in R groups that do not see
    each other. Normalisation works on each channel by itself in any case.

    It begins with the parameters of `networks`, on their device; `unstack_` gives back what became of them.
    """

    def __init__(self, networks: Sequence[ConvNet]) -> None:
        super().__init__()
        self.networks = tuple(networks)  # not modules of this one
        self.stages = nn.ModuleList(
            Block.stacked(blocks) for blocks in zip(*(each.stages for each in networks), strict=True)
        )
        classifiers = [each.classifier for each in networks]
        self.weight = nn.Parameter(torch.stack([each.weight.detach() for each in classifiers]))  # [R, K, F]
        self.bias = nn.Parameter(torch.stack([each.bias.detach() for each in classifiers])[:, None])

    def forward(self, images: Tensor) -> Tensor:
        """[N, R, C, H, W], images for each network -> logits [N, R, K]."""
        maps = channels_innermost(images.flatten(1, 2))
        for block in self.stages:
            maps = block(maps)
        features = maps.reshape(len(images), len(self.networks), -1).transpose(0, 1)
        return torch.baddbmm(self.bias, features, self.weight.transpose(1, 2)).transpose(0, 1)

    @torch.no_grad()
    def unstack_(self) -> tuple[ConvNet, ...]:
        """The networks, with the parameters and running statistics that this has now."""
        for index, network in enumerate(self.networks):
            network.classifier.weight.copy_(self.weight[index])
            network.classifier.bias.copy_(self.bias[index, 0])
            state = network.stages.state_dict()
            for name, stacked in self.stages.state_dict().items():
                # A count of batches is one number for all.
                own = stacked.chunk(len(self.networks))[index] if stacked.dim() else stacked
                state[name].copy_(own)
        return self.networks
