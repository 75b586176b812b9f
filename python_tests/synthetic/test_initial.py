"""Assigned domains, initial images and real batches."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_data import toy_domains

from dgdd_fast.config import DistillConfig
from dgdd_fast.data import normalise
from dgdd_fast.distillation import distill
from dgdd_fast.matching.batches import CellLayout, RealBatch, filled_cells, real_batch
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.synthetic.initial import assign_domains, initial_tiles


@settings(deadline=None, derandomize=True)
@given(classes=st.integers(1, 12), domains=st.integers(1, 6), ipc=st.integers(1, 50))
def test_assignment_is_balanced_within_classes_and_over_them(classes: int, domains: int, ipc: int) -> None:
    assigned = assign_domains(torch.ones(classes, domains), ipc)
    assert assigned.shape == (classes, ipc)
    per_class = torch.stack([(assigned == domain).sum(1) for domain in range(domains)], 1)
    assert int(per_class.max() - per_class.min()) <= 1
    total = per_class.sum(0)
    assert int(total.max() - total.min()) <= 1


def test_an_empty_cell_is_assigned_nothing_and_the_others_make_up_for_it() -> None:
    counts = torch.tensor([[5, 0, 5], [5, 5, 5]])
    assigned = assign_domains(counts, 6)
    assert not (assigned[0] == 1).any()
    assert [(assigned[0] == domain).sum().item() for domain in (0, 2)] == [3, 3]
    with pytest.raises(ValueError, match="no image in any source domain"):
        assign_domains(torch.zeros(1, 3), 2)


@settings(deadline=None, derandomize=True)
@given(domains=st.integers(1, 6), ipc=st.integers(1, 12), factor=st.integers(2, 3))
def test_tiles_share_the_domain_of_their_image_unless_there_are_fewer_images_than_domains(
    domains: int, ipc: int, factor: int
) -> None:
    counts = torch.ones(5, domains)
    assigned = assign_domains(counts, ipc, factor)
    assert assigned.shape == (5, ipc * factor**2)
    if ipc >= domains:
        by_image = assigned.reshape(5, ipc, factor**2)
        assert torch.equal(by_image[:, :, 0], assign_domains(counts, ipc))
        assert bool((by_image == by_image[:, :, :1]).all())
    else:
        assert torch.equal(assigned, assign_domains(counts, ipc * factor**2))


def test_uniform_initial_images_are_distinct_real_images_of_their_cell() -> None:
    data = toy_domains(per_cell=8)
    config = DistillConfig(ipc=6)
    mean, std = data.channel_statistics()
    assigned = assign_domains(data.counts(), config.ipc)
    images = initial_tiles(data, assigned, resolve_distillation(config, data), mean, std)
    real = normalise(data.images, mean, std)
    rows = [(real == image).flatten(1).all(1).nonzero().item() for image in images]
    assert len(set(rows)) == len(rows)
    labels = torch.arange(data.num_classes).repeat_interleave(config.ipc)
    assert torch.equal(data.labels[rows], labels)
    assert torch.equal(data.domains[rows], assigned.flatten())


def test_random_and_noise_initial_tiles() -> None:
    data = toy_domains(per_cell=8)
    mean, std = data.channel_statistics()
    assigned = assign_domains(data.counts(), 6)
    random = initial_tiles(
        data, assigned, resolve_distillation(DistillConfig(ipc=6, init="random"), data), mean, std
    )
    real = normalise(data.images, mean, std)
    rows = [(real == image).flatten(1).all(1).nonzero().item() for image in random]
    assert torch.equal(data.labels[rows], torch.arange(data.num_classes).repeat_interleave(6))
    noise = initial_tiles(
        data, assigned, resolve_distillation(DistillConfig(ipc=6, init="noise"), data), mean, std
    )
    assert noise.shape == random.shape
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def test_random_images_whatever_their_domain_are_recorded_with_their_own() -> None:
    data = toy_domains(per_cell=8)
    found = distill(data, DistillConfig(objective="random", ipc=6, init="random"))
    real = normalise(data.images, torch.tensor(found.mean), torch.tensor(found.std))
    rows = [(real == image).flatten(1).all(1).nonzero().item() for image in found.images]
    assert torch.equal(found.domains, data.domains[rows])
    assert not torch.equal(found.domains, assign_domains(data.counts(), 6).flatten())


def test_a_cell_smaller_than_its_quota_repeats_its_images() -> None:
    data = toy_domains(per_cell=2)
    mean, std = data.channel_statistics()
    assigned = assign_domains(data.counts(), 9)
    images = initial_tiles(data, assigned, resolve_distillation(DistillConfig(ipc=9), data), mean, std)
    assert len(images) == 9 * data.num_classes
    assert len(torch.unique(images, dim=0)) == 2 * data.num_domains * data.num_classes


def test_real_batch_takes_each_cell_without_repeats_and_small_cells_whole() -> None:
    data = toy_domains(per_cell=8)
    keep = ~((data.labels == 1) & (data.domains == 2)) | (torch.arange(len(data)) % 8 < 3)
    data = data.select(keep.nonzero().flatten())
    cells = data.cells()
    rows, sizes = real_batch(cells, 5, seed=3, iteration=7)
    assert sizes.tolist() == [[5, 5, 5], [5, 5, 3], [5, 5, 5]]
    assert len(rows) == len(rows.unique()) == int(sizes.sum())
    label_of_row = torch.arange(3).repeat_interleave(sizes.sum(1))
    assert torch.equal(data.labels[rows], label_of_row)
    again, _ = real_batch(cells, 5, seed=3, iteration=7)
    other, _ = real_batch(cells, 5, seed=3, iteration=8)
    assert torch.equal(rows, again)
    assert not torch.equal(rows, other)


def test_a_literal_real_batch_takes_each_class_whatever_the_domains() -> None:
    data = toy_domains(per_cell=8)
    keep = ~((data.labels == 1) & (data.domains == 2)) | (torch.arange(len(data)) % 8 < 3)
    data = data.select(keep.nonzero().flatten())
    drawn = [real_batch(data.cells(), 20, seed=3, iteration=step, literal=True) for step in range(300)]
    shares = torch.zeros(3, 3)
    for rows, sizes in drawn:
        assert len(rows) == len(rows.unique()) == 20 + 19 + 20  # class 1 has 19 images
        places = (data.labels * 3 + data.domains)[rows]
        assert torch.equal(places, torch.arange(9).repeat_interleave(sizes.flatten()))
        shares += sizes / 300
    # A domain counts by its size: 20 of 24 images of three equal cells; class 1 whole, 8, 8 and 3.
    assert shares[1].tolist() == pytest.approx([8, 8, 3])
    torch.testing.assert_close(shares[[0, 2]], torch.full((2, 3), 20 / 3), rtol=0.02, atol=0)
    assert len({tuple(sizes[0].tolist()) for _, sizes in drawn}) > 3


@pytest.mark.parametrize("literal", [False, True])
def test_every_real_image_is_drawn_equally_often(literal: bool) -> None:
    data = toy_domains(per_cell=8)
    drawn = torch.zeros(len(data))
    for iteration in range(400):
        drawn[real_batch(data.cells(), 12 if literal else 4, 0, iteration, literal)[0]] += 1
    # Binomial(400, 1/2): 5 standard deviations are 50; a false alarm in 72 rows has probability below 1e-4.
    assert float((drawn - 200).abs().max()) < 50


def test_initial_images_depend_on_the_seed_only() -> None:
    data = toy_domains(per_cell=8)
    mean, std = data.channel_statistics()
    assigned = assign_domains(data.counts(), 3)
    config = DistillConfig(ipc=3)
    first, again = (
        initial_tiles(data, assigned, resolve_distillation(config, data), mean, std) for _ in range(2)
    )
    other = initial_tiles(
        data, assigned, resolve_distillation(dataclasses.replace(config, seed=1), data), mean, std
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_filled_cells_of_each_image() -> None:
    labels = torch.tensor([0, 0, 1])

    def filled_in_a_batch_of(sizes: Tensor) -> Tensor | None:
        cells = torch.arange(sizes.numel()).repeat_interleave(sizes.flatten())
        return filled_cells(RealBatch(None, cells, sizes, CellLayout(sizes)), labels)

    assert filled_in_a_batch_of(torch.tensor([[2, 1], [1, 3]])) is None
    filled = filled_in_a_batch_of(torch.tensor([[2, 0], [1, 3]]))
    assert filled is not None
    assert filled.tolist() == [[True, True, True], [False, False, True]]
