"""What is captured, and what each replay finds in its place; without CUDA."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import pytest
import torch
from pretended_graphs import PretendedGraphs
from torch import Tensor

from dgdd_fast import cuda_graphs
from dgdd_fast.plans import Aside, OnHost, pack

CPU = torch.device("cpu")


class Plan(NamedTuple):
    aside: Aside
    numbers: Tensor
    kind: str = "one"


def test_replays_are_prepared_with_their_own_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with what is no part of its form, such as which expert an iteration draws."""
    prepared: list[int] = []
    sums: list[float] = []

    def prepare(plan: Any) -> None:
        prepared.append(plan.aside.value + int(plan.numbers[0]))

    graphs = PretendedGraphs(monkeypatch)
    repeated = graphs.repeated(prepare, lambda plan: sums.append(float(plan.numbers.sum())), CPU)
    for value in range(6):
        repeated.run(pack(Plan(Aside(100 * value), torch.tensor([value, 10 * value])), pinned=False))
    assert (graphs.captures, graphs.replays) == (1, 4)
    assert prepared == [101 * value for value in range(6)]
    assert sums == [11 * value for value in range(6)]


def test_each_form_is_captured_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    sums: list[float] = []
    graphs = PretendedGraphs(monkeypatch)
    repeated = graphs.repeated(lambda plan: None, lambda plan: sums.append(float(plan.numbers.sum())), CPU)
    repeated.most_graphs = 2
    kinds = "abcab" * 4
    for value, kind in enumerate(kinds):
        repeated.run(pack(Plan(Aside(0), torch.full((2,), float(value)), kind), pinned=False))
    assert sums == [2.0 * value for value in range(len(kinds))]
    assert graphs.captures == 2
    assert graphs.replays == 2 * (8 - 2)


def test_forms_that_never_come_again_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what they hold: rows of images that stay on the host, in every plan others."""
    graphs = PretendedGraphs(monkeypatch)
    repeated = graphs.repeated(lambda plan: None, lambda plan: None, CPU)
    rows = [OnHost(torch.arange(3)) for _ in range(1000)]
    kept = [weakref.ref(part) for part in rows]
    while rows:
        repeated.run(pack((rows.pop(),), pinned=False))
    assert graphs.captures == 0
    assert sum(part() is not None for part in kept) <= cuda_graphs.MOST_SEEN
