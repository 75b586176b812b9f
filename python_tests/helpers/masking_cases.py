"""Arguments that the tests of the masking operators share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# [C, *]: no trailing axis, one, two, three; odd, one and many channels; long and short planes.
SHAPES = [
    (9,),
    (5, 11),
    (7, 3, 4),
    (1, 6, 5),
    (33, 17, 3),
    (64, 16, 16),
    (130, 4, 4),
    (3, 1, 1),
    (4, 40, 60),
    (6, 2, 3, 5),
]


@dataclass
class Masking:
    """The arguments of one call of mask_channels; parts of them are those of the other two operators."""

    features: Tensor
    weight: Tensor
    domain_index: Tensor
    uniforms: Tensor
    num_masked: int
    rescale: bool = True
    normalize: bool = True
    per_pixel: bool = False

    @classmethod
    def drawn(
        cls,
        shape: tuple[int, ...] = (7, 3, 4),
        samples: int = 4,
        domains: int = 3,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        channels_last: bool = False,
        num_masked: int | None = None,
        rescale: bool = True,
        normalize: bool = True,
        per_pixel: bool = False,
        seed: int = 0,
    ) -> Masking:
        """Features [samples, *shape] as after a ReLU that keeps most; a third of the channels masked."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=generator, dtype=torch.float64).to(dtype)

        channels = shape[0]
        features = (normal(samples, *shape) + 0.5).relu()
        if channels_last:
            features = channels_last_copy(features)
        return cls(
            features=features.to(device),
            weight=normal(domains, channels).to(device),
            domain_index=torch.randint(domains, (samples,), generator=generator).to(device),
            uniforms=torch.rand(samples, channels, generator=generator, dtype=torch.float64)
            .to(dtype)
            .to(device),
            num_masked=channels // 3 if num_masked is None else num_masked,
            rescale=rescale,
            normalize=normalize,
            per_pixel=per_pixel,
        )

    def arguments(self) -> tuple[object, ...]:
        return (
            self.features,
            self.weight,
            self.domain_index,
            self.uniforms,
            self.num_masked,
            self.rescale,
            self.normalize,
            self.per_pixel,
        )

    def score_arguments(self) -> tuple[object, ...]:
        return self.features, self.weight, self.domain_index, self.per_pixel

    def mask_arguments(self, scores: Tensor) -> tuple[object, ...]:
        return scores, self.uniforms, self.num_masked, self.normalize


def channels_last_copy(features: Tensor) -> Tensor:
    return features.movedim(1, -1).contiguous().movedim(-1, 1)
