"""RDED: crops where they should be, chosen by a network's certainty, for each class and domain."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small_runs import SMALL
from toy_data import toy_domains, without_rows

from dgdd_fast.config import NetworkConfig
from dgdd_fast.data import normalise
from dgdd_fast.distillation import distill
from dgdd_fast.networks import ConvNet, initialise
from dgdd_fast.seeds import generator
from dgdd_fast.synthetic.crops import LEAST_SHARE, Observer, chosen_crops, cut, draw_boxes, surest_first
from dgdd_fast.synthetic.initial import assign_domains
from dgdd_fast.synthetic.mosaics import decode

DATA = toy_domains().train()
RDED = dataclasses.replace(SMALL, objective="rded", factor=2, herding_epochs=3)


def observer() -> Observer:
    network = ConvNet(3, (16, 16), NetworkConfig(width=8))
    initialise(network, generator(0, "network"))
    return Observer(network, *DATA.channel_statistics())


def test_boxes_lie_in_the_image_and_have_its_ratio() -> None:
    boxes = draw_boxes(400, 5, (24, 48), generator(0, "boxes"))
    top, left, height, width = boxes.unbind(-1)
    assert min(int(part.min()) for part in (top, left)) == 0
    assert int((top + height).max()) == 24
    assert int((left + width).max()) == 48
    assert ((height * 2 - width).abs() <= 1).all()
    share = height * width / (24 * 48)
    assert float(share.min()) > LEAST_SHARE - 0.03
    assert abs(float(share.mean()) - (1 + LEAST_SHARE) / 2) < 0.03


def test_a_cut_is_the_box_resized() -> None:
    images = DATA.images[:6]
    boxes = draw_boxes(6, 1, (16, 16), generator(1, "boxes"))[:, 0]
    boxes[3] = torch.tensor([0, 0, 16, 16])
    for image, box, tile in zip(images, boxes.tolist(), cut(images, boxes, (8, 8)), strict=True):
        top, left, height, width = box
        part = image[None, :, top : top + height, left : left + width].float()
        torch.testing.assert_close(tile, F.interpolate(part, (8, 8), mode="bilinear", antialias=True)[0])
    assert torch.equal(cut(images, boxes, (16, 16))[3], images[3].float())


def test_every_image_gives_its_best_crop_before_any_gives_another() -> None:
    losses = torch.tensor([[3.0, 1.0], [0.5, 0.2], [9.0, 2.0]])
    assert surest_first(losses, 2).tolist() == [3, 1]
    assert surest_first(losses, 6).tolist() == [3, 1, 5, 2, 0, 4]
    assert surest_first(losses, 8).tolist() == [3, 1, 5, 2, 0, 4, 3, 1]


@pytest.mark.parametrize("balanced", [True, False])
def test_the_surest_crops_of_each_class_are_chosen(balanced: bool) -> None:
    assigned = assign_domains(DATA.counts(), 3, factor=2)
    seen = observer()
    found = chosen_crops(DATA, seen, assigned, balanced=balanced, factor=2, crops=4, seed=5)
    assert found.tiles.shape == (36, 3, 8, 8)
    assert torch.equal(DATA.labels[found.rows], torch.arange(3).repeat_interleave(12))
    if balanced:
        assert torch.equal(DATA.domains[found.rows], assigned.flatten())
    with torch.inference_mode():
        logits = seen.network(decode(found.tiles, 2))
        losses = F.cross_entropy(logits, DATA.labels[found.rows], reduction="none").reshape(3, 12)
        whole = normalise(DATA.images[:], seen.mean, seen.std)[:, :, ::2, ::2]
        usual = F.cross_entropy(seen.network(decode(whole, 2)), DATA.labels, reduction="none")
    groups = losses.reshape(3, 3, 4) if balanced else losses.reshape(3, 1, 12)
    assert (groups.diff(dim=2) > -1e-4).all()  # the surest first
    for label in range(3):
        assert losses[label].mean() < usual[DATA.labels == label].mean()


@pytest.mark.parametrize("init", ["uniform", "random"])
def test_a_set_of_crops_repeats_and_knows_its_domains(init: str) -> None:
    config = dataclasses.replace(RDED, init=init)
    first, second = distill(DATA, config), distill(DATA, config)
    assert torch.equal(first.images, second.images)
    assert (first.factor, len(first), first.images.shape) == (2, 48, (12, 3, 16, 16))
    if init == "uniform":
        assert torch.equal(first.domains, assign_domains(DATA.counts(), 4, factor=2).flatten())
    other = distill(DATA, dataclasses.replace(config, seed=1))
    assert not torch.equal(first.images, other.images)
    pixels = first.training_pixels.images
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 1


def test_a_cell_of_few_images_gives_several_crops_of_each() -> None:
    data = without_rows(DATA, 1, 2, keep=2)
    assigned = assign_domains(data.counts(), 3, factor=2)
    found = chosen_crops(data, observer(), assigned, balanced=True, factor=2, crops=3, seed=0)
    there = found.rows[(data.labels[found.rows] == 1) & (data.domains[found.rows] == 2)]
    assert sorted(there.unique(return_counts=True)[1].tolist()) == [2, 2]
    assert len(found.tiles.flatten(1).unique(dim=0)) == len(found.tiles)
