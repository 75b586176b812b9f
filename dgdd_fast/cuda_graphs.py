"""Work on a GPU that is repeated: captured once as a CUDA graph, then launched as a whole.

A graph repeats kernels on the same memory. So work may be captured that depends on its plan's form alone
(`dgdd_fast.plans`), asks the device for no number and keeps its results in tensors that were there before;
the numbers of later plans are copied to where those of the captured one were.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .plans import Packed

WARM_UP = (
    2  # runs of a form before its capture: libraries choose algorithms and allocate at their first calls
)
MOST_GRAPHS = 64
MOST_SEEN = 256  # forms, of which some never come again and hold tensors


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    buffers: dict[torch.dtype, Tensor]


class RepeatedWork:
    """`prepare` and then `work` of one plan after another, in a stream of its own on a CUDA device.

    `prepare` runs each time. `work` is captured for every form of plan that comes a third time, and replayed
    from then on; until then it runs as it is, and so it does if it cannot be captured. Graphs share their
    memory, as they run one after another and what they compute on the way is not needed after.
    """

    def __init__(
        self, prepare: Callable[[Any], None], work: Callable[[Any], None], device: torch.device
    ) -> None:
        self.prepare, self.work, self.device = prepare, work, device
        self.most_graphs = MOST_GRAPHS
        self.seen: Counter[Hashable] = Counter()
        self.graphs: dict[Hashable, _Graph] = {}
        with torch.cuda.device(device):
            self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self.stream.wait_stream(torch.cuda.current_stream())
            self.pool = torch.cuda.graph_pool_handle()

    def run(self, packed: Packed) -> None:
        """Queues the work of a plan."""
        with torch.cuda.stream(self.stream):
            known = self.graphs.get(packed.form)
            if known is not None:
                for dtype, numbers in packed.buffers.items():
                    known.buffers[dtype].copy_(numbers, non_blocking=True)
                self.prepare(packed.in_buffers(known.buffers))
                known.graph.replay()
                return
            buffers = packed.copies(self.device)
            plan = packed.in_buffers(buffers)
            self.prepare(plan)
            self.work(plan)
            if len(self.seen) == MOST_SEEN:
                self.seen.clear()
            self.seen[packed.form] += 1
            if self.seen[packed.form] == WARM_UP and len(self.graphs) < self.most_graphs:
                self._capture(packed.form, plan, buffers)

    def _capture(self, form: Hashable, plan: Any, buffers: dict[torch.dtype, Tensor]) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on to reserve pinned memory for the next plans.
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                self.work(plan)
        except RuntimeError as error:
            self.most_graphs = len(self.graphs)
            reason = str(error).partition("\n")[0]
            warnings.warn(f"this run launches every kernel by itself, as torch says: {reason}", stacklevel=2)
            return
        self.graphs[form] = _Graph(graph, buffers)
