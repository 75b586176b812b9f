"""Parts of a pass side by side on the CPU: a thread for each, in which every operator computes alone.

An operator that shares its work among threads ends when the last of them has done its share, hundreds of
times an iteration; beside another busy process each of these waits for whoever lost a core. Parts of a pass
(images, classes) are waited for once. They are cut by the size of the images and networks alone and put
together in order, so that results are the same bits whatever the number of threads.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


class _Team(NamedTuple):
    threads: int
    pool: ThreadPoolExecutor


_team: ContextVar[_Team | None] = ContextVar("team", default=None)


@contextlib.contextmanager
def side_by_side(device: torch.device) -> Iterator[None]:
    """Within, `each` computes as many parts at once as torch had threads, and operators outside of it take
    one thread. On a GPU, and inside another such block, nothing changes."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or _team.get() is not None:
        yield
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, "part", torch.set_num_threads, (1,)) as pool:
            token = _team.set(_Team(threads, pool))
            try:
                yield
            finally:
                _team.reset(token)
    finally:
        torch.set_num_threads(threads)


def each(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """`function` of every part, in order; side by side within `side_by_side`.

    Gradients are recorded where they are for the caller. Autocast is to be entered by `function`.
    """
    return list(one_by_one(function, parts))


def one_by_one(function: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
    """The same for results that are better not all kept: each as soon as it and those before it are there,
    and never more than twice as many of them as threads, however long the caller takes over one."""
    team = _team.get()
    if team is None or len(parts) < 2:
        yield from map(function, parts)
        return
    records = torch.is_grad_enabled()

    def computed(part: Part) -> Result:
        with torch.set_grad_enabled(records):
            return function(part)

    yield from _in_order(team.pool, computed, parts, 2 * team.threads)


def ahead(
    function: Callable[[Part], Result], parts: Iterable[Part], threads: int
) -> Generator[Result, None, None]:
    """`function` of every part, in order, computed by `threads` while the caller does other things, for a few
    parts beforehand; without threads when it is asked for. Close it when no more are wanted."""
    if threads == 0:
        yield from map(function, parts)
        return
    pool = ThreadPoolExecutor(threads, "ahead", torch.set_num_threads, (1,))
    try:
        yield from _in_order(pool, function, parts, 2 * threads)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Part], Result], parts: Iterable[Part], most: int
) -> Iterator[Result]:
    """The results in order, with at most so many begun or not yet taken."""
    begun: collections.deque[Future[Result]] = collections.deque()
    try:
        for part in parts:
            if len(begun) == most:
                yield begun.popleft().result()
            begun.append(pool.submit(function, part))
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def slices(count: int, most: int) -> list[slice]:
    """`count` images in parts as even as possible, none larger than `most`."""
    parts = -(-count // most)
    ends = [count * part // parts for part in range(parts + 1)]
    return [slice(first, end) for first, end in itertools.pairwise(ends)]


def sum_gradients_(
    parameters: Sequence[torch.nn.Parameter],
    function: Callable[[Part], tuple[torch.Tensor, Result]],
    parts: Sequence[Part],
) -> list[Result]:
    """Sets the gradient of each parameter to that of the sum of the losses of all parts, in their order.

    `function` gives for a part its loss, a scalar with a graph of its own, and something to be kept; those
    are returned.
    """

    def loss_and_gradients(part: Part) -> tuple[Result, tuple[torch.Tensor | None, ...]]:
        loss, result = function(part)
        return result, torch.autograd.grad(loss, parameters, allow_unused=True)

    results = []
    for parameter in parameters:
        parameter.grad = None
    for result, gradients in one_by_one(loss_and_gradients, parts):
        results.append(result)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                # In the parameter's memory format, which fused optimizers take for granted.
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad += gradient
    return results


@contextlib.contextmanager
def all_threads() -> Iterator[None]:
    """For a pass that cannot be taken apart: within, operators share their work among all threads again."""
    team = _team.get()
    if team is None:
        yield
        return
    torch.set_num_threads(team.threads)
    try:
        yield
    finally:
        torch.set_num_threads(1)


def thread_count() -> int:
    """How many threads compute, side by side or inside the operators."""
    team = _team.get()
    return torch.get_num_threads() if team is None else team.threads


def available_cores() -> int:
    """The cores that this process may use: by its affinity, and by the quota of its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, granted_cores(Path("/sys/fs/cgroup")))))


def granted_cores(root: Path) -> float:
    """How many cores' time the control group grants, infinity where it says nothing; versions 2 and 1.

    Inside a container the group's own files stand at the root.
    """
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        granted, of = (root / "cpu.max").read_text().split()
        return math.inf if granted == "max" else int(granted) / int(of)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (
            int((root / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
        return quota / period if quota > 0 else math.inf
    return math.inf
