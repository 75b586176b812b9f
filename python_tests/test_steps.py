"""Every long step says how far it is: from nothing to all of its parts, however deep it lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import SMALL, TINY
from toy_data import toy_domains, write_npz

from dgdd_fast import distill, evaluate, load_dataset, pretrain
from dgdd_fast.config import NetworkConfig, PretrainConfig
from dgdd_fast.data.pack import pack
from dgdd_fast.steps import counted, listening


def heard(work: Callable[[], object]) -> dict[str, list[tuple[int, int]]]:
    """By step, what was told."""
    steps: dict[str, list[tuple[int, int]]] = {}
    with listening(lambda step, done, total: steps.setdefault(step, []).append((done, total))):
        work()
    for step, told in steps.items():
        done, total = told[-1]
        assert done == total, step
        assert all(0 <= done <= total for done, total in told), step
    return steps


def test_parts_are_counted_as_they_are_done() -> None:
    assert list(counted("nobody listens", "ab")) == ["a", "b"]
    assert heard(lambda: list(counted("parts", iter("ab"), 2))) == {"parts": [(0, 2), (1, 2), (2, 2)]}


def test_distilling_tells_what_goes_before_its_loop() -> None:
    data = toy_domains(per_cell=4)
    steps = heard(lambda: distill(data, dataclasses.replace(SMALL, pseudo_domains=2, iterations=0)))
    assert {"identifying the data", "identifying images", "measuring colours"} <= steps.keys()
    assert {"measuring styles", "looking for styles"} <= steps.keys()
    herding = dataclasses.replace(SMALL, objective="herding", herding_epochs=3)
    steps = heard(lambda: distill(data, herding))
    assert steps["training a network"] == [(1, 3), (2, 3), (3, 3)]
    assert steps["herding"][-1] == (data.num_classes, data.num_classes)


def test_testing_and_the_refitting_of_discriminators_are_told(tmp_path: Path) -> None:
    data = toy_domains(per_cell=4)
    steps = heard(lambda: evaluate(data, {"all": data}, dataclasses.replace(TINY, runs=2)))
    assert steps["testing"].count((0, steps["testing"][0][1])) == 2
    network = NetworkConfig("convnet", width=4)
    settings = PretrainConfig(experts=1, epochs=1, batch_size=8, network=network, discriminators="refitted")
    steps = heard(lambda: pretrain(data, settings, tmp_path / "experts"))
    assert {"features to refit discriminators on", "refitting discriminators"} <= steps.keys()


@pytest.mark.parametrize("packed", [False, True])
def test_reading_is_told(tmp_path: Path, packed: bool) -> None:
    (tmp_path / "data").mkdir()
    write_npz(toy_domains(per_cell=4), tmp_path / "data")
    source = tmp_path / "data"
    if packed:
        assert "packing" in heard(lambda: pack(source, tmp_path / "packed"))
        source = tmp_path / "packed"
    steps = heard(lambda: load_dataset(source))
    assert ("checking decoded images" if packed else "reading files") in steps
    assert "checking images" in steps
