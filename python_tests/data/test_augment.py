import math

import pytest
import torch
import torch.nn.functional as F

from dgdd_fast.config import DSA_STRATEGY, AugmentConfig
from dgdd_fast.data import normalise
from dgdd_fast.data.augment import (
    augment,
    augmented_rows,
    cutmix,
    draw_batch,
    draw_cutmix,
    draw_siamese,
    mixed_labels,
    resolve_strategy,
)

OPERATIONS = DSA_STRATEGY.split("_")
SIZES = [(8, 8), (7, 9), (12, 5), (1, 3)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(count, size, seed=0, dtype=torch.float64):
    return torch.randn(count, 3, *size, generator=generator(seed), dtype=dtype)


def slow(name, image, values, cutout_sides):
    """One operation on one image [3, H, W], pixel by pixel or through the matrix it stands for."""
    channels, height, width = image.shape
    a, b, c = values.tolist()
    out = torch.zeros_like(image)
    if name == "color":
        bright = image + a
        for y in range(height):
            for x in range(width):
                grey = sum(bright[i, y, x] for i in range(channels)) / channels
                out[:, y, x] = (bright[:, y, x] - grey) * b + grey
        level = out.sum() / out.numel()
        return (out - level) * c + level
    if name in ("crop", "cutout", "flip"):
        for y in range(height):
            for x in range(width):
                if name == "crop":
                    from_y, from_x = y + int(a), x + int(b)
                    if 0 <= from_y < height and 0 <= from_x < width:
                        out[:, y, x] = image[:, from_y, from_x]
                elif name == "cutout":
                    if not (a <= y < a + cutout_sides[0] and b <= x < b + cutout_sides[1]):
                        out[:, y, x] = image[:, y, x]
                else:
                    out[:, y, x] = image[:, y, width - 1 - x if a else x]
        return out
    # In pixels around the centre of the image, the sampled place is the matrix times the pixel's place.
    for y in range(height):
        for x in range(width):
            dy, dx = y - (height - 1) / 2, x - (width - 1) / 2
            if name == "scale":
                dx, dy = a * dx, b * dy
            else:
                dx, dy = math.cos(a) * dx - math.sin(a) * dy, math.sin(a) * dx + math.cos(a) * dy
            from_y, from_x = dy + (height - 1) / 2, dx + (width - 1) / 2
            for row in (math.floor(from_y), math.floor(from_y) + 1):
                for column in (math.floor(from_x), math.floor(from_x) + 1):
                    if 0 <= row < height and 0 <= column < width:
                        weight = (1 - abs(from_y - row)) * (1 - abs(from_x - column))
                        out[:, y, x] += weight * image[:, row, column]
    return out


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_equals_its_definition(name, size):
    draw = draw_batch(AugmentConfig(strategy=name), size, 6, generator())
    images = random_images(6, size)
    actual = augment(images, draw)
    expected = torch.stack(
        [slow(name, *pair, draw.cutout_sides) for pair in zip(images, draw.values, strict=True)]
    )
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(augment(images.float(), draw), expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["scale", "rotate"])
def test_square_images_are_sampled_by_the_affine_matrix(name):
    draw = draw_batch(AugmentConfig(strategy=name), (9, 9), 5, generator(1))
    images = random_images(5, (9, 9))
    matrices = []
    for a, b, _ in draw.values.tolist():
        if name == "scale":
            matrices.append([[a, 0, 0], [0, b, 0]])
        else:
            matrices.append([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0]])
    grid = F.affine_grid(torch.tensor(matrices, dtype=torch.float64), [5, 3, 9, 9], align_corners=False)
    expected = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    torch.testing.assert_close(augment(images, draw), expected)


@pytest.mark.parametrize("name", [*OPERATIONS, DSA_STRATEGY])
def test_gradients(name):
    draw = draw_siamese(AugmentConfig(strategy=name), (5, 6), 4, generator(3))
    group = torch.tensor([1, 0, 3, 3, 2])
    images = random_images(5, (5, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, draw, group), (images,))


def test_classes_with_different_operations_share_a_batch():
    config = AugmentConfig(strategy=DSA_STRATEGY)
    draw = draw_siamese(config, (8, 8), 40, generator())
    assert set(draw.chosen.tolist()) == set(range(6))
    group = torch.randint(40, (90,), generator=generator(1))
    images = random_images(90, (8, 8))
    result = augment(images, draw, group)
    for image, row, actual in zip(images, group.tolist(), result, strict=True):
        name = draw.operations[draw.chosen[row]]
        torch.testing.assert_close(actual, slow(name, image, draw.values[row], draw.cutout_sides))


def test_real_and_synthetic_images_of_a_class_are_treated_alike():
    draw = draw_siamese(AugmentConfig(strategy=DSA_STRATEGY), (8, 8), 12, generator())
    real, classes = random_images(30, (8, 8)), torch.arange(30) % 12
    synthetic = real[:12].clone()
    torch.testing.assert_close(augment(synthetic, draw), augment(real, draw, classes)[:12])


def test_draws_have_the_documented_ranges_and_laws():
    count, size = 20_000, (32, 31)
    reach_y, reach_x = 4, 4  # int(32 / 8 + 0.5), int(31 / 8 + 0.5)
    uniform = {"color": [(-0.5, 0.5), (0, 2), (0.5, 1.5)], "scale": [(1 / 1.2, 1.2), (1 / 1.2, 1.2)]}
    uniform["rotate"] = [(-math.radians(15), math.radians(15))]
    whole = {"crop": [(-reach_y, reach_y), (-reach_x, reach_x)]}
    # Sides 16 and 16: centres 0..32 and 0..31, less half a side.
    whole["cutout"] = [(-8, 24), (-8, 23)]
    whole["flip"] = [(0, 1)]
    for name in OPERATIONS:
        draw = draw_batch(AugmentConfig(strategy=name), size, count, generator(7))
        assert draw.cutout_sides == (16, 16)
        for column, (low, high) in enumerate(uniform.get(name, [])):
            unit = (draw.values[:, column] - low) / (high - low)
            assert unit.min() >= 0
            assert unit.max() <= 1
            ranks = torch.arange(1, count + 1) / count
            # Kolmogorov-Smirnov: exceeded once in about 10^6 draws.
            assert (unit.sort().values - ranks).abs().max() < 2.7 / math.sqrt(count)
        for column, (low, high) in enumerate(whole.get(name, [])):
            values = draw.values[:, column]
            assert values.equal(values.round())
            counts = torch.bincount((values - low).long(), minlength=high - low + 1)
            assert len(counts) == high - low + 1
            expected = count / len(counts)
            # A chi-square of k cells is below k + 5 sqrt(2 k) + 15 but once in about 10^6 draws.
            chi_square = ((counts - expected) ** 2 / expected).sum()
            assert chi_square < len(counts) + 5 * math.sqrt(2 * len(counts)) + 15


def test_odd_cutouts_have_their_centre_on_a_pixel():
    draw = draw_batch(AugmentConfig(strategy="cutout"), (9, 10), 5000, generator())
    assert draw.cutout_sides == (5, 5)
    centres = draw.values[:, :2] + 2
    assert centres.unique().tolist() == list(range(10))
    assert centres[:, 0].max() == 8


def test_operations_are_uniform_over_groups():
    draw = draw_siamese(AugmentConfig(strategy=DSA_STRATEGY), (8, 8), 12_000, generator())
    counts = torch.bincount(draw.chosen, minlength=6)
    # Binomial(12000, 1/6) has standard deviation 41; five of them.
    assert (counts - 2000).abs().max() < 205


def test_a_training_batch_has_one_operation_and_many_parameters():
    seen = set()
    for seed in range(40):
        draw = draw_batch(AugmentConfig(strategy="color_scale_rotate"), (8, 8), 5, generator(seed))
        assert len(draw.chosen.unique()) == 1
        assert len(draw.values[:, 0].unique()) == 5
        seen.add(int(draw.chosen[0]))
    assert seen == {0, 1, 2}


def test_draws_repeat_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    first, second, other = (
        draw_siamese(AugmentConfig(strategy=DSA_STRATEGY), (8, 8), 20, generator(seed)) for seed in (4, 4, 5)
    )
    assert first.chosen.equal(second.chosen)
    assert first.values.equal(second.values)
    assert not first.values.equal(other.values)
    assert torch.get_rng_state().equal(state)


def test_strategies():
    assert resolve_strategy(AugmentConfig(), flip_safe=True).strategy == DSA_STRATEGY
    assert resolve_strategy(AugmentConfig(), flip_safe=False).strategy == "color_crop_cutout_scale_rotate"
    assert resolve_strategy(AugmentConfig(strategy="flip"), flip_safe=False).strategy == "flip"
    images = random_images(3, (8, 8))
    plain = resolve_strategy(AugmentConfig(strategy="none"), flip_safe=True)
    assert augment(images, draw_siamese(plain, (8, 8), 3, generator())).equal(images)
    with pytest.raises(ValueError, match=r"unknown operation 'colour'; known: color, crop"):
        resolve_strategy(AugmentConfig(strategy="crop_colour"), flip_safe=True)
    with pytest.raises(ValueError, match="twice"):
        resolve_strategy(AugmentConfig(strategy="crop_crop"), flip_safe=True)
    with pytest.raises(ValueError, match="not resolved"):
        draw_siamese(AugmentConfig(), (8, 8), 3, generator())
    with pytest.raises(ValueError, match=r"augment\.cutout must lie in \[0, 1\], got 2"):
        resolve_strategy(AugmentConfig(cutout=2.0), flip_safe=True)
    with pytest.raises(ValueError, match="scale must be at least 1"):
        resolve_strategy(AugmentConfig(scale=0.5), flip_safe=True)


def test_draws_that_do_not_fit_are_refused():
    draw = draw_siamese(AugmentConfig(strategy="crop"), (8, 8), 3, generator())
    with pytest.raises(ValueError, match="draw for 3 groups needs `group` for 4 images"):
        augment(random_images(4, (8, 8)), draw)
    with pytest.raises(ValueError, match="an entry for each of 4 images"):
        augment(random_images(4, (8, 8)), draw, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"images of \(8, 8\) px, got \(8, 9\)"):
        augment(random_images(3, (8, 9)), draw)


@pytest.mark.parametrize("composition", ["single", "sequence"])
def test_rows_of_a_pool_are_normalised_and_augmented_at_once(composition):
    config = AugmentConfig(strategy=DSA_STRATEGY, composition=composition)
    draw = draw_siamese(config, (8, 9), 20, generator())
    pixels = torch.randint(256, (7, 3, 8, 9), dtype=torch.uint8, generator=generator(1))
    rows, group = torch.randint(7, (40,), generator=generator(2)), torch.arange(40) % 20
    mean, std = torch.tensor([0.3, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    expected = augment(normalise(pixels[rows], mean, std), draw, group)
    torch.testing.assert_close(augmented_rows(pixels, rows, mean, std, draw, group), expected)
    floats = normalise(pixels, mean, std)
    torch.testing.assert_close(
        augmented_rows(floats, rows, mean.tolist(), std.tolist(), draw, group), expected
    )
    with pytest.raises(ValueError, match="draw for 20 groups needs `group` for 40 images"):
        augmented_rows(pixels, rows, mean, std, draw)


def test_no_augmentation_is_normalisation_alone():
    draw = draw_batch(AugmentConfig(strategy="none"), (8, 9), 2, generator())
    pixels, rows = torch.arange(3 * 3 * 72).reshape(3, 3, 8, 9).to(torch.uint8), torch.tensor([2, 0])
    mean, std = torch.tensor([0.3, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    result = augmented_rows(pixels, rows, mean, std, draw)
    torch.testing.assert_close(result, normalise(pixels[rows], mean, std))


def test_devices_agree(device):
    draw = draw_siamese(AugmentConfig(strategy=DSA_STRATEGY), (8, 8), 40, generator())
    images = random_images(40, (8, 8), dtype=torch.float32)
    actual = augment(images.to(device), draw, torch.arange(40, device=device)).cpu()
    torch.testing.assert_close(actual, augment(images, draw), rtol=1e-4, atol=1e-4)


SEQUENCE = AugmentConfig(strategy=DSA_STRATEGY, composition="sequence")


def chain(draw):
    """The steps of a draw, in the order in which they are applied."""
    return [] if draw is None else [draw, *chain(draw.then)]


def test_a_sequence_is_flip_colours_one_geometric_operation_and_cutout():
    draw = draw_siamese(SEQUENCE, (8, 8), 40, generator())
    assert [step.operations for step in chain(draw)] == [
        ("flip",), ("color",), ("crop", "scale", "rotate"), ("cutout",),
    ]  # fmt: skip
    assert set(chain(draw)[2].chosen.tolist()) == {0, 1, 2}
    group = torch.randint(40, (60,), generator=generator(1))
    images = random_images(60, (8, 8))
    for image, row, actual in zip(images, group.tolist(), augment(images, draw, group), strict=True):
        for step in chain(draw):
            image = slow(step.operations[step.chosen[row]], image, step.values[row], step.cutout_sides)
        torch.testing.assert_close(actual, image)


def test_a_sequence_leaves_out_what_its_strategy_does_not_name():
    def steps(strategy):
        config = AugmentConfig(strategy=strategy, composition="sequence")
        return [step.operations for step in chain(draw_batch(config, (8, 8), 3, generator()))]

    assert steps("color_crop") == [("color",), ("crop",)]
    assert steps("cutout_rotate_scale") == [("scale", "rotate"), ("cutout",)]
    assert steps("none") == [()]
    images = random_images(3, (8, 8))
    nothing = AugmentConfig(strategy="none", composition="sequence")
    assert augment(images, draw_batch(nothing, (8, 8), 3, generator())).equal(images)


def test_a_training_batch_has_one_sequence_and_many_parameters():
    seen = set()
    for seed in range(40):
        steps = chain(draw_batch(SEQUENCE, (32, 32), 5, generator(seed)))
        assert all(len(step.chosen.unique()) == 1 for step in steps)
        assert len(steps[1].values[:, 0].unique()) == 5
        seen.add(int(steps[2].chosen[0]))
    assert seen == {0, 1, 2}


def test_gradients_of_a_sequence():
    draw = draw_siamese(SEQUENCE, (5, 6), 4, generator(3))
    images = random_images(5, (5, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, draw, torch.tensor([1, 0, 3, 3, 2])), (images,))


def test_real_and_synthetic_images_of_a_class_go_through_one_sequence():
    draw = draw_siamese(SEQUENCE, (8, 8), 12, generator())
    real, classes = random_images(30, (8, 8)), torch.arange(30) % 12
    torch.testing.assert_close(augment(real[:12].clone(), draw), augment(real, draw, classes)[:12])


def test_cutmix_takes_a_box_and_its_share_of_the_label_from_the_partner():
    images, labels = random_images(6, (7, 9)), torch.tensor([0, 1, 2, 0, 1, 2])
    boxes = set()
    for seed in range(30):
        draw = draw_cutmix(1.0, (7, 9), 6, generator(seed))
        boxes.add((draw.rows, draw.columns))
        mixed, targets = cutmix(images, draw), mixed_labels(labels, draw, 3)
        for row, partner in enumerate(draw.partner.tolist()):
            own = 0
            for y in range(7):
                for x in range(9):
                    inside = draw.rows[0] <= y < draw.rows[1] and draw.columns[0] <= x < draw.columns[1]
                    own += not inside
                    assert mixed[row, :, y, x].equal(images[partner if inside else row, :, y, x])
            expected = torch.zeros(3)
            expected[labels[row]] += own / 63
            expected[labels[partner]] += 1 - own / 63
            torch.testing.assert_close(targets[row], expected)
    assert len(boxes) > 20


def test_cutmix_has_the_documented_law():
    draws = [draw_cutmix(0.25, (64, 64), 2, generator(seed)) for seed in range(4000)]
    kept = torch.tensor([draw.kept for draw in draws if draw is not None])
    # Binomial(4000, 1/4) has standard deviation 27; five of them.
    assert abs(len(kept) - 1000) < 137
    assert kept.min() >= 0
    # Of a box of share s = l^2 the borders leave l - l^2 / 4 of a side on average, so (l - l^2 / 4)^2 of the
    # image: 1/2 - 1/5 + 1/48 for uniform s. The tolerance is five standard deviations.
    assert 1 - kept.mean() == pytest.approx(0.3208, abs=0.04)
    assert draw_cutmix(0.0, (8, 8), 2, generator()) is None
    images, labels = random_images(2, (8, 8)), torch.tensor([1, 0])
    assert cutmix(images, None) is images
    assert mixed_labels(labels, None, 2) is labels


def test_no_cutout_beside_cutmix_unless_it_is_asked_for():
    mixed = resolve_strategy(AugmentConfig(), flip_safe=True, cutmix=True)
    assert mixed.strategy == "color_crop_flip_scale_rotate"
    named = resolve_strategy(AugmentConfig(strategy="cutout"), flip_safe=True, cutmix=True)
    assert named.strategy == "cutout"
