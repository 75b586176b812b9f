"""The example for Weights & Biases, with a stand-in for its package."""

import dataclasses
import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from small_runs import SMALL
from toy_data import toy_domains

from dgdd_fast.distillation import distill


def test_every_iteration_is_logged_and_images_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = []
    wandb = SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), Image=lambda picture: picture.size
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delitem(sys.modules, "wandb_callback", raising=False)
    example = importlib.import_module("wandb_callback")
    states = []
    log = example.to_wandb(images_every=2)

    def progress(state):
        states.append(state)
        log(state)

    distill(toy_domains(), dataclasses.replace(SMALL, iterations=3), progress=progress)
    assert [step for step, _ in logged] == [1, 2, 3]
    assert [values["loss"] for _, values in logged] == [state.loss for state in states]
    assert [step for step, values in logged if "images" in values] == [2, 3]
    assert min(logged[-1][1]["images"]) > 100


def test_the_images_so_far_stay_what_they_were() -> None:
    sets = []
    data = toy_domains()
    config = dataclasses.replace(SMALL, iterations=2)
    done = distill(data, config, progress=lambda state: sets.append(state.images_so_far()))
    assert torch.equal(sets[1].images, done.images)
    assert torch.equal(sets[0].images, distill(data, dataclasses.replace(config, iterations=1)).images)
    assert [each.provenance["iterations"] for each in sets] == [1, 2]
