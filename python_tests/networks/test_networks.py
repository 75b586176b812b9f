import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dgdd_fast.config import EvaluateConfig, NetworkConfig
from dgdd_fast.networks import (
    ConvNet,
    Network,
    allow_second_derivatives,
    build,
    bytes_per_image,
    default_depth,
    initialise,
    network_bytes,
    network_on_meta,
    rows_per_chunk,
    staged,
)
from dgdd_fast.networks import network as network_module
from dgdd_fast.networks.instance_norm import instance_norm
from dgdd_fast.ops import norm_relu_pool
from dgdd_fast.training import check_training, resolve_training, train_network


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain_features(network, images, norm):
    """The features, layer by layer, in contiguous tensors and with PyTorch's own normalisation."""
    for block in network.stages:
        images = F.conv2d(images.contiguous(), block.convolution.weight, block.convolution.bias, padding=1)
        if norm == "instance":
            images = F.group_norm(images, images.shape[1], block.norm.weight, block.norm.bias, 1e-5)
        elif norm == "batch":
            images = F.batch_norm(images, None, None, block.norm.weight, block.norm.bias, training=True)
        images = F.avg_pool2d(F.relu(images), 2)
    return images.reshape(len(images), -1)


@pytest.mark.parametrize(
    ("resolution", "depth"),
    [
        ((32, 32), 3),
        ((64, 64), 4),
        ((128, 128), 5),
        ((28, 28), 2),
        ((224, 227), 5),
        ((64, 33), 3),
        ((5, 5), 1),
    ],
)
def test_depth_follows_the_shorter_side(resolution, depth):
    assert default_depth(resolution) == depth


@pytest.mark.parametrize("resolution", [(32, 32), (64, 64), (128, 128)])
def test_features_of_the_standard_resolutions(resolution):
    network = ConvNet(7, resolution)
    assert network.feature_dim == 2048
    assert network(torch.zeros(1, 3, *resolution)).shape == (1, 7)
    assert [block.convolution.out_channels for block in network.stages] == [128] * default_depth(resolution)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize(("resolution", "depth"), [((16, 16), 2), ((13, 22), 3), ((8, 31), None)])
def test_equals_the_plain_layers_with_gradients(norm, resolution, depth):
    network = ConvNet(3, resolution, NetworkConfig(width=5, depth=depth, norm=norm), channels=2).double()
    for i, parameter in enumerate(network.parameters()):
        parameter.data = random(*parameter.shape, seed=i, dtype=torch.float64)
    images = random(4, 2, *resolution, dtype=torch.float64).requires_grad_()
    inputs = [images, *network.stages.parameters()]
    features, expected = network.features(images), plain_features(network, images, norm)
    assert features.shape == (4, network.feature_dim)
    torch.testing.assert_close(features, expected)
    cotangent = random(*features.shape, seed=9, dtype=torch.float64)
    for actual, wanted in zip(
        torch.autograd.grad(features, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted)
    with torch.inference_mode():
        torch.testing.assert_close(network.features(images.detach()), expected.detach())


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_one_operator_ends_a_block_where_first_derivatives_suffice(norm, monkeypatch):
    calls = []

    def noted(*arguments):
        calls.append(arguments[-1])
        return norm_relu_pool(*arguments)

    monkeypatch.setattr("dgdd_fast.networks.network.norm_relu_pool", noted)
    network = ConvNet(3, (16, 16), NetworkConfig(width=4, depth=2, norm=norm)).double()
    initialise(network, torch.Generator().manual_seed(0))
    images = random(3, 3, 16, 16, dtype=torch.float64).requires_grad_()
    expected = network.features(images)
    maps, features = network.activations(images)
    assert calls == ([2, 2, 1, 1] if norm == "instance" else [])
    torch.testing.assert_close(features, expected)
    assert [tuple(each.shape[1:]) for each in maps] == [(4, 16, 16), (4, 8, 8)]

    calls.clear()
    names = list(network.state_dict())
    allow_second_derivatives(network)
    twice = network.features(images)
    assert not calls
    assert list(network.state_dict()) == names
    torch.testing.assert_close(twice, expected)
    (grad,) = torch.autograd.grad(twice.square().sum(), images, create_graph=True)
    torch.autograd.grad(grad.square().sum(), network.stages[0].convolution.weight)


def test_blocks_for_tensor_cores_keep_the_channels_innermost(monkeypatch):
    """From the first convolution on, with the results of planes."""
    network = ConvNet(3, (16, 16), NetworkConfig(width=4, depth=2)).double()  # not convolved by own operators
    images = random(3, 3, 16, 16, dtype=torch.float64)
    monkeypatch.setattr(network_module, "channels_innermost", lambda images: images)  # as on a GPU
    monkeypatch.setattr(staged, "channels_innermost", lambda images: images)
    expected = network.features(images)
    monkeypatch.setattr(network_module, "_goes_to_tensor_cores", lambda maps: True)
    seen = []
    for block in network.stages:
        block.convolution.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    torch.testing.assert_close(network.features(images), expected)
    assert all(maps.is_contiguous(memory_format=torch.channels_last) for pair in seen for maps in pair)
    assert len(seen) == 2


def test_features_leave_autocast_as_wide_as_the_parameters():
    network = ConvNet(3, (16, 16), NetworkConfig(width=4))
    with torch.autocast("cpu", torch.bfloat16):
        assert network.features(random(2, 3, 16, 16)).dtype == torch.float32


def test_chunks_bound_the_maps_of_the_first_block():
    cpu = torch.device("cpu")
    assert rows_per_chunk(ConvNet(2, (32, 32)), cpu) == 16
    assert rows_per_chunk(ConvNet(2, (64, 32), NetworkConfig(width=64)), cpu) == 16
    assert rows_per_chunk(ConvNet(2, (512, 512)), cpu) == 1
    assert rows_per_chunk(ConvNet(2, (32, 32)), torch.device("cuda")) == 1024


def test_memory_of_an_image_counts_every_map():
    network = ConvNet(2, (32, 16), NetworkConfig(width=8, depth=3))
    assert network.map_sizes == (8 * 32 * 16, 8 * 16 * 8, 8 * 8 * 4)
    assert bytes_per_image(network, graph=True) == 12 * 8 * (512 + 128 + 32)
    assert bytes_per_image(network, graph=False) == 12 * 8 * 512


def test_instance_norm_treats_images_alone():
    network = ConvNet(3, (16, 16), NetworkConfig(width=8))
    images = random(6, 3, 16, 16)
    torch.testing.assert_close(network(images)[2:4], network(images[2:4]))


class Linear(Network):
    """No convolution."""

    def __init__(self):
        super().__init__(3, (3, 8, 8), 1, 192)

    def features(self, images):
        return images.flatten(1)


def test_a_network_without_convolutions_has_chunks_too():
    network = Linear()
    assert network.map_sizes == (192, 192)
    assert rows_per_chunk(network, torch.device("cpu")) == 2**21 // 192
    assert bytes_per_image(network, graph=False) == 12 * 192


def test_the_size_of_a_network_is_known_without_memory_for_it():
    huge = NetworkConfig(width=100_000)
    assert network_bytes(10, (32, 32), huge) > 4 * 2 * 9 * 100_000**2
    network = network_on_meta(3, (16, 16), NetworkConfig(width=4))
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    with pytest.raises(ValueError, match="needs sides of at least 16 px"):
        network_on_meta(3, (8, 8), NetworkConfig(depth=4))


COMPUTATIONS = {
    "item": lambda: torch.ones(2).sum().item(),
    "list": lambda: torch.linspace(0, 1, 3).tolist(),
    "numpy": lambda: torch.linspace(0, 1, 3).numpy(),
    "nonzero": lambda: torch.ones(3).nonzero(),
}


@pytest.mark.parametrize("computation", COMPUTATIONS)
def test_a_network_that_computes_while_it_is_built_is_of_unknown_size(computation, monkeypatch):
    class Computing(ConvNet):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            COMPUTATIONS[computation]()

    monkeypatch.setitem(build._NETWORKS, "convnet", Computing)
    config = NetworkConfig(width=4)
    assert network_bytes(3, (16, 16), config) == 0
    images = random(2, 3, 16, 16)
    settings = resolve_training(EvaluateConfig(runs=1, epochs=1, network=config), (16, 16), flip_safe=True)
    check_training(settings, 3, (16, 16))
    network = train_network(images, torch.tensor([0, 2]), 3, settings)
    assert isinstance(network, Computing)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"depth 4.*at least 16 px, got 15 x 64"):
        ConvNet(3, (15, 64), NetworkConfig(depth=4))
    with pytest.raises(ValueError, match="depth must be at least 1"):
        ConvNet(3, (16, 16), NetworkConfig(depth=0))
    with pytest.raises(ValueError, match="num_classes"):
        ConvNet(0, (16, 16))
    with pytest.raises(ValueError, match="norm must be"):
        ConvNet(3, (16, 16), NetworkConfig(norm="layer"))  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_initialise_repeats_the_default_initialisation_of_pytorch(norm):
    config = NetworkConfig(width=9, norm=norm)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        fresh = ConvNet(4, (20, 16), config)
    used = ConvNet(4, (20, 16), config)
    used(random(3, 3, 20, 16))
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.fill_(7.0)
    before = [parameter.data_ptr() for parameter in used.parameters()]
    initialise(used, torch.Generator().manual_seed(5))
    assert before == [parameter.data_ptr() for parameter in used.parameters()]
    assert fresh.state_dict().keys() == used.state_dict().keys()
    for name, value in fresh.state_dict().items():
        torch.testing.assert_close(used.state_dict()[name], value, rtol=1e-6, atol=0, msg=name)


def test_initialise_is_uniform_with_the_bound_of_the_fan_in():
    network = ConvNet(10, (32, 32))
    initialise(network, torch.Generator().manual_seed(0))
    for layer, fan_in in ((network.stages[1].convolution, 128 * 9), (network.classifier, 2048)):
        weight = layer.weight.detach().flatten().double() * math.sqrt(fan_in)
        assert weight.abs().max() <= 1 + 1e-6
        # The Kolmogorov-Smirnov distance to the uniform law; beyond this bound once in about 10^6 draws.
        ranks = torch.arange(1, weight.numel() + 1) / weight.numel()
        assert (weight.sort().values.add(1).div(2) - ranks).abs().max() < 2.7 / math.sqrt(weight.numel())
        assert layer.bias.detach().abs().max() <= 1 / math.sqrt(fan_in)


def test_initialise_depends_on_the_generator_only():
    network, other = (
        ConvNet(2, (16, 16), NetworkConfig(width=4)),
        ConvNet(2, (16, 16), NetworkConfig(width=4)),
    )
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(1)
    initialise(network, generator)
    initialise(other, torch.Generator().manual_seed(1))
    assert all(a.equal(b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    initialise(other, generator)
    assert not network.classifier.weight.equal(other.classifier.weight)
    assert torch.get_rng_state().equal(state)
    with pytest.raises(TypeError, match="LSTM"):
        initialise(nn.LSTM(2, 2), generator)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 7, 5), (1, 1, 2, 3), (2, 3, 1, 2)])
def test_instance_norm_gradients(shape, channels_last):
    images = random(*shape, dtype=torch.float64)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    inputs = [
        images,
        random(shape[1], seed=1, dtype=torch.float64),
        random(shape[1], seed=2, dtype=torch.float64),
    ]
    for needed in ((True, True, True), (True, False, False), (False, True, True)):
        leaves = [value.clone().requires_grad_(flag) for value, flag in zip(inputs, needed, strict=True)]
        assert torch.autograd.gradcheck(
            lambda x, weight, bias: instance_norm(x.clone(), weight, bias, 1e-5),
            tuple(leaves),
            check_undefined_grad=False,
        )


def test_instance_norm_takes_statistics_in_float32():
    images = random(2, 6, 32, 32).mul(3).add(5).bfloat16()
    weight, bias = random(6, seed=1), random(6, seed=2)
    actual = instance_norm(images.clone(), weight, bias, 1e-5)
    expected = F.group_norm(images.double(), 6, weight.double(), bias.double(), 1e-5)
    torch.testing.assert_close(actual, expected.float())
    assert instance_norm(images.clone(), weight.bfloat16(), bias.bfloat16(), 1e-5).dtype == torch.bfloat16
    leaf = images.clone().requires_grad_()
    instance_norm(leaf.clone(), weight, bias, 1e-5).square().sum().backward()
    assert leaf.grad.dtype == torch.bfloat16


def test_large_offsets_keep_their_variance():
    images = random(1, 2, 16, 16) + 1e3
    actual = instance_norm(images.clone(), torch.ones(2), torch.zeros(2), 1e-5)
    expected = F.group_norm(images.double(), 2)
    assert (actual - expected).abs().max() < 1e-3


def test_bfloat16_autocast_stays_close():
    network = ConvNet(3, (32, 32), NetworkConfig(width=16))
    initialise(network, torch.Generator().manual_seed(0))
    images = random(4, 3, 32, 32)
    with torch.inference_mode():
        exact = network.features(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network.features(images)
    assert (rough - exact).norm() < 0.02 * exact.norm()


def test_devices_agree(device):
    network = ConvNet(3, (16, 16), NetworkConfig(width=8))
    initialise(network, torch.Generator().manual_seed(0))
    images = random(2, 3, 16, 16)
    expected = network(images)
    actual = network.to(device)(images.to(device)).cpu()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
