"""The objectives as functions of features or gradients, each against another formulation in float64 or
more."""

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from toy_data import toy_domains

from dgdd_fast.config import NetworkConfig
from dgdd_fast.data import normalise
from dgdd_fast.matching.losses.attention import attention_vector
from dgdd_fast.matching.losses.gradient import (
    gradient_distance,
    matched_weights,
    weight_gradients,
)
from dgdd_fast.matching.losses.hyperbolic import (
    MOST_RADIUS,
    hyperbolic_matching,
    lorentz_points,
)
from dgdd_fast.matching.losses.kernel import (
    BANDWIDTH_FACTORS,
    joint_bandwidth,
    kernel_matching,
)
from dgdd_fast.matching.losses.mean import distribution_matching, group_means
from dgdd_fast.networks import ConvNet, allow_second_derivatives, initialise
from dgdd_fast.seeds import generator

ONE_GROUP = torch.zeros(64, dtype=torch.int64)


def random(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "objectives"), dtype=torch.float64)


def of_norm(rows, norm):
    return rows / rows.norm(dim=1, keepdim=True) * norm


# Hyperbolic matching


def hyperbolic_loss(synthetic, real):
    """Of one class."""
    means = (lorentz_points(part).mean(0, keepdim=True) for part in (synthetic, real))
    return hyperbolic_matching(*means).sum()


def exact_centroid(features):
    """The Lorentz centroid as the formulas have it, in multiple precision: [1 + F] coordinates."""
    points = []
    for row in features.tolist():
        coordinates = [mpmath.mpf(value) for value in row]
        norm = mpmath.sqrt(sum(value**2 for value in coordinates))
        radius = min(norm, 10)
        points.append([mpmath.cosh(radius), *(mpmath.sinh(radius) / norm * value for value in coordinates)])
    mean = [sum(column) / len(points) for column in zip(*points, strict=True)]
    return [value / mpmath.sqrt(-lorentz_product(mean, mean)) for value in mean]


def lorentz_product(first, second):
    return sum(x * y for x, y in zip(first[1:], second[1:], strict=True)) - first[0] * second[0]


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("norm", [0.1, 1.0, 8.0, 12.0, 1e4])
def test_hyperbolic_loss_against_multiple_precision(norm, count):
    real = of_norm(random(6, 4), norm) * (1 + 0.05 * random(6, 1, seed=1).clamp(-2, 2))
    synthetic = of_norm(random(count, 4, seed=2), norm)
    inputs = [part.float().requires_grad_() for part in (synthetic, real)]
    with mpmath.workdps(60):
        product = lorentz_product(*(exact_centroid(part.double()) for part in inputs))
        expected = float(20 * mpmath.acosh(-product))
    loss = hyperbolic_loss(*inputs)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, inputs))


def literal_hyperbolic(synthetic, real):
    """The formulas as they stand, below the cut."""

    def centroid(features):
        radius = features.norm(dim=1, keepdim=True)
        mean = torch.cat([radius.cosh(), radius.sinh() * features / radius], 1).mean(0)
        return mean / (mean[0] ** 2 - mean[1:].square().sum()).sqrt()

    first, second = centroid(synthetic), centroid(real)
    return 20 * torch.acosh(first[0] * second[0] - first[1:] @ second[1:])


def gradient_of(loss, synthetic, real):
    leaf = synthetic.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, real), leaf)[0]


@pytest.mark.parametrize("norm", [0.3, 1.0, 3.0])
def test_hyperbolic_gradient_is_that_of_the_literal_formula_below_the_cut(norm):
    real, synthetic = norm * random(7, 5), norm * random(4, 5, seed=1)
    assert max(part.norm(dim=1).max() for part in (real, synthetic)) < MOST_RADIUS
    expected, actual = (gradient_of(loss, synthetic, real) for loss in (literal_hyperbolic, hyperbolic_loss))
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)


def test_features_beyond_the_cut_count_as_long_as_it_and_turn_but_do_not_shrink():
    """As released: every point of such features lies on the shell of radius 10."""
    real, synthetic = of_norm(random(7, 5), 1), of_norm(random(4, 5, seed=1), 1)
    on_shell = hyperbolic_loss(10 * synthetic, 10 * real)
    lengths = 11 + 9 * torch.rand(7, 1, generator=generator(0, "lengths"), dtype=torch.float64)
    torch.testing.assert_close(hyperbolic_loss(15 * synthetic, lengths * real), on_shell)
    gradient = gradient_of(hyperbolic_loss, 15 * synthetic, 15 * real)
    along = (gradient * synthetic).sum(1)
    assert along.abs().max() < 1e-9 * gradient.norm(dim=1).min()
    # A direction turns by 1 / length as much: the same gradient, but for that factor.
    torch.testing.assert_close(gradient_of(hyperbolic_loss, 30 * synthetic, 15 * real), gradient / 2)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("norm", [0.0, 1e-4, 3.0, 12.0, 1e4])
def test_coinciding_classes_have_no_distance_and_no_gradient(norm, count):
    rows = norm * of_norm(random(count, 6), 1)
    rounded = rows * (1 + 1e-6 * random(count, 6, seed=1))  # as another pass may give them
    for other in (rows, rounded):
        assert hyperbolic_loss(other, rows).item() == 0
        assert gradient_of(hyperbolic_loss, other, rows).eq(0).all()


@pytest.mark.parametrize("norm", [1e-4, 3.0, 12.0])
def test_hyperbolic_gradients_keep_their_length_down_to_rounding(norm):
    """That of a distance: 20 times how far the point moves with the feature, along a sphere."""
    row = norm * of_norm(random(1, 6), 1)
    turn = random(1, 6, seed=1)
    turn = of_norm(turn - (turn * row).sum() / norm**2 * row, norm)
    radius = min(norm, 10.0)
    for angle in (1e-3, 3e-5):
        gradient = gradient_of(hyperbolic_loss, row + angle * turn, row)
        half = math.asinh(math.sinh(radius) * math.sin(angle / 2))
        expected = 20 * math.sinh(radius) * math.cos(angle / 2) / math.cosh(half) / norm
        assert gradient.norm() == pytest.approx(expected, rel=1e-5)


def test_hyperbolic_distance_along_a_geodesic_through_the_origin():
    direction = of_norm(random(1, 6), 1)
    for near, far in ((0.1, 3.0), (9.0, 9.25)):
        assert hyperbolic_loss(near * direction, far * direction) == pytest.approx(
            20 * (far - near), rel=1e-5
        )
        opposite = hyperbolic_loss(near * direction, -far * direction)
        assert opposite == pytest.approx(20 * (far + near), rel=1e-9)


# DataDAM


def attention_loss(synthetic, real, power):
    """DataDAM's loss of one class from (activations, features) of both sides, term by term."""
    loss = 0
    for first, second in zip(synthetic[0], real[0], strict=True):
        means = []
        for activation in (first, second):
            maps = torch.einsum("bchw->bhw", activation.abs() ** power).reshape(len(activation), -1)
            means.append((maps / maps.square().sum(1).sqrt()[:, None]).mean(0))
        loss = loss + 100 * ((means[0] - means[1]) ** 2).sum()
    return loss + 100 * 0.01 * ((synthetic[1].mean(0) - real[1].mean(0)) ** 2).sum()


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_loss_and_gradient_term_by_term(power):
    shapes = ((6, 8, 8), (4, 4, 4))
    real = ([F.relu(random(5, *shape, seed=i)) for i, shape in enumerate(shapes)], random(5, 12, seed=2))
    synthetic = [random(3, *shape, seed=3 + i).requires_grad_() for i, shape in enumerate(shapes)]
    features = random(3, 12, seed=5).requires_grad_()

    def ours(synthetic, real, power):
        sides = (synthetic, real)
        means = (group_means(attention_vector(*side, power), ONE_GROUP[: len(side[1])], 1) for side in sides)
        return distribution_matching(*means).sum()

    results = []
    for formula in (ours, attention_loss):
        loss = formula(([F.relu(part) for part in synthetic], features), real, power)
        results.append([loss, *torch.autograd.grad(loss, [*synthetic, features])])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_a_dead_layer_attends_nowhere_without_a_nan():
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    vector = attention_vector([dead], torch.ones(2, 5), 4.0)
    assert (vector[:, :16] == 0).all()
    assert torch.isfinite(torch.autograd.grad(vector.sum(), dead)[0]).all()


# M3D


def literal_kernel_loss(synthetic, real, bandwidth):
    def mean(first, second):
        squares = [(x - y).square().sum() for x in first for y in second]
        return sum((-d / (bandwidth * 2.0**k)).exp() for d in squares for k in range(-2, 3)) / len(squares)

    return mean(real, real) - 2 * mean(real, synthetic) + mean(synthetic, synthetic)


def test_kernel_loss_and_gradient_pair_by_pair():
    real, synthetic = 5 + random(6, 4), (5.5 + 2 * random(3, 4, seed=1)).requires_grad_()
    rows = torch.cat([real, synthetic.detach()])
    squares = torch.cdist(rows, rows).square()
    bandwidth = joint_bandwidth(synthetic, real)
    assert bandwidth.item() == pytest.approx(squares.sum().item() / (9 * 9 - 9))
    assert not bandwidth.requires_grad
    actual, expected = (loss(synthetic, real, bandwidth) for loss in (kernel_matching, literal_kernel_loss))
    torch.testing.assert_close(actual, expected)
    pair = [torch.autograd.grad(loss, synthetic)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*pair)


def test_kernel_loss_is_a_distance_of_distributions():
    rows = random(6, 4)
    bandwidth = joint_bandwidth(rows, rows)
    assert kernel_matching(rows, rows, bandwidth).abs() < 1e-12
    assert kernel_matching(rows.repeat(3, 1), rows, bandwidth).abs() < 1e-12
    far = kernel_matching(rows + 1e6, rows, joint_bandwidth(rows, rows))
    itself = kernel_matching(rows, rows + 1e6, joint_bandwidth(rows, rows))
    torch.testing.assert_close(far, itself)
    # Two single points far apart, at a small bandwidth: k(x, x) twice for each factor.
    lone = kernel_matching(rows[:1], rows[1:2], torch.tensor(1e-9, dtype=torch.float64))
    assert lone.item() == pytest.approx(2 * len(BANDWIDTH_FACTORS))
    # Without any spread there is no bandwidth and no discrepancy.
    same = rows[:1].expand(4, -1)
    assert kernel_matching(same[:1], same[1:], joint_bandwidth(same[:1], same[1:])).item() == 0
    with pytest.raises(ValueError, match="at least two rows"):
        joint_bandwidth(rows[:1], rows[:0])


def test_kernel_loss_keeps_its_digits_in_float32():
    real, synthetic = (100 + random(count, 16, seed=seed).float() for seed, count in enumerate((40, 30)))
    bandwidth = joint_bandwidth(synthetic, real)
    exact = kernel_matching(synthetic.double(), real.double(), bandwidth.double())
    torch.testing.assert_close(kernel_matching(synthetic, real, bandwidth).double(), exact, rtol=0, atol=2e-6)
    # A row's distance from itself, rounded, is not below zero.
    assert 0 <= kernel_matching(synthetic, real, torch.tensor(1e-12)) <= 10


def test_kernel_gradient_is_linear_in_the_real_rows_only_at_a_fixed_bandwidth():
    domains = [random(5, 4), 3 + 2 * random(10, 4, seed=1)]
    synthetic = random(3, 4, seed=2).requires_grad_()
    union = torch.cat(domains)

    def gradient(real, bandwidth):
        return torch.autograd.grad(kernel_matching(synthetic, real, bandwidth), synthetic)[0]

    shared = joint_bandwidth(synthetic, union)
    whole = gradient(union, shared)
    parts = [gradient(real, shared) for real in domains]
    torch.testing.assert_close(whole, (5 * parts[0] + 10 * parts[1]) / 15)
    own = [gradient(real, joint_bandwidth(synthetic, real)) for real in domains]
    assert ((5 * own[0] + 10 * own[1]) / 15 - whole).norm() > 0.02 * whole.norm()


# Gradient matching


def test_gradient_distance_channel_by_channel():
    first = [random(4, 3, 3, 3), random(5, 8, seed=1)]
    second = [random(4, 3, 3, 3, seed=2), random(5, 8, seed=3)]
    expected = 0
    for one, other in zip(first, second, strict=True):
        for row, column in zip(one, other, strict=True):
            angle = math.acos(float((row * column).sum() / row.norm() / column.norm()))
            expected += 1 - math.cos(angle)
    assert gradient_distance(first, second).item() == pytest.approx(expected)
    assert gradient_distance(first, [3.5 * part for part in first]).item() == pytest.approx(0, abs=1e-12)
    assert gradient_distance(first, [-part for part in first]).item() == pytest.approx(18)
    assert gradient_distance(first, [0 * part for part in first]).item() == pytest.approx(9)


def test_image_gradient_of_gradient_matching_by_finite_differences():
    """Through the weight gradients of a ConvNet, in float64."""
    data = toy_domains(side=8)
    mean, std = data.channel_statistics()
    pixels = normalise(data.images, mean, std).double()
    network = ConvNet(3, (8, 8), NetworkConfig(width=4, depth=1))
    initialise(network, generator(0, "network"))
    allow_second_derivatives(network.double())
    weights = matched_weights(network)
    assert {weight.dim() for weight in weights} == {2, 4}
    rows = data.cells()[1]
    real = weight_gradients(network(pixels[rows[0]]), data.labels[rows[0]], weights, create_graph=False)

    def loss(images):
        labels = torch.full((len(images),), 1)
        return gradient_distance(weight_gradients(network(images), labels, weights, create_graph=True), real)

    images = pixels[rows[1][:2]].clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, images, eps=1e-6, atol=1e-6, rtol=1e-4)
