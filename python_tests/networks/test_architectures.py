"""AlexNet, VGG-11 and the ResNets: layers, sizes, heads, initialisation, the way in and out at each stage."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dgdd_fast.config import NetworkConfig
from dgdd_fast.networks import (
    build_network,
    describe_network,
    initialise,
    resolve_network,
    rows_per_chunk,
)

ARCHITECTURES = ("convnet", "alexnet", "vgg11", "resnet18", "resnet50")
RESNETS = ("resnet18", "resnet50")
NORMS = ("instance", "batch")


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small(architecture, resolution, norm="instance", width=4, classes=3):
    """A small network with parameters that are all different from their defaults."""
    network = build_network(
        classes, resolution, NetworkConfig(architecture=architecture, width=width, norm=norm)
    )
    initialise(network, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for index, module in enumerate(network.modules()):
            if isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
                module.weight.add_(random(len(module.weight), seed=index), alpha=0.3)
                module.bias.add_(random(len(module.weight), seed=-index), alpha=0.3)
    return network


class Plain:
    """The layers in the order of their parameters, in contiguous tensors, with PyTorch's own operations."""

    def __init__(self, network, norm):
        self.parameters = iter([p for n, p in network.named_parameters() if not n.startswith("classifier")])
        self.norm = norm

    def convolution(self, images, stride=1, bias=False):
        weight = next(self.parameters)
        offset = next(self.parameters) if bias else None
        images = F.conv2d(images.contiguous(), weight, offset, stride, padding=weight.shape[2] // 2)
        scale, shift = next(self.parameters), next(self.parameters)
        if self.norm == "instance":
            return F.group_norm(images, images.shape[1], scale, shift, 1e-5)
        return F.batch_norm(images, None, None, scale, shift, training=True)

    def residual(self, images, strides, changes):
        branch = images
        for index, stride in enumerate(strides):
            branch = self.convolution(F.relu(branch) if index else branch, stride)
        if changes:
            images = self.convolution(images, math.prod(strides))
        return F.relu(branch + images)


def plain_features(network, architecture, images, norm):
    plain = Plain(network, norm)
    if architecture == "alexnet":
        for pooled in (True, True, False, False, True):
            images = F.relu(plain.convolution(images, bias=True))
            images = F.max_pool2d(images, 2) if pooled else images
        cells = [max(1, side // 4) for side in images.shape[2:]]
        return F.avg_pool2d(images, cells).flatten(1)
    if architecture == "vgg11":
        for count in (1, 1, 2, 2, 2):
            for _ in range(count):
                images = F.relu(plain.convolution(images, bias=True))
            images = F.max_pool2d(images, 2)
        return images.mean((2, 3))
    side = min(images.shape[2:])
    images = F.relu(plain.convolution(images, 1 if side <= 128 else 2))
    if side > 64:
        images = F.max_pool2d(images, 3, stride=2, padding=1)
    counts = (2, 2, 2, 2) if architecture == "resnet18" else (3, 4, 6, 3)
    for stage, count in enumerate(counts):
        for index in range(count):
            stride = 2 if stage and not index else 1
            strides = (stride, 1) if architecture == "resnet18" else (1, stride, 1)
            changes = index == 0 and (stage > 0 or architecture == "resnet50")
            images = plain.residual(images, strides, changes)
    return images.mean((2, 3))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("architecture", "resolution"),
    [
        ("alexnet", (32, 32)),
        ("alexnet", (33, 75)),
        ("vgg11", (32, 47)),
        ("resnet18", (16, 16)),
        ("resnet18", (17, 30)),
        ("resnet18", (66, 69)),
        ("resnet18", (129, 131)),
        ("resnet50", (16, 21)),
    ],
)
def test_equals_the_plain_layers_with_gradients(architecture, resolution, norm):
    network = small(architecture, resolution, norm, width=2).double()
    images = random(3, 3, *resolution, dtype=torch.float64).requires_grad_()
    inputs = [images, *(p for n, p in network.named_parameters() if not n.startswith("classifier"))]
    features = network.features(images)
    expected = plain_features(network, architecture, images, norm)
    assert features.shape == (3, network.feature_dim)
    torch.testing.assert_close(features, expected)
    cotangent = random(*features.shape, seed=9, dtype=torch.float64)
    actual = torch.autograd.grad(features, inputs, cotangent)
    wanted = torch.autograd.grad(expected, inputs, cotangent)
    for one, other in zip(actual, wanted, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(network(images), F.linear(expected, *network.classifier.parameters()))


# Parameters: 10 classes at 32 px. Operations: published multiplications and additions of one image, in MFLOP.
@pytest.mark.parametrize(
    ("architecture", "parameters", "megaflops"),
    [("convnet", 320_010, 101), ("vgg11", 9_231_114, 306), ("resnet18", 11_173_962, 1112)],
)
def test_parameters_and_operations_at_the_usual_width(architecture, parameters, megaflops):
    with torch.device("meta"):
        network = build_network(10, (32, 32), NetworkConfig(architecture=architecture))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 32, 32, device="meta"))
    assert counter.get_total_flops() / 1e6 == pytest.approx(megaflops, rel=0.01)


@pytest.mark.parametrize(
    ("architecture", "dimensions"),
    [
        ("alexnet", {(32, 32): 3072, (64, 64): 3072, (128, 128): 3072, (224, 224): 3072, (57, 39): 192 * 28}),
        ("vgg11", {(32, 32): 512, (64, 64): 512, (128, 128): 512, (224, 224): 512, (33, 71): 512}),
        ("resnet18", {(32, 32): 512, (64, 64): 512, (128, 128): 512, (224, 224): 512, (9, 9): 512}),
        ("resnet50", {(32, 32): 2048, (64, 64): 2048, (128, 128): 2048, (224, 224): 2048, (45, 23): 2048}),
    ],
)
def test_heads_follow_the_resolution(architecture, dimensions):
    for resolution, dimension in dimensions.items():
        with torch.device("meta"):
            network = build_network(7, resolution, NetworkConfig(architecture=architecture))
            assert network.feature_dim == dimension
            images = torch.empty(2, 3, *resolution)
            assert network.features(images).shape == (2, dimension)
            assert network(images).shape == (2, 7)


@pytest.mark.parametrize(("side", "first"), [(64, 64), (65, 33), (128, 64), (129, 33), (224, 56)])
def test_the_stem_follows_the_resolution(side, first):
    with torch.device("meta"):
        network = build_network(2, (side, side), NetworkConfig(architecture="resnet18"))
        maps = network.forward_to(torch.empty(1, 3, side, side), 0)
    assert maps.shape == (1, 64, first, first)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("architecture", RESNETS)
def test_a_resnet_can_be_left_and_entered_at_every_stage(architecture, norm):
    network = small(architecture, (17, 24), norm)
    images = random(3, 3, 17, 24)
    expected = network.features(images)
    loss = (expected * random(*expected.shape, seed=1)).sum()
    gradients = torch.autograd.grad(loss, list(network.stages.parameters()))
    for stage in range(5):
        maps = network.forward_to(images, stage)
        assert maps.shape[:2] == (3, network.channels[stage - 1] if stage else 4)
        before = maps.detach().clone()
        for _ in range(2):  # two passes share what lies below
            features = network.forward_from(maps, stage)
            assert features.equal(expected)
            loss = (features * random(*expected.shape, seed=1)).sum()
            again = torch.autograd.grad(loss, list(network.stages.parameters()), retain_graph=True)
            assert all(one.equal(other) for one, other in zip(again, gradients, strict=True))
        assert maps.equal(before)
    for stage in (-1, 5):
        with pytest.raises(ValueError, match="stage must be 0"):
            network.forward_to(images, stage)
        with pytest.raises(ValueError, match="stage must be 0"):
            network.forward_from(maps, stage)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_instance_norm_treats_images_alone(architecture):
    network = small(architecture, (32, 32))
    images = random(4, 3, 32, 32)
    torch.testing.assert_close(network(images)[2:], network(images[2:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", RESNETS)
def test_a_resnet_is_initialised_he_normal(architecture):
    network = build_network(10, (32, 32), NetworkConfig(architecture=architecture, width=32))
    initialise(network, torch.Generator().manual_seed(0))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            out, _, height, width = module.weight.shape
            unit = module.weight.detach().flatten().double() / math.sqrt(2 / (out * height * width))
            # Five standard deviations of the mean and of the variance of standard normal numbers.
            assert unit.mean().abs() < 5 / math.sqrt(unit.numel())
            assert (unit.var() - 1).abs() < 5 * math.sqrt(2 / unit.numel())
            assert module.bias is None
    weight = network.classifier.weight.detach()
    assert weight.abs().max() <= 1 / math.sqrt(network.feature_dim)
    assert weight.abs().mean() == pytest.approx(0.5 / math.sqrt(network.feature_dim), rel=0.05)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initialise_refills_everything_and_depends_on_the_generator_only(architecture, norm):
    config = NetworkConfig(architecture=architecture, width=4, norm=norm)
    used, fresh = (build_network(3, (32, 32), config) for _ in range(2))
    used(random(3, 3, 32, 32))
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.fill_(7.0)
    before = [parameter.data_ptr() for parameter in used.parameters()]
    state = torch.get_rng_state()
    for network in (used, fresh):
        initialise(network, torch.Generator().manual_seed(5))
    assert before == [parameter.data_ptr() for parameter in used.parameters()]
    assert used.state_dict().keys() == fresh.state_dict().keys()
    assert all(value.equal(fresh.state_dict()[name]) for name, value in used.state_dict().items())
    initialise(fresh, torch.Generator().manual_seed(6))
    assert not fresh.classifier.weight.equal(used.classifier.weight)
    assert torch.get_rng_state().equal(state)


def test_chunks_bound_the_largest_map():
    cpu = torch.device("cpu")
    for architecture, resolution, size in (
        ("resnet18", (32, 32), 64 * 32 * 32),
        ("resnet18", (128, 128), 64 * 128 * 128),  # the stem, before its pooling
        ("resnet50", (32, 32), 256 * 32 * 32),
        ("vgg11", (32, 64), 64 * 32 * 64),
        ("alexnet", (64, 64), 128 * 64 * 64),
    ):
        network = build_network(2, resolution, NetworkConfig(architecture=architecture))
        assert max(network.map_sizes) == size
        assert rows_per_chunk(network, cpu) == 2**21 // size
    batch = build_network(2, (32, 32), NetworkConfig(architecture="vgg11", width=8, norm="batch"))
    state = {name: value.clone() for name, value in batch.state_dict().items()}
    assert len(batch.map_sizes) == 8
    assert batch.training
    assert all(value.equal(state[name]) for name, value in batch.state_dict().items())


def test_settings_are_written_out_and_described():
    resolved = resolve_network(NetworkConfig(), (64, 64))
    assert (resolved.width, resolved.depth) == (128, 4)
    assert describe_network(resolved) == "ConvNet (width 128, depth 4, instance norm)"
    resolved = resolve_network(NetworkConfig(architecture="resnet18", norm="batch"), (64, 64))
    assert (resolved.width, resolved.depth) == (64, None)
    assert describe_network(resolved) == "ResNet-18 (width 64, batch norm)"
    with pytest.raises(ValueError, match=r"network\.depth is for a convnet; the depth of vgg11 is its own"):
        build_network(2, (32, 32), NetworkConfig(architecture="vgg11", depth=3))


def test_sizes_that_do_not_fit_are_refused():
    for architecture, side, message in (
        ("alexnet", 7, "at least 8 px, got 7 x 7"),
        ("vgg11", 31, "at least 32 px, got 31 x 31"),
        ("resnet18", 8, "more than 8 px, got 8 x 8"),
    ):
        with pytest.raises(ValueError, match=message):
            build_network(2, (side, side), NetworkConfig(architecture=architecture))
        with pytest.raises(ValueError, match="width must be at least 1"):
            build_network(2, (32, 32), NetworkConfig(architecture=architecture, width=0))
        with pytest.raises(ValueError, match="norm must be"):
            build_network(2, (32, 32), NetworkConfig(architecture=architecture, norm="layer"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_devices_agree(device, architecture):
    network = small(architecture, (32, 32), width=8)
    images = random(2, 3, 32, 32)
    expected = network(images)
    actual = network.to(device)(images.to(device)).cpu()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
