"""Arguments that the tests of the augmentation operator share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from dgdd_fast.ops import AUGMENTATIONS

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
FAREST = 4  # pixels that a crop moves by


@dataclass
class Augmentation:
    """The arguments of one call of sample_augment."""

    images: Tensor
    rows: Tensor | None
    operation: Tensor
    parameters: Tensor
    mean: Tensor | None
    std: Tensor | None
    crop: int | tuple[int, int] = FAREST
    cutout: int | tuple[int, int] = (3, 4)

    @classmethod
    def drawn(
        cls,
        shape: tuple[int, int, int] = (3, 9, 8),
        images: int = 5,
        batch: int | None = 21,
        dtype: torch.dtype = torch.float32,
        result: torch.dtype = torch.float32,
        operations: tuple[str, ...] = AUGMENTATIONS,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> Augmentation:
        """Operations in turn, with parameters as they are drawn for training, of images [images, *shape] of
        `dtype`. With `batch` None no rows are given; `result` is the dtype of what uint8 images become."""
        generator = torch.Generator().manual_seed(seed)
        if dtype == torch.uint8:
            pool = torch.randint(256, (images, *shape), dtype=torch.uint8, generator=generator)
            mean, std = torch.rand(2, shape[0], generator=generator).to(result).to(device)
            std = std + 0.2
        else:
            pool = torch.randn(images, *shape, generator=generator, dtype=torch.float64).to(dtype)
            mean = std = None
        rows = None
        if batch is not None:
            rows = torch.randint(max(images, 1), (batch,), generator=generator)
        count = images if batch is None else batch
        numbers = torch.tensor([AUGMENTATIONS.index(name) for name in operations])
        operation = numbers[torch.arange(count) % len(numbers)]
        uniform = torch.rand(count, 3, generator=generator, dtype=torch.float64)
        height, width = shape[1:]
        size = torch.tensor([height, width, 0])
        of_kind = {
            "none": uniform,
            "color": uniform * torch.tensor([1.0, 2.0, 1.0]) + torch.tensor([-0.5, 0.0, 0.5]),
            "crop": (uniform * (2 * FAREST + 1)).floor() - FAREST,
            "cutout": (uniform * (size + 1)).floor() - 1,
            "flip": uniform.round(),
            "scale": uniform * (1.2 - 1 / 1.2) + 1 / 1.2,
            "rotate": 0.5 * uniform - 0.25,
        }
        parameters = torch.stack([of_kind[name] for name in AUGMENTATIONS])[operation, torch.arange(count)]
        return cls(
            pool.to(device),
            None if rows is None else rows.to(device),
            operation.to(device),
            parameters.to(device),
            mean,
            std,
        )

    def arguments(self) -> tuple[object, ...]:
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def schema_arguments(self) -> tuple[object, ...]:
        """Those of torch.ops.dgdd.sample_augment."""
        *tensors, crop, cutout = self.arguments()
        return (*tensors, *([side, side] if isinstance(side, int) else list(side) for side in (crop, cutout)))

    def backward_arguments(self, gradient: Tensor) -> tuple[object, ...]:
        """Those of torch.ops.dgdd.sample_augment_backward."""
        _, rows, operation, parameters, _, _, crop, cutout = self.schema_arguments()
        return gradient, rows, operation, parameters, len(self.images), crop, cutout

    def in_float64(self) -> Augmentation:
        """The same numbers in float64 (uint8 images become float64)."""
        wide = {"images": self.images if self.images.dtype == torch.uint8 else self.images.double()}
        if self.mean is not None and self.std is not None:
            wide |= {"mean": self.mean.double(), "std": self.std.double()}
        return dataclasses.replace(self, **wide)
