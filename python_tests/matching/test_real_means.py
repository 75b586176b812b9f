"""Runs that share the means of their real images: the same bits, and nothing computed twice."""

from __future__ import annotations

import dataclasses
import errno
import os

import pytest
import torch
from expert_matching_cases import MASKS
from small_runs import MOSAICS, SMALL, WITH_SURGERY
from toy_data import toy_domains
from toy_experts import toy_experts

from dgdd_fast.config import ExpertConfig, NetworkConfig, with_method
from dgdd_fast.distillation import distill
from dgdd_fast.matching.feature_matching import FeatureMatching
from dgdd_fast.matching.real_means import HEAD

DATA = toy_domains(per_cell=8)


@pytest.fixture
def computed(monkeypatch):
    """The calls that compute features of real images."""
    calls = []
    honest = FeatureMatching._real_features
    monkeypatch.setattr(
        FeatureMatching, "_real_features", lambda self, *args: calls.append(1) or honest(self, *args)
    )
    return calls


@pytest.mark.parametrize("method", ["dm", "datadam", "dm+dam+fact", "mmd", "cadm"])
def test_the_first_run_computes_for_all_and_no_bit_changes(method, tmp_path, computed):
    config = SMALL
    if method in ("mmd", "cadm"):
        pool = ExpertConfig(pool=str(toy_experts(tmp_path / "experts", DATA)))
        masks = MASKS if method == "cadm" else None
        config = dataclasses.replace(
            config, experts=pool, masks=masks, network=NetworkConfig(), image_lr=0.01
        )
    config = with_method(config, method)
    surgery = with_method(dataclasses.replace(config, image_lr=0.03, ipc=3), f"{method}+sgs")
    alone = [distill(DATA, each).images for each in (config, surgery)]
    computed.clear()
    shared = [distill(DATA, each, real_means=tmp_path / "means").images for each in (config, surgery)]
    assert all(map(torch.equal, alone, shared))
    assert len(computed) == config.iterations
    assert len([*(tmp_path / "means").iterdir()]) == 1


def test_a_longer_run_computes_what_is_new(tmp_path, computed):
    distill(DATA, SMALL, real_means=tmp_path)
    distill(DATA, dataclasses.replace(MOSAICS, iterations=6), real_means=tmp_path)
    assert len(computed) == 6


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"batch_real": 5}, {"network": NetworkConfig(width=4, depth=2)}, {"union": "literal"}],
)
def test_another_real_side_shares_nothing(change, tmp_path, computed):
    distill(DATA, SMALL, real_means=tmp_path)
    changed = dataclasses.replace(SMALL, **change)
    assert torch.equal(distill(DATA, changed, real_means=tmp_path).images, distill(DATA, changed).images)
    assert len([*tmp_path.iterdir()]) == 2
    distill(toy_domains(per_cell=7), SMALL, real_means=tmp_path)
    assert len([*tmp_path.iterdir()]) == 3


def test_another_processor_shares_nothing(tmp_path, monkeypatch):
    distill(DATA, SMALL, real_means=tmp_path)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    distill(DATA, SMALL, real_means=tmp_path)
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("place", [HEAD + 40, -3])
def test_a_damaged_row_is_computed_again(place, tmp_path, computed):
    whole = distill(DATA, SMALL, real_means=tmp_path).images
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[place] ^= 8
    path.write_bytes(content)
    computed.clear()
    assert torch.equal(distill(DATA, SMALL, real_means=tmp_path).images, whole)
    assert len(computed) == 1
    assert path.read_bytes() != content
    path.write_bytes(path.read_bytes()[:-30])
    assert torch.equal(distill(DATA, SMALL, real_means=tmp_path).images, whole)
    assert len(computed) == 2


def test_a_full_disk_costs_time_and_nothing_else(tmp_path, monkeypatch):
    whole = distill(DATA, WITH_SURGERY).images

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.warns(UserWarning, match=r"\.means takes no more \(No space left on device\)") as told:
        assert torch.equal(distill(DATA, WITH_SURGERY, real_means=tmp_path).images, whole)
    assert len(told) == 1


def test_an_objective_that_needs_every_real_image_shares_nothing(tmp_path):
    config = with_method(SMALL, "hdd")
    assert torch.equal(distill(DATA, config, real_means=tmp_path).images, distill(DATA, config).images)
    assert not any(path.stat().st_size for path in tmp_path.iterdir())
