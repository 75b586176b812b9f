"""Networks of timm and torchvision by name, to test distilled sets with: "timm:resnet18"."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..config import LIBRARIES, NetworkConfig, NetworkSettings, settled
from ..extras import extra
from ..messages import shown
from .network import Network


def library_of(architecture: str) -> str | None:
    """The library that the name of an architecture begins with; None for a network of ours."""
    library, colon, _ = architecture.partition(":")
    return library if colon and library in LIBRARIES else None


@functools.cache
def library_network(architecture: str) -> type[LibraryNetwork]:
    """The class of "library:model". The library is loaded when it is asked for its settings."""
    library, _, model = architecture.partition(":")
    return type("LibraryNetwork", (LibraryNetwork,), {"library": library, "model": model})


class LibraryNetwork(Network):
    """A network as its library builds it, with a classifier of ours in the place of its own.

    Its parameters are drawn as the library draws them, never loaded. Width, depth and normalisation are its
    own; whole batches go through it, since most have batch statistics. What it draws in training (dropout)
    has seeds of its own.

    Attributes:
        library, model: "timm", "resnet18".
    """

    own_width: ClassVar[int] = 1
    library: ClassVar[str]
    model: ClassVar[str]

    def __init__(
        self, num_classes: int, resolution: tuple[int, int], config: NetworkConfig, channels: int = 3
    ) -> None:
        with _seeded(0):
            body = _BODIES[self.library](self.model, resolution, channels)
            feature_dim = self._feature_dim(body, (channels, *resolution))
            super().__init__(num_classes, (channels, *resolution), self.own_width, feature_dim)
        self.body = body
        self._seed, self._passes = 0, 0

    @classmethod
    def settings(cls, config: NetworkConfig, resolution: tuple[int, int]) -> NetworkSettings:
        """Raises ValueError for a width, depth or normalisation, and for a model that the library lacks;
        MissingExtraError where the library is not installed."""
        for name, value, free in (
            ("width", config.width, (None, cls.own_width)),
            ("depth", config.depth, (None,)),
            ("norm", config.norm, ("instance", "batch")),  # the default, and what it is resolved to
        ):
            if value not in free:
                raise ValueError(
                    f"network.{name} is a setting of our own networks; {config.architecture} has its own: "
                    "leave it out"
                )
        known = _models(cls.library)
        if cls.model not in known:
            close = difflib.get_close_matches(cls.model, known, n=3)
            meant = (
                f"; did you mean {' or '.join(f'{cls.library}:{name}' for name in close)}?" if close else ""
            )
            raise ValueError(f"{cls.library} has no network {shown(cls.model)}{meant}")
        return settled(NetworkSettings, config, width=cls.own_width, norm="batch")

    def draw(self, generator: torch.Generator) -> None:
        """Refill every parameter as the library does, by the generator alone."""
        self._seed, self._passes = int(torch.randint(2**62, (), generator=generator)), 0
        device = self.classifier.weight.device
        with _seeded(self._seed):
            self.body = _BODIES[self.library](self.model, self.image_shape[1:], self.image_shape[0])
            self.classifier.reset_parameters()
        self.body.to(device)

    def features(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, feature_dim]."""
        if not self.training:
            return cast(Tensor, self.body(images))
        self._passes += 1
        with _seeded(self._seed + self._passes, images.device):
            return cast(Tensor, self.body(images))

    def measured_maps(self) -> tuple[int, ...]:
        """As of every network; of one that computes in its pass what the meta device cannot, at first and as
        features."""
        try:
            return super().measured_maps()
        except (RuntimeError, TypeError):
            return math.prod(self.image_shape), self.feature_dim

    def _feature_dim(self, body: nn.Module, image_shape: tuple[int, int, int]) -> int:
        name = f"{self.library}:{self.model}"
        zeros = torch.zeros(2, *image_shape)
        try:
            with torch.no_grad():
                found = body(zeros)
        except (RuntimeError, ValueError, AssertionError) as error:
            if zeros.is_meta:  # there it may be the device's fault
                raise
            height, width = image_shape[1:]
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{name} cannot take images of {height} x {width} px: {shown(reason)}"
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise ValueError(
                f"{name} gives no single feature vector for an image, as a classifier behind it needs"
            )
        return found.shape[1]


def _timm() -> Any:
    with extra("networks", "a network of timm"):
        import timm
    return timm


def _torchvision() -> Any:
    with extra("networks", "a network of torchvision"):
        import torchvision
    return torchvision


def _models(library: str) -> list[str]:
    """The names of its networks."""
    try:
        if library == "timm":
            return list(_timm().list_models())
        models = _torchvision().models
        return list(models.list_models(module=models))
    except (RuntimeError, OSError) as error:  # as torchvision for another torch ends
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{library} is installed but cannot be loaded ({shown(reason)}): install the one that belongs to "
            f"torch {torch.__version__}"
        ) from error


def _timm_body(model: str, resolution: tuple[int, int], channels: int) -> nn.Module:
    timm = _timm()
    # Transformers are built for one size.
    sized = getattr(timm.get_pretrained_cfg(model), "fixed_input_size", False)
    size = {"img_size": resolution} if sized else {}
    return cast(
        nn.Module, timm.create_model(model, pretrained=False, num_classes=0, in_chans=channels, **size)
    )


def _torchvision_body(model: str, resolution: tuple[int, int], channels: int) -> nn.Module:
    if channels != 3:
        raise ValueError(f"torchvision's networks take RGB images, got {channels} channels")
    size: dict[str, Any] = {"image_size": resolution[0]} if model.startswith("vit_") else {}
    body = cast(nn.Module, _torchvision().models.get_model(model, weights=None, **size))
    linear = [name for name, module in body.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"torchvision:{model} does not end in a linear layer that could be replaced")
    parent, _, last = linear[-1].rpartition(".")
    setattr(body.get_submodule(parent), last, nn.Identity())
    return body


_BODIES: dict[str, Callable[[str, tuple[int, int], int], nn.Module]] = {
    "timm": _timm_body,
    "torchvision": _torchvision_body,
}


@contextmanager
def _seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Libraries draw from torch's global generators: they begin at `seed` here, and are afterwards what they
    were."""
    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
