"""Modules that stand for timm and torchvision: small networks behind the functions that are called."""

from __future__ import annotations

import sys
import types

import torch
from torch import nn


class Scale(nn.Module):
    """A parameter outside of any layer that is known, as transformers have them, and dropout behind."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, maps):
        return nn.functional.dropout(maps * self.scale, 0.5, self.training)


def body(channels: int, side: int = 32, head: int | None = None) -> nn.Sequential:
    layers = [nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), Scale(6)]
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(
        *layers, *(() if head is None else (nn.Linear(24, 9), nn.ReLU(), nn.Linear(9, head)))
    )


def fake_timm() -> types.ModuleType:
    module = types.ModuleType("timm")
    module.calls = []
    module.list_models = lambda: ["resnet18", "resnet34", "transformer"]
    module.get_pretrained_cfg = lambda name: types.SimpleNamespace(fixed_input_size=name == "transformer")

    def create_model(name, pretrained, num_classes, in_chans, **size):
        assert not pretrained
        assert num_classes == 0
        module.calls.append((name, size))
        return body(in_chans)

    module.create_model = create_model
    return module


def fake_torchvision() -> types.ModuleType:
    module = types.ModuleType("torchvision")
    module.models = types.SimpleNamespace()
    module.models.list_models = lambda module: ["resnet18", "squeezenet", "maps", "vit_b"]
    module.sizes = []

    def get_model(name, weights, **size):
        assert weights is None
        module.sizes.append(size)
        if name == "squeezenet":
            return nn.Sequential(nn.Conv2d(3, 4, 3))
        if name == "maps":
            return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(30, 5))
        return body(3, head=1000)

    module.models.get_model = get_model
    return module


def install(monkeypatch) -> tuple[types.ModuleType, types.ModuleType]:
    """Both of them, as if they were installed."""
    modules = fake_timm(), fake_torchvision()
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return modules
