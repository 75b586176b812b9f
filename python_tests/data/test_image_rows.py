"""Parts of a data set share its images, and a device that they do not fit on gets them batch by batch."""

import pytest
import torch
from toy_data import toy_domains

from dgdd_fast.data import normalise
from dgdd_fast.data.image_rows import ImageRows, chunks
from dgdd_fast.data.real_images import DeviceImages, RealImages
from dgdd_fast.data.record import ImageRecord, image_digests

DATA = toy_domains(per_cell=8)


def test_parts_of_a_set_share_its_images() -> None:
    parts = DATA.leave_out("domain1")
    for part in (*parts, parts.sources_train.only_classes(["class2"]), DATA.train().select([3, 1])):
        assert isinstance(part.images, ImageRows)
        assert part.images.pool is DATA.images
        names = [int(name.removeprefix("item")) for name in part.item_names]
        assert torch.equal(part.images[:], DATA.images[names])
        assert part.images.shape == (len(part), 3, 16, 16)
    assert torch.equal(DATA.select([-1]).select([0]).images[0], DATA.images[-1])


def test_a_view_is_told_from_a_copy_by_nothing() -> None:
    rows = torch.randperm(len(DATA), generator=torch.Generator().manual_seed(0))[:40]
    view = DATA.select(rows)
    copy = toy_domains(per_cell=8).select(rows)
    object.__setattr__(copy, "images", copy.images[:])
    assert view.fingerprint() == copy.fingerprint()
    assert (image_digests(view.images) == image_digests(copy.images)).all()
    for mine, its in zip(view.channel_statistics(), copy.channel_statistics(), strict=True):
        assert torch.equal(mine, its)
    assert ImageRecord.of(view).knows(DATA.images).sum() == 40


def test_chunks_are_all_images_in_order() -> None:
    view = DATA.select(range(5, 40)).images
    for size in (None, 1, 7, 100):
        parts = list(chunks(view, "counting images", size))
        assert torch.equal(torch.cat(parts), DATA.images[5:40])
        assert all(len(part) <= (size or 1000) for part in parts)


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("share", [None, 0, 0.4, 1, 2])
def test_a_batch_is_the_same_wherever_the_images_are(
    selected: bool, share: float | None, device: torch.device
) -> None:
    images = DATA.select(torch.arange(len(DATA) - 1, 3, -2)).images if selected else DATA.images
    room = None if share is None else int(share * images.shape.numel())
    there = DeviceImages(images, device, room)
    assert len(there) == len(images)
    if share is not None:
        assert there.resident is not None
        assert len(there.resident) == int(min(1, share) * len(images))
    for rows in ([0, len(images) - 1, 5, 5, 17], [1], []):
        index = torch.tensor(rows, dtype=torch.int64)
        for place in (index, index.to(device)):
            pool, where = there.at(place)
            assert pool.device.type == device.type
            assert torch.equal(pool[where].cpu(), images[index])


def test_on_the_cpu_no_image_is_copied_before_it_is_needed() -> None:
    real = RealImages(DATA.train(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), torch.device("cpu"))
    assert real.images.pool is DATA.images
    assert real.images.resident is None
    rows = torch.tensor([3, 0])
    assert torch.equal(real.take(rows), normalise(DATA.train().images[rows], real.mean, real.std))
