"""CUDA graphs without CUDA: what is captured is the call of the work, which is done again at each replay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from dgdd_fast.cuda_graphs import RepeatedWork


class PretendedGraphs:
    """In the place of torch's graphs, for a `RepeatedWork` made by `repeated`.

    A replay is faithful where the work reads numbers from tensors alone: it is done with the tensors of the
    plan that was captured, whatever is the plan by then. To capture does nothing.

    Attributes:
        captures, replays: how many there were.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.captures = self.replays = 0
        self.capturing: Any = None
        cuda = torch.cuda
        for name in ("device", "stream"):
            monkeypatch.setattr(cuda, name, lambda _: contextlib.nullcontext())
        monkeypatch.setattr(cuda, "current_stream", lambda: None)
        monkeypatch.setattr(cuda, "Stream", _Stream)
        monkeypatch.setattr(cuda, "graph_pool_handle", lambda: None)
        monkeypatch.setattr(cuda, "CUDAGraph", lambda: _Graph(self))
        monkeypatch.setattr(cuda, "graph", self._capture)

    def repeated(
        self, prepare: Callable[[Any], None], work: Callable[[Any], None], device: torch.device
    ) -> RepeatedWork:
        def noted(plan: Any) -> None:
            if self.capturing is None:
                work(plan)
            else:
                self.capturing.work = lambda: work(plan)

        return RepeatedWork(prepare, noted, device)

    @contextlib.contextmanager
    def _capture(self, graph: _Graph, *_: Any, **__: Any) -> Iterator[None]:
        self.captures += 1
        self.capturing = graph
        yield
        self.capturing = None


class _Graph:
    def __init__(self, graphs: PretendedGraphs) -> None:
        self.graphs = graphs
        self.work: Callable[[], None] = lambda: None

    def replay(self) -> None:
        self.graphs.replays += 1
        self.work()


class _Stream:
    def wait_stream(self, _: Any) -> None:
        pass
