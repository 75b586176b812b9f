"""Distribution matching and Spectral Gradient Surgery as the paper reads: plain PyTorch, one class and one
domain at a time.

The yardstick for `dgdd_fast.distill`: same draws (network, augmentation, real images), none of its shortcuts.
Every class runs its own forwards, every domain its own backward, the union its own too, and the spectrum is
the full complex one.

    python bench/literal_driver.py --iterations 5
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import torch
from torch import Tensor

from dgdd_fast.augment import AugmentDraw, augment, draw_siamese
from dgdd_fast.config import DistillConfig, NetworkConfig, SurgeryConfig
from dgdd_fast.data import DomainDataset, load_dataset, normalise
from dgdd_fast.distill import distill, resolve
from dgdd_fast.networks import ConvNet, initialise
from dgdd_fast.sampling import assign_domains, initial_tiles, real_batch
from dgdd_fast.seeds import generator


def surgery(domain_grads: Tensor, union: Tensor, own: int, config: SurgeryConfig) -> Tensor:
    """SGS, Eq. 7-11 for one image: domain_grads [D, 3, H, W], union [3, H, W], `own` the image's domain."""
    spectra = torch.fft.fft2(domain_grads)
    mean = spectra.mean(0)
    resultant_length = spectra.sum(0).abs() / (spectra.abs().sum(0) + config.eps)
    class_signal = torch.fft.ifft2(resultant_length * mean).real
    consensus = resultant_length * mean if config.consensus == "weighted" else mean
    domain_signal = torch.fft.ifft2(spectra[own] - consensus).real
    return union + config.alpha * class_signal + config.beta * domain_signal


def dm_gradient(network: ConvNet, draw: AugmentDraw, label: int, synthetic: Tensor, real: Tensor) -> Tensor:
    """The DM gradient of one class's synthetic images against some of its real images (SGS, Eq. 3, 4, 6)."""

    def mean_feature(images: Tensor) -> Tensor:
        return network.features(augment(images, draw, torch.full((len(images),), label))).mean(0)

    with torch.no_grad():
        target = mean_feature(real)
    loss = (mean_feature(synthetic) - target).square().sum()
    return torch.autograd.grad(loss, synthetic)[0]


def literal_distill(sources: DomainDataset, config: DistillConfig) -> Tensor:
    """The synthetic images [K * IPC, 3, H, W] after `config.iterations` iterations."""
    config = resolve(config, sources)
    mean, std = sources.channel_statistics()
    assigned = assign_domains(sources.counts(), config.ipc)
    images = initial_tiles(sources, assigned, config, mean, std)
    by_class = [part.clone().requires_grad_() for part in images.split(config.ipc)]
    optimizers = [torch.optim.SGD([part], lr=config.image_lr, momentum=config.momentum) for part in by_class]
    cells = sources.cells()
    network = ConvNet(sources.num_classes, sources.resolution, config.network).requires_grad_(False)
    for iteration in range(config.iterations):
        initialise(network, generator(config.seed, "network", iteration))
        draw = draw_siamese(
            config.augment, sources.resolution, len(cells), generator(config.seed, "augment", iteration)
        )
        rows, sizes = real_batch(cells, config.batch_real, config.seed, iteration)
        batches = rows.split(sizes.flatten().tolist())
        for label, synthetic in enumerate(by_class):
            own_batches = batches[label * sizes.shape[1] : (label + 1) * sizes.shape[1]]
            real = [normalise(sources.images[batch], mean, std) for batch in own_batches]
            gradient = dm_gradient(network, draw, label, synthetic, torch.cat(real))
            if config.surgery is not None:
                filled = [domain for domain, batch in enumerate(own_batches) if len(batch)]
                domain_grads = torch.stack(
                    [dm_gradient(network, draw, label, synthetic, real[domain]) for domain in filled]
                )
                own_domains = [filled.index(domain) for domain in assigned[label].tolist()]
                gradient = torch.stack(
                    [
                        surgery(domain_grads[:, index], gradient[index], own, config.surgery)
                        for index, own in enumerate(own_domains)
                    ]
                )
            synthetic.grad = gradient
            optimizers[label].step()
    return torch.cat([part.detach() for part in by_class])


def main() -> None:
    parser = argparse.ArgumentParser(description="time the distillation loop against the literal formulation")
    parser.add_argument("--data", default="embedded-digits", help="embedded-digits or a folder")
    parser.add_argument("--target", default=None, help="the held-out domain (default: the last one)")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--batch-real", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    dataset = load_dataset(options.data)
    sources = dataset.leave_out(options.target or dataset.domain_names[-1]).sources_train
    for surgery_config in (None, SurgeryConfig()):
        config = DistillConfig(
            surgery=surgery_config,
            ipc=options.ipc,
            iterations=options.iterations,
            batch_real=options.batch_real,
            network=NetworkConfig(width=options.width),
        )
        for warm_up in (distill, literal_distill):
            warm_up(sources, dataclasses.replace(config, iterations=1))
        began = time.perf_counter()
        fast = distill(sources, config).images
        middle = time.perf_counter()
        literal = literal_distill(sources, config)
        ended = time.perf_counter()
        print(
            f"{'dm' if surgery_config is None else 'dm+sgs'}: this package "
            f"{(middle - began) / options.iterations:.3f} s/iteration, literal "
            f"{(ended - middle) / options.iterations:.3f} s/iteration, largest difference of a pixel "
            f"{(fast - literal).abs().max():.1e} (image standard deviations)"
        )


if __name__ == "__main__":
    main()
