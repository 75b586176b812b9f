"""DomainDataset: its checks, its views, its statistics."""

import pytest
import torch

from dgdd_fast.data import DataError, DomainDataset, denormalise, normalise, summary


def make(**changes: object) -> DomainDataset:
    """24 images of 4 x 6 pixels: 2 classes, 3 domains, 4 images a cell, the last of each cell for testing."""
    generator = torch.Generator().manual_seed(0)
    cell = torch.arange(6).repeat_interleave(4)
    parts: dict[str, object] = {
        "name": "made",
        "images": torch.randint(0, 256, (24, 3, 4, 6), generator=generator, dtype=torch.uint8),
        "labels": cell // 3,
        "domains": cell % 3,
        "is_test": torch.arange(24) % 4 == 3,
        "class_names": ("cat", "dog"),
        "domain_names": ("photo", "sketch", "paint"),
        "item_names": tuple(f"item {row}" for row in range(24)),
    }
    return DomainDataset(**(parts | changes))  # type: ignore[arg-type]


def test_sizes_and_items() -> None:
    data = make()
    assert (len(data), data.num_classes, data.num_domains, data.resolution) == (24, 2, 3, (4, 6))
    image, label, domain = data[17]
    assert image.dtype == torch.float32
    assert torch.equal((image * 255).round().to(torch.uint8), data.images[17])
    assert (label, domain) == (int(data.labels[17]), int(data.domains[17]))
    assert len(list(torch.utils.data.DataLoader(data, batch_size=10))) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(24, 3, 4, 6)}, "uint8"),
        ({"images": torch.zeros(24, 4, 6, 3, dtype=torch.uint8)}, r"\[N, 3, H, W\]"),
        ({"images": torch.zeros(24, 3, 0, 6, dtype=torch.uint8)}, "at least one pixel"),
        ({"images": torch.zeros(24, 3, 6, 4, dtype=torch.uint8).transpose(2, 3)}, "contiguous"),
        ({"labels": torch.zeros(23, dtype=torch.int64)}, r"labels .*\(24,\)"),
        ({"labels": torch.zeros(24, dtype=torch.int32)}, "labels must be torch.int64"),
        ({"labels": torch.full((24,), 2)}, r"labels must be in 0\.\.1 .* got 2 in row 0 \(item 0\)"),
        ({"domains": torch.full((24,), -1)}, "domains must be in 0..2"),
        ({"is_test": torch.zeros(24)}, "is_test must be torch.bool"),
        ({"class_names": ("dog", "dog")}, "'dog' occurs twice"),
        ({"domain_names": ("a", "", "b")}, "non-empty name"),
        ({"item_names": ("one",)}, "24 names"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make(**changes)
    assert isinstance(caught.value, DataError)


def test_cells_and_counts_agree_with_the_labels() -> None:
    data = make().select(torch.randperm(24, generator=torch.Generator().manual_seed(1))[:17])
    cells, counts = data.cells(), data.counts()
    assert counts.sum() == 17
    for label in range(2):
        for domain in range(3):
            rows = cells[label][domain]
            expected = ((data.labels == label) & (data.domains == domain)).nonzero().flatten()
            assert torch.equal(rows, expected)
            assert counts[label, domain] == len(rows)


def test_an_empty_cell_is_empty() -> None:
    data = make()
    data = data.select((data.labels != 1) | (data.domains != 2))
    assert data.counts()[1, 2] == 0
    assert data.cells()[1][2].numel() == 0
    assert data.cells()[1][2].dtype == torch.int64


def test_select_takes_masks_indices_and_nothing() -> None:
    data = make()
    assert torch.equal(data.select([5, 2]).images[:], data.images[[5, 2]])
    assert data.select(torch.tensor([5, 2])).item_names == ("item 5", "item 2")
    assert len(data.select(torch.zeros(24, dtype=torch.bool))) == 0
    assert len(data.select([])) == 0
    with pytest.raises(DataError, match="length 24"):
        data.select(torch.ones(3, dtype=torch.bool))


def test_only_domains_drops_and_renumbers() -> None:
    data = make()
    part = data.only_domains(["paint", "photo"])
    assert part.domain_names == ("photo", "paint")
    assert set(part.domains.tolist()) == {0, 1}
    paint = data.images[data.domains == 2]
    assert torch.equal(part.images[part.domains == 1], paint)
    with pytest.raises(DataError, match=r"no domain 'oil'.*photo, sketch, paint"):
        data.only_domains(["oil"])
    with pytest.raises(DataError, match="at least one domain"):
        data.only_domains([])


def test_only_classes_drops_and_renumbers() -> None:
    data = make(labels=torch.arange(24) % 3, class_names=("cat", "dog", "owl"))
    part = data.only_classes(["owl", "cat"])
    assert part.class_names == ("cat", "owl")
    assert part.domain_names == data.domain_names
    for number, old in enumerate((0, 2)):
        kept, rows = part.labels == number, data.labels == old
        assert torch.equal(part.images[kept], data.images[rows])
        assert torch.equal(part.domains[kept], data.domains[rows])
        assert torch.equal(part.is_test[kept], data.is_test[rows])
    assert len(part) == 16
    with pytest.raises(DataError, match=r"no class 'cow'; it has cat, dog, owl"):
        data.only_classes(["cow"])
    with pytest.raises(DataError, match="at least one class"):
        data.only_classes([])


def test_train_and_test_parts_share_nothing_and_miss_nothing() -> None:
    data = make()
    train, test = set(data.train().item_names), set(data.test().item_names)
    assert not train & test
    assert train | test == set(data.item_names)
    assert not data.train().is_test.any()
    assert data.test().is_test.all()


def test_leave_out_keeps_the_target_away_from_the_sources() -> None:
    data = make()
    sources_train, sources_test, target = data.leave_out("sketch")
    assert sources_train.domain_names == sources_test.domain_names == ("photo", "paint")
    assert target.domain_names == ("sketch",)
    assert (len(sources_train), len(sources_test), len(target)) == (12, 4, 8)
    names = [set(part.item_names) for part in (sources_train, sources_test, target)]
    assert not names[0] & names[1]
    assert not (names[0] | names[1]) & names[2]
    with pytest.raises(DataError, match="no domain 'oil'"):
        data.leave_out("oil")
    with pytest.raises(DataError, match="one domain only"):
        target.leave_out("sketch")


def test_channel_statistics_are_those_of_the_pixels() -> None:
    data = make()
    pixels = data.images.double().permute(1, 0, 2, 3).reshape(3, -1) / 255
    mean, std = data.channel_statistics()
    torch.testing.assert_close(mean, pixels.mean(dim=1).float())
    torch.testing.assert_close(std, pixels.std(dim=1, correction=0).float())
    shuffled = data.select(torch.randperm(24, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(shuffled.channel_statistics()[0], mean)
    constant = make(images=torch.full((24, 3, 4, 6), 7, dtype=torch.uint8))
    assert torch.equal(constant.channel_statistics()[1], torch.full((3,), 1 / 255))
    with pytest.raises(DataError, match="no images"):
        data.select([]).channel_statistics()


def test_normalise_and_denormalise_are_inverse() -> None:
    data = make()
    mean, std = data.channel_statistics()
    normalised = normalise(data.images, mean, std)
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    back = denormalise(normalised, mean.tolist(), std.tolist())
    assert torch.equal((back * 255).round().to(torch.uint8), data.images)
    with pytest.raises(ValueError, match="uint8"):
        normalise(normalised, mean, std)


def test_denormalise_does_not_clamp() -> None:
    assert denormalise(torch.full((1, 3, 2, 2), 9.0), [0.5] * 3, [0.5] * 3).max() == 5


@pytest.mark.parametrize(
    ("names", "safe"),
    [
        (("0", "1"), False),
        (("seven", "cat"), False),
        (("A", "B"), False),
        (("12", "dog"), False),
        (("dog", "cat"), True),
    ],
)
def test_flip_safe_follows_the_class_names(names: tuple[str, ...], safe: bool) -> None:
    assert make(class_names=names).flip_safe is safe


def test_fingerprint_notices_every_change() -> None:
    data = make()
    assert data.fingerprint() == make().fingerprint()
    changed = data.images.clone()
    changed[3, 1, 2, 2] ^= 1
    others = [
        make(images=changed),
        make(labels=1 - data.labels),
        make(is_test=~data.is_test),
        make(class_names=("cat", "cow")),
        data.select(torch.arange(23, -1, -1)),
    ]
    assert len({other.fingerprint() for other in others} | {data.fingerprint()}) == 6


def test_summary_counts_the_parts() -> None:
    data = make(warnings=("odd",))
    seen = summary(data)
    assert seen.train_counts == ((3, 3, 3), (3, 3, 3))
    assert seen.test_counts == ((1, 1, 1), (1, 1, 1))
    assert (seen.images, seen.resolution, seen.flip_safe, seen.warnings) == (24, (4, 6), True, ("odd",))
