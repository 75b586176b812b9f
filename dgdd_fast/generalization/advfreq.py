"""AdvFreq: the adversarial perturbation of the style that lies in low-frequency amplitudes (He et al.,
2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..networks import Network
from ..precision import at_least_float32

LOW_FREQUENCIES = 0.1
STEPS = 5
STEP_SIZE = 1.0
FLOOR = 1e-4


class AdvFreq:
    """The cross entropy of a batch whose low-frequency amplitudes have a mean and deviation that the network
    finds hard.

    The amplitudes of each image and channel in a window of low frequencies (`low_frequencies`) are shifted
    and stretched to another mean and deviation: their own, plus a direction times the spread of such
    statistics over the batch. The directions start standard normal and climb the loss by the sign of its
    gradient, `STEPS` times.
    """

    def __init__(self, network: Network, mean: Tensor, std: Tensor, random: torch.Generator) -> None:
        self.network, self.random = network, random
        self.mean, self.std = mean[:, None, None], std[:, None, None]

    def __call__(self, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        style = LowFrequencyStyle(images * self.std + self.mean)
        directions = torch.randn(2, len(images), images.shape[1], generator=self.random).to(images)
        for _ in range(STEPS):
            directions.requires_grad_()
            loss = self._loss(style, directions, labels)
            (slope,) = torch.autograd.grad(loss, directions)
            directions = (directions + STEP_SIZE * slope.sign()).detach()
        return self._loss(style, directions, labels)

    def _loss(self, style: LowFrequencyStyle, directions: Tensor, labels: Tensor) -> Tensor:
        logits = at_least_float32(self.network(self._restyled(style, directions)))
        return F.cross_entropy(logits, labels)

    def _restyled(self, style: LowFrequencyStyle, directions: Tensor) -> Tensor:
        mean, std = style.statistics + directions * style.spread
        return (style.pixels(mean, std) - self.mean) / self.std


class LowFrequencyStyle:
    """Images taken apart into low-frequency amplitudes and all the rest.

    Attributes:
        statistics: [2, B, C], mean and deviation of the low-frequency amplitudes of each image and channel.
        spread: [2, 1, C], the deviation of these statistics over the batch, and a little.
    """

    def __init__(self, images: Tensor) -> None:
        """`images` [B, C, H, W] are pixel intensities: amplitudes of normalised images would be those of
        deviations from the mean."""
        self.size = images.shape[-2:]
        spectrum = torch.fft.fft2(images)
        self.amplitude, self.phase = spectrum.abs(), spectrum.angle()
        rows, columns = (low_frequencies(side).to(images.device) for side in self.size)
        self.window = rows[:, None] & columns
        low = self.amplitude[..., self.window]
        self.statistics = torch.stack([low.mean(-1), low.std(-1)])
        self.normalised = (low - low.mean(-1, keepdim=True)) / (low.std(-1, keepdim=True) + FLOOR)
        # A batch of one has no spread.
        deviation = self.statistics.std(1, keepdim=True) if len(images) > 1 else 0 * self.statistics
        self.spread = deviation + FLOOR

    def pixels(self, mean: Tensor, std: Tensor) -> Tensor:
        """The images with their low-frequency amplitudes at another `mean` and deviation `std`, [B, C] each.

        A real image has a frequency and its opposite alike. Where the window holds only one of the two, the
        real part that is returned has half of the change at both.
        """
        low = (self.normalised * std[..., None] + mean[..., None]).clamp_min(0)
        places = self.window.expand(self.amplitude.shape)
        amplitude = self.amplitude.masked_scatter(places, low)
        result: Tensor = torch.fft.ifft2(torch.polar(amplitude, self.phase)).real
        return result


def low_frequencies(side: int) -> Tensor:
    """Which of the `side` frequencies of a transform are low: those within `LOW_FREQUENCIES` of half the
    side, rounded as released: -2 to 0 of 32, -4 to 2 of 64; on small sides at least -1 and 0."""
    half = side // 2
    first, last = int((1 - LOW_FREQUENCIES) * half), max(int((1 + LOW_FREQUENCIES) * half) - 1, half)
    place = torch.arange(side)
    window: Tensor = torch.fft.ifftshift((place >= first) & (place <= last))
    return window
