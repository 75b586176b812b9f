"""DataDAM with batch normalisation, as released: the images of a pass share its statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import DistillConfig, Precision
from ..data import DomainDataset, normalise
from ..data.augment import augment, draw_siamese
from ..networks import ConvNet, initialise
from ..precision import autocast
from ..seeds import generator
from ..synthetic.gradients import ImageGradients
from ..synthetic.initial import filled_cells, real_batch
from ..synthetic.mosaics import decode
from .losses.attention import attention_vector
from .losses.mean import distribution_matching, group_means


class BatchMatching:
    """Compares in one pass of all synthetic images and one pass of all real images of the iteration; for each
    domain, in a pass of its real images alone.

    As every image of a pass changes the others' features, neither can be computed in parts: an iteration
    needs memory for all its real images at once. Nor is the union gradient the mean of the domains'.
    """

    terms: tuple[str, ...] = ("matching",)

    def __init__(
        self, sources: DomainDataset, config: DistillConfig, mean: Tensor, std: Tensor, device: torch.device
    ) -> None:
        """`config` is resolved."""
        self.config = config
        self.resolution = sources.resolution
        self.cells = sources.cells()
        self.pixels = sources.images.to(device)
        self.mean, self.std = mean.to(device), std.to(device)
        self.factor = config.factor or 1
        tiles_per_class = config.ipc * self.factor**2
        self.labels = torch.arange(sources.num_classes, device=device).repeat_interleave(tiles_per_class)
        self.network = ConvNet(sources.num_classes, sources.resolution, config.network).to(device)
        self.network.requires_grad_(False)

    def gradients(self, images: Tensor, iteration: int, by_domain: bool) -> ImageGradients:
        """The gradients at `images` [N, 3, h, w] with the network, augmentation and real batch of
        `iteration`."""
        config = self.config
        initialise(self.network, generator(config.seed, "network", iteration))
        draw = draw_siamese(
            config.augment, self.resolution, len(self.cells), generator(config.seed, "augment", iteration)
        )
        assert config.batch_real is not None
        rows, sizes = real_batch(self.cells, config.batch_real, config.seed, iteration)
        rows, sizes = rows.to(images.device), sizes.to(images.device)
        domains = sizes.shape[1]
        cells = torch.arange(sizes.numel(), device=images.device).repeat_interleave(sizes.flatten())
        pixels = normalise(self.pixels[rows], self.mean, self.std)
        real = augment(pixels, draw, cells // domains)
        leaf = images.detach().requires_grad_()
        synthetic = self._means(augment(decode(leaf, self.factor), draw, self.labels), self.labels, "float32")

        # The union first, then every domain.
        parts = [torch.ones_like(cells, dtype=torch.bool)]
        if by_domain:
            parts += [cells % domains == domain for domain in range(domains)]
        result = images.new_zeros(len(parts), *images.shape)
        losses = []
        for position, part in enumerate(parts):
            classes = cells[part] // domains
            with torch.no_grad():
                target = self._means(real[part], classes, config.precision)
            present = torch.bincount(classes, minlength=len(self.cells)) > 0
            loss = (distribution_matching(synthetic, target) * present).sum()
            (result[position],) = torch.autograd.grad(loss, leaf, retain_graph=True)
            losses.append(loss.detach())
        if not by_domain:
            return ImageGradients(losses[0][None], result[0], None, None)
        valid = filled_cells(sizes, self.labels)
        return ImageGradients(losses[0][None], result[0], result[1:], valid)

    def _means(self, images: Tensor, labels: Tensor, precision: Precision) -> Tensor:
        """[K, F], what is compared of each class, from one pass of all `images`."""
        with autocast(precision, images.device):
            activations, features = self.network.activations(images)
            vectors = attention_vector(activations[:-1], features, self.config.attention_power).float()
        return group_means(vectors, labels, len(self.cells))
