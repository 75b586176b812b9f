"""The Python in the README and on the site runs, in the order in which it is read."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import toy_set
from toy_data import toy_domains

import dgdd_fast
from dgdd_fast.data.load import LOADERS
from dgdd_fast.networks import ConvNet

ROOT = Path(__file__).parents[1]


def snippets(page: str, *marks: str) -> list[str]:
    """The blocks of Python of a page that hold one of `marks`; there is one for each."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    found = [block for block in blocks if any(mark in block for mark in marks)]
    assert len(found) == len(marks)
    return found


def test_the_readme_distils_evaluates_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ConvNet, "own_width", 2)
    toy = toy_domains(per_cell=12)
    few = dataclasses.replace(toy, domain_names=(*toy.domain_names[:-1], "street"))
    monkeypatch.setattr(dgdd_fast, "load_dataset", {"embedded-digits": few}.__getitem__)
    first, second = snippets("README.md", "leave_out", "DataLoader")
    for usual, small in (("iterations=500", "iterations=1"), ("runs=3, epochs=300", "runs=1, epochs=1")):
        assert usual in first
        first = first.replace(usual, small)
    scope: dict[str, Any] = {"torch": torch}
    exec(first, scope)
    assert "trained from scratch for 1 epochs" in capsys.readouterr().out
    exec(second, scope)
    images, labels, _domains = next(iter(scope["loader"]))
    assert images.shape == (10 * few.num_classes, 3, *few.resolution)
    assert labels.bincount().tolist() == [10] * few.num_classes


def test_a_network_of_torchvision_is_trained_on_a_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = toy_domains()
    toy_set(data, per_class=3).save(Path("runs/sketch/distilled.safetensors"))
    (snippet,) = snippets("docs/interoperability.md", "torchvision.models.resnet18(")

    def small(num_classes: int) -> torch.nn.Module:
        head = torch.nn.LazyLinear(num_classes)
        return torch.nn.Sequential(torch.nn.Flatten(), head)

    try:
        import torchvision
    except ImportError:  # what is tested then is all but the library
        torchvision = SimpleNamespace(models=SimpleNamespace(resnet18=small))
    from dgdd_fast import DistilledSet

    scope: dict[str, Any] = {"torch": torch, "torchvision": torchvision, "DistilledSet": DistilledSet}
    exec(snippet, scope)
    scope["loss"].backward()
    assert all(parameter.grad is not None for parameter in scope["network"].parameters())
    assert len(scope["images"]) == 3 * data.num_classes


def test_images_of_ones_own_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    iterable, loader = snippets("docs/own-data.md", "data = from_iterable(", "register_loader(")
    random = np.random.default_rng(0)

    def rows(count: int) -> list[tuple[Any, ...]]:
        return [
            (random.integers(0, 255, (70, 64, 3), dtype=np.uint8), label, domain)
            for label in (0, 1)
            for domain in ("photo", "sketch")
            for _ in range(count)
        ]

    scope: dict[str, Any] = {"rows": rows(4), "test_rows": rows(1), "my_rows": lambda path: rows(len(path))}
    exec(iterable, scope)
    data = scope["data"]
    assert (data.class_names, data.domain_names) == (("cat", "dog"), ("photo", "sketch"))
    assert (len(data.train()), len(data.test()), data.resolution) == (16, 4, (64, 64))
    monkeypatch.delitem(LOADERS, "mine", raising=False)
    exec(loader, scope)
    try:
        assert len(LOADERS["mine"]("four", 32)) == 16
    finally:
        LOADERS.pop("mine")
