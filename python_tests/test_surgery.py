"""Spectral gradient surgery in a run: its strengths, its lengths, and the domains that it needs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_runs import SMALL, WITH_SURGERY, relative_change
from toy_data import toy_domains

from dgdd_fast.config import (
    SurgeryConfig,
)
from dgdd_fast.distillation import (
    distill,
)


def test_surgery_without_strength_is_the_objective_alone() -> None:
    data = toy_domains()
    plain = distill(data, SMALL).images
    surgery = distill(data, dataclasses.replace(SMALL, surgery=SurgeryConfig(0.0, 0.0))).images
    start = distill(data, dataclasses.replace(SMALL, iterations=0)).images
    assert relative_change(surgery, plain, start) < 2e-4


def test_a_run_says_how_long_the_surgery_s_updates_were() -> None:
    data = toy_domains()
    assert distill(data, SMALL).provenance["length_ratio"] is None
    # R is in [0, 1]: with alpha alone the update is once to (1 + alpha) times as long as the gradient
    free = dataclasses.replace(SMALL, surgery=SurgeryConfig(alpha=3.0, beta=0.0))
    assert 1 < distill(data, free).provenance["length_ratio"] < 4
    # one step: as long as that of the objective alone for each class, whatever the strengths
    start = distill(data, dataclasses.replace(SMALL, iterations=0)).images
    one = dataclasses.replace(SMALL, iterations=1)
    scaled = distill(data, dataclasses.replace(one, surgery=SurgeryConfig(3.0, 0.5, length="gradient")))
    by_class = [
        (images - start).view(3, -1).norm(dim=1) for images in (scaled.images, distill(data, one).images)
    ]
    torch.testing.assert_close(*by_class, rtol=1e-4, atol=0)
    assert scaled.provenance["length_ratio"] > 1


def test_surgery_wants_domains_to_compare() -> None:
    one = toy_domains().only_domains(["domain1"])
    with pytest.raises(ValueError, match="there is only domain1: look for styles in it with pseudo_domains"):
        distill(one, WITH_SURGERY)
    assert distill(one, dataclasses.replace(WITH_SURGERY, pseudo_domains=2, iterations=1)).images.numel() > 0
