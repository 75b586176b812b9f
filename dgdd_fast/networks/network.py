"""What every network here offers: features, logits, and how much memory an image takes on its way."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NetworkConfig, NetworkSettings, filled, settled
from ..ops import conv3x3_norm_relu_pool, norm_relu_pool
from .convolution import Convolution
from .instance_norm import instance_norm


class Network(nn.Module, ABC):
    """A feature extractor and a linear classifier for images of one size.

    An architecture is a subclass whose constructor takes (num_classes, resolution, config, channels): the
    (height, width) of the images, a `NetworkConfig` and the number of colour channels. It raises ValueError
    for what it cannot work with.

    Attributes:
        own_width: channels of the first stage where the settings leave them open.
        he_normal: whether convolutions are initialised as He et al. do, see `initialise`.
        image_shape: (channels, height, width) of the images.
        feature_dim: the length of a feature vector.
        classifier: the last layer, ``nn.Linear(feature_dim, num_classes)``.
    """

    own_width: ClassVar[int] = 64
    he_normal: ClassVar[bool] = False

    def __init__(
        self, num_classes: int, image_shape: tuple[int, int, int], width: int, feature_dim: int
    ) -> None:
        super().__init__()
        _keep_freed_memory()
        for name, value in (("num_classes", num_classes), ("channels", image_shape[0]), ("width", width)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.image_shape = image_shape
        self.feature_dim = feature_dim
        self.classifier = nn.Linear(feature_dim, num_classes)

    @classmethod
    def own_depth(cls, resolution: tuple[int, int]) -> int | None:
        """The number of blocks where the settings leave it open, for images of (height, width); None: it is
        no setting of this architecture."""
        return None

    @classmethod
    def settings(cls, config: NetworkConfig, resolution: tuple[int, int]) -> NetworkSettings:
        """What `config` leaves open (None), filled in for images of (height, width).

        Raises ValueError for a depth where the architecture has its own.
        """
        own_depth = cls.own_depth(resolution)
        if own_depth is None and config.depth is not None:
            raise ValueError(f"network.depth is for a convnet; the depth of {config.architecture} is its own")
        return settled(NetworkSettings, filled(config, width=cls.own_width, depth=own_depth))

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, feature_dim]."""

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] -> logits [N, num_classes]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits

    @functools.cached_property
    def map_sizes(self) -> tuple[int, ...]:
        """The number of values that one image has after each convolution; without one, at first and as
        features."""
        return self.measured_maps()

    def measured_maps(self) -> tuple[int, ...]:
        """What `map_sizes` is, by a pass."""
        sizes: list[int] = []
        hooks = [
            module.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.numel()))
            for module in self.modules()
            if isinstance(module, nn.Conv2d)
        ]
        # On the meta device shapes are worked out and nothing is computed. Two images: batch statistics of a
        # single pixel are refused.
        state = {name: tensor.to("meta") for name, tensor in self.state_dict().items()}
        try:
            with torch.no_grad():
                torch.func.functional_call(self, state, torch.empty(2, *self.image_shape, device="meta"))
        finally:
            for hook in hooks:
                hook.remove()
        own = (math.prod(self.image_shape), self.feature_dim)
        return tuple(size // 2 for size in sizes) or own


def bytes_per_image(network: Network, graph: bool) -> int:
    """About how much memory the float32 maps of one image take, with or without a graph for a backward.

    Autograd keeps three maps a convolution (convolved, normalised, activated); without it two maps of the
    largest kind are alive at once, and a temporary.
    """
    return 4 * 3 * (sum(network.map_sizes) if graph else max(network.map_sizes))


def rows_per_chunk(network: Network, device: torch.device) -> int:
    """How many images a pass should take at once to be fast.

    On the CPU the largest float32 map stays within 8 MiB, so that the maps of a pass live in the cache and in
    memory that the process keeps (16 images of 32 px in a ConvNet of width 128); a GPU takes 512 MiB.
    """
    mebibytes = 8 if device.type == "cpu" else 512
    return max(1, mebibytes * 2**20 // (4 * max(network.map_sizes)))


def channels_innermost(images: Tensor) -> Tensor:
    """The images in the memory format that is fastest on their device.

    On the CPU pooling, normalisation and the first convolution are several times faster with the channels
    innermost.
    """
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images


def normalisation(norm: str, channels: int) -> nn.Module:
    """The layer after a convolution: norm "instance" (of each sample and channel alone), "batch" or "none".

    It may overwrite its input.
    """
    if norm == "instance":
        return _InstanceNorm(channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm must be 'instance', 'batch' or 'none', got {norm!r}")


class Layers(nn.Sequential):
    """Layers one after another; a convolution with the normalisation and the ReLU that follow it at once."""

    def forward(self, maps: Tensor) -> Tensor:
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, nn.Conv2d) and len(layers) > 1 and isinstance(layers[1], nn.ReLU):
                maps = convolve_activate_and_pool(layer, layers[0], maps, pool=1)
                del layers[:2]
            else:
                maps = layer(maps)
        return maps


def convolve_activate_and_pool(
    convolution: nn.Conv2d, norm: nn.Module, maps: Tensor, pool: int, dtype: torch.dtype | None = None
) -> Tensor:
    """A convolution (its results in `dtype`, if given), `norm`, ReLU, and the mean over windows of `pool` x
    `pool` pixels.

    Instance normalisation is one operator with what follows it, differentiable once, and where no gradient is
    recorded with the convolution too. Other normalisations, and networks whose gradients are differentiated
    (`allow_second_derivatives`: gradient matching), take PyTorch's own one after another. [N, C, H, W] ->
    [N, C', H // pool, W // pool].
    """
    if isinstance(norm, _InstanceNorm) and not norm.differentiable_twice:
        if isinstance(convolution, Convolution) and convolution.is_own(maps):
            return conv3x3_norm_relu_pool(
                maps, convolution.weight, convolution.bias, norm.weight, norm.bias, norm.eps, pool
            )
        if _goes_to_tensor_cores(maps):
            maps = maps.contiguous(memory_format=torch.channels_last)
        return norm_relu_pool(_as(dtype, convolution(maps)), norm.weight, norm.bias, norm.eps, pool)
    maps = _as(dtype, convolution(maps))
    active = F.relu(norm(maps), inplace=True)
    return active if pool == 1 else F.avg_pool2d(active, pool)


def _goes_to_tensor_cores(maps: Tensor) -> bool:
    """Whether a convolution of `maps` is computed in bfloat16 on a GPU. Its units for that take the channels
    innermost, to which cuDNN would else bring every map and back. Convolutions in float32 are left as planes:
    Winograd's are among them."""
    return maps.is_cuda and torch.is_autocast_enabled("cuda")


def _as(dtype: torch.dtype | None, maps: Tensor) -> Tensor:
    return maps if dtype is None else maps.to(dtype)


def allow_second_derivatives(network: nn.Module) -> None:
    """Make the gradients of `network` differentiable, at the price of slower layers between convolutions."""
    for module in network.modules():
        if isinstance(module, _InstanceNorm):
            module.differentiable_twice = True


class _InstanceNorm(nn.GroupNorm):
    """One group a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, eps=1e-5)
        self.differentiable_twice = False

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type == "cpu" and not self.differentiable_twice:
            return instance_norm(images, self.weight, self.bias, self.eps)
        return super().forward(images)


@functools.cache  # once a process
def _keep_freed_memory() -> None:
    """Keep the C library of Linux from handing every freed activation back to the kernel.

    It maps large blocks afresh at each allocation, and the kernel fills them with zeros, which costs as much
    as a convolution; once it has seen a block of some size (up to 32 MiB) freed, it serves blocks of that
    size from a heap that it keeps.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)
