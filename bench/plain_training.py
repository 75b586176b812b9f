"""Training in plain PyTorch as the public code of distribution matching does it, written anew from its
description: what `bench_train.py` compares with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgdd_fast.config import EvaluateConfig, NetworkConfig, PretrainConfig
from dgdd_fast.experts.pool import reverse_gradient

CLASSES, DOMAINS = 10, 3
Note = Callable[[], None]  # called after every epoch


@dataclass(frozen=True)
class Case:
    task: Literal["evaluation", "pretraining"]
    architecture: Literal["convnet", "resnet18"]
    resolution: int
    width: int
    images: int  # of an epoch

    @property
    def depth(self) -> int:
        """Of a ConvNet."""
        return int(math.log2(self.resolution)) - 2

    @property
    def network(self) -> NetworkConfig:
        return NetworkConfig(architecture=self.architecture, width=self.width)

    def labels(self) -> Tensor:
        return torch.arange(self.images) % CLASSES

    def domains(self) -> Tensor:
        return torch.arange(self.images) // CLASSES % DOMAINS


def augmented(images: Tensor, operation: str) -> Tensor:
    """One operation of the siamese augmentation, with parameters of its own for each of the images
    [N, 3, H, W]."""
    count, _, height, width = images.shape
    row = torch.arange(count)[:, None, None]

    def uniform(least: float, most: float) -> Tensor:
        return (least + (most - least) * torch.rand(count))[:, None, None, None]

    if operation == "color":
        images = images + uniform(-0.5, 0.5)
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * uniform(0, 2) + grey
        middle = images.mean((1, 2, 3), keepdim=True)
        return (images - middle) * uniform(0.5, 1.5) + middle
    if operation == "crop":
        reach = int(height * 0.125 + 0.5)
        padded = F.pad(images, [reach] * 4).permute(0, 2, 3, 1).contiguous()
        down, across = (torch.randint(2 * reach + 1, (count, 1, 1)) for _ in range(2))
        rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
        return padded[row, rows + down, columns + across].permute(0, 3, 1, 2).contiguous()
    if operation == "cutout":
        side = height // 2
        mask = torch.ones(count, height, width)
        offset = torch.arange(side)
        down, across = (torch.randint(height + 1, (count, 1, 1)) - side // 2 for _ in range(2))
        rows = (offset[None, :, None] + down).clamp(0, height - 1)
        mask[row, rows, (offset[None, None, :] + across).clamp(0, width - 1)] = 0
        return images * mask[:, None]
    if operation == "scale":
        zoom = uniform(1 / 1.2, 1.2).squeeze()
        other = uniform(1 / 1.2, 1.2).squeeze()
        zero = torch.zeros(count)
        turned = torch.stack([zoom, zero, zero, zero, other, zero], 1)
    else:
        angle = uniform(-math.pi / 12, math.pi / 12).squeeze()
        cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros(count)
        turned = torch.stack([cosine, -sine, zero, sine, cosine, zero], 1)
    grid = F.affine_grid(turned.view(count, 2, 3), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)


OPERATIONS = ("color", "crop", "cutout", "scale", "rotate")


def plain_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.GroupNorm(outputs, outputs),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2, 2),
    )


class PlainResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()

        def convolution(channels: int, size: int, step: int) -> list[nn.Module]:
            layer = nn.Conv2d(channels, outputs, size, step, padding=size // 2, bias=False)
            return [layer, nn.GroupNorm(outputs, outputs)]

        self.branch = nn.Sequential(
            *convolution(inputs, 3, stride), nn.ReLU(inplace=True), *convolution(outputs, 3, 1)
        )
        self.shortcut = nn.Sequential(*(convolution(inputs, 1, stride) if inputs != outputs else []))

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.branch(maps) + self.shortcut(maps))


class PlainNetwork(nn.Module):
    """A ConvNet, or a ResNet-18 for small images; an expert has domain discriminators after its stages."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.is_expert = case.task == "pretraining"
        width = case.width
        if case.architecture == "convnet":
            channels = [3] + [width] * case.depth
            self.stem: nn.Module = nn.Identity()
            self.stages = nn.ModuleList(map(plain_block, channels[:-1], channels[1:]))
            features = width * (case.resolution >> case.depth) ** 2
        else:
            channels = [width] + [width * 2**stage for stage in range(4)]
            self.stem = nn.Sequential(
                nn.Conv2d(3, width, 3, padding=1, bias=False),
                nn.GroupNorm(width, width),
                nn.ReLU(inplace=True),
            )
            self.stages = nn.ModuleList(
                nn.Sequential(
                    PlainResidual(inputs, outputs, 1 if inputs == outputs else 2),
                    PlainResidual(outputs, outputs, 1),
                )
                for inputs, outputs in itertools.pairwise(channels)
            )
            self.stages.append(nn.AdaptiveAvgPool2d(1))
            features = channels[-1]
        self.classifier = nn.Linear(features, CLASSES)
        stages = channels[1:] if self.is_expert else []
        self.discriminators = nn.ModuleList(nn.Linear(count, DOMAINS) for count in stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits of the classes, and of the domains for an expert."""
        maps, domains = self.stem(images), []
        for index, stage in enumerate(self.stages):
            maps = stage(maps)
            if index < len(self.discriminators):
                pooled = reverse_gradient(maps.mean((2, 3)), PretrainConfig.reversal_weight)
                domains.append(self.discriminators[index](pooled))
        return [self.classifier(maps.flatten(1)), *domains]


def plain_training(case: Case, images: Tensor, network: nn.Module, epochs: int, note: Note) -> None:
    """`images` are float32 and normalised for evaluation, uint8 for pretraining."""
    config = EvaluateConfig() if case.task == "evaluation" else PretrainConfig()
    labels, domains = case.labels(), case.domains()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(config.batch_size):
            inputs = images[batch]
            if case.task == "evaluation":
                inputs = augmented(inputs, OPERATIONS[int(torch.randint(len(OPERATIONS), ()))])
            else:
                inputs = augmented(augmented((inputs / 255 - 0.5) / 0.25, "color"), "crop")
            logits, *of_domains = network(inputs)
            loss = F.cross_entropy(logits, labels[batch])
            if of_domains:
                loss = loss + sum(F.cross_entropy(each, domains[batch]) for each in of_domains) / len(
                    of_domains
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
            (logits.argmax(1) == labels[batch]).sum().item()
        if not math.isfinite(total):
            raise ArithmeticError("the plain training diverged")
        note()
