"""Spectral Gradient Surgery as its paper reads: plain PyTorch, one class and one domain at a time.

Read it beside the paper. `surgery` is Eq. 7 to 11, `dm_loss` Eq. 3, `class_gradient` Eq. 4 and 6, and
`literal_distill` the loop around them; the other losses are the objectives that SGS is joined to. From the
package come the data and the draws (weights, augmentation, real images), and none of its operators and
shortcuts: every class runs its own forwards, every domain its own backward, the union its own too, and the
spectrum is the full complex one. The tests hold `dgdd_fast.distill` to the same images; as a script it times
both:

    python examples/sgs_literal.py --iterations 5
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from dgdd_fast import DistillConfig, DomainDataset, NetworkConfig, SurgeryConfig, distill, load_dataset
from dgdd_fast.data import normalise
from dgdd_fast.data.augment import AugmentDraw, augment, draw_siamese
from dgdd_fast.matching.batches import real_batch
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.networks import ConvNet, initialise
from dgdd_fast.seeds import generator
from dgdd_fast.synthetic.initial import assign_domains, initial_tiles


def surgery(domain_grads: Tensor, union: Tensor, own: int | None, config: SurgeryConfig) -> Tensor:
    """SGS, Eq. 7-11 for one image: domain_grads [D, 3, H, W], union [3, H, W], `own` the image's domain, or
    None where the iteration drew no real image of it."""
    spectra = torch.fft.fft2(domain_grads)
    mean = spectra.mean(0)
    resultant_length = spectra.sum(0).abs() / (spectra.abs().sum(0) + config.eps)
    class_signal = torch.fft.ifft2(resultant_length * mean).real
    consensus = resultant_length * mean if config.consensus == "weighted" else mean
    deviation = torch.zeros_like(mean) if own is None else spectra[own] - consensus
    domain_signal = torch.fft.ifft2(deviation).real
    return union + config.alpha * class_signal + config.beta * domain_signal


def features_of(network: ConvNet, images: Tensor) -> Tensor:
    """The features of a ConvNet, layer by layer."""
    maps = images
    for block in network.stages:
        maps = F.conv2d(maps, block.convolution.weight, block.convolution.bias, padding=1)
        maps = F.group_norm(maps, maps.shape[1], block.norm.weight, block.norm.bias)
        maps = F.avg_pool2d(maps.relu(), 2)
    return maps.flatten(1)


def dm_loss(network: ConvNet, synthetic: Tensor, real: Tensor, **_: object) -> Tensor:
    """Distribution matching of one class (SGS, Eq. 3)."""
    return (features_of(network, synthetic).mean(0) - features_of(network, real).mean(0)).square().sum()


def hdd_loss(network: ConvNet, synthetic: Tensor, real: Tensor, **_: object) -> Tensor:
    """HDD-DM: 20 times the geodesic distance of the Lorentz centroids, in float64; features longer than 10
    count as long as 10."""

    def centroid(images: Tensor) -> Tensor:
        features = features_of(network, images).double()
        norm = features.norm(dim=1, keepdim=True)
        radius = torch.where(norm < 10, norm, 10)
        mean = torch.cat([radius.cosh(), radius.sinh() * features / norm], 1).mean(0)
        return mean / (mean[0].square() - mean[1:].square().sum()).sqrt()

    first, second = centroid(synthetic), centroid(real)
    cosine = first[0] * second[0] - first[1:] @ second[1:]
    return 20 * torch.log(cosine + (cosine.square() - 1).clamp_min(1e-15).sqrt())


def datadam_loss(
    network: ConvNet, synthetic: Tensor, real: Tensor, config: DistillConfig, **_: object
) -> Tensor:
    """DataDAM: attention maps of all blocks but the last, and the features."""

    def means(images: Tensor) -> list[Tensor]:
        maps, result = images, []
        for block in network.stages:
            convolved = F.conv2d(maps, block.convolution.weight, block.convolution.bias, padding=1)
            active = F.instance_norm(convolved, weight=block.norm.weight, bias=block.norm.bias).relu()
            attention = active.pow(config.attention_power).sum(1).flatten(1)
            result.append((attention / attention.norm(dim=1, keepdim=True)).mean(0))
            maps = F.avg_pool2d(active, 2)
        return [*result[:-1], maps.flatten(1).mean(0)]

    *attention, features = (
        (own - other).square().sum() for own, other in zip(means(synthetic), means(real), strict=True)
    )
    return 100 * sum(attention) + 100 * 0.01 * features


def m3d_loss(
    network: ConvNet, synthetic: Tensor, real: Tensor, config: DistillConfig, union: Tensor, **_: object
) -> Tensor:
    """M3D: squared maximum mean discrepancy with five Gaussian kernels, pair by pair."""
    features, targets = features_of(network, synthetic), features_of(network, real)
    basis = features_of(network, union) if config.kernel_bandwidth == "union" else targets
    rows = torch.cat([features, basis]).detach()
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    bandwidth = torch.cdist(rows, rows, **exact).square().sum() / (len(rows) ** 2 - len(rows))

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        squares = (first[:, None] - second).square().sum(2)
        return sum((-squares / (bandwidth * 2.0**power)).exp().mean() for power in range(-2, 3))

    return kernel(targets, targets) - 2 * kernel(targets, features) + kernel(features, features)


def dc_loss(network: ConvNet, synthetic: Tensor, real: Tensor, label: int, **_: object) -> Tensor:
    """DC: 1 - cosine of the weight gradients of each output channel, layer by layer."""
    weights = [block.convolution.weight for block in network.stages] + [network.classifier.weight]

    def gradients(images: Tensor) -> tuple[Tensor, ...]:
        maps = images
        for block in network.stages:
            convolved = F.conv2d(maps, block.convolution.weight, block.convolution.bias, padding=1)
            active = F.instance_norm(convolved, weight=block.norm.weight, bias=block.norm.bias).relu()
            maps = F.avg_pool2d(active, 2)
        loss = F.cross_entropy(network.classifier(maps.flatten(1)), torch.full((len(images),), label))
        return torch.autograd.grad(loss, weights, create_graph=True)

    total = torch.zeros(())
    for own, other in zip(gradients(synthetic), gradients(real), strict=True):
        for row, target in zip(own.flatten(1), other.detach().flatten(1), strict=True):
            total = total + 1 - row @ target / (row.norm() * target.norm()).clamp_min(1e-16)
    return total


LOSSES = {"dm": dm_loss, "hdd": hdd_loss, "datadam": datadam_loss, "m3d": m3d_loss, "dc": dc_loss}


def class_gradient(
    network: ConvNet,
    draw: AugmentDraw,
    config: DistillConfig,
    label: int,
    synthetic: Tensor,
    real: Tensor,
    union: Tensor,
) -> Tensor:
    """The gradient of one class's synthetic images against `real`, some of its real images (SGS, Eq. 4, 6);
    `union` are all of them."""
    seen, target, union = (
        augment(images, draw, torch.full((len(images),), label)) for images in (synthetic, real, union)
    )
    loss = LOSSES[config.objective](network, seen, target, config=config, union=union, label=label)
    return torch.autograd.grad(loss, synthetic)[0]


def literal_distill(sources: DomainDataset, config: DistillConfig) -> Tensor:
    """The synthetic images [K * IPC, 3, H, W] after `config.iterations` iterations."""
    config = resolve_distillation(config, sources)
    mean, std = sources.channel_statistics()
    assigned = assign_domains(sources.counts(), config.ipc)
    images = initial_tiles(sources, assigned, config, mean, std)
    by_class = [part.clone().requires_grad_() for part in images.split(config.ipc)]
    optimizers = [torch.optim.SGD([part], lr=config.image_lr, momentum=config.momentum) for part in by_class]
    cells = sources.cells()
    network = ConvNet(sources.num_classes, sources.resolution, config.network)
    network.requires_grad_(config.objective == "dc")
    for iteration in range(config.iterations):
        initialise(network, generator(config.seed, "network", iteration))
        draw = draw_siamese(
            config.augment, sources.resolution, len(cells), generator(config.seed, "augment", iteration)
        )
        literal = config.union == "literal"
        rows, sizes = real_batch(cells, config.batch_real, config.seed, iteration, literal)
        batches = rows.split(sizes.flatten().tolist())
        for label, synthetic in enumerate(by_class):
            own_batches = batches[label * sizes.shape[1] : (label + 1) * sizes.shape[1]]
            real = [normalise(sources.images[batch], mean, std) for batch in own_batches]
            against = functools.partial(
                class_gradient, network, draw, config, label, synthetic, union=torch.cat(real)
            )
            gradient = against(torch.cat(real))
            if config.surgery is not None:
                filled = [domain for domain, batch in enumerate(own_batches) if len(batch)]
                domain_grads = torch.stack([against(real[domain]) for domain in filled])
                place = {domain: index for index, domain in enumerate(filled)}
                own_domains = [place.get(domain) for domain in assigned[label].tolist()]
                update = torch.stack(
                    [
                        surgery(domain_grads[:, index], gradient[index], own, config.surgery)
                        for index, own in enumerate(own_domains)
                    ]
                )
                if config.surgery.length == "gradient":
                    update *= gradient.norm() / update.norm()
                gradient = update
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
