"""Processes that share the work of one run: ranks, as torchrun starts them.

Everything that is drawn is drawn by every rank, as draws are cheap and named; each computes its share of the
classes, runs or experts. What they tell each other is small and travels through gloo, whatever the device: it
notices at once that a rank has gone, and takes several ranks on one GPU.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from .interruption import listen_to_one_request
from .messages import shown

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")

LONGEST_WAIT = timedelta(days=1)  # for a rank that is there; one that has gone is noticed at once


class RankLostError(RuntimeError):
    """Another rank of the run ended, or cannot be reached."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among the `count` that share the work; `group` is what connects them."""

    rank: int = 0
    count: int = 1
    group: Any = None

    def share(self, count: int, together: int = 1) -> slice:
        """Which of `count` things in a row are this rank's: as even as possible, always the same, and
        `together` from the first on never apart.

        Raises ValueError where there is nothing for some rank.
        """
        groups = -(-count // together)
        if groups < self.count:
            raise ValueError(
                f"{self.count} ranks are too many to share {count} classes: start {groups} or fewer"
            )
        first, end = (groups * rank // self.count * together for rank in (self.rank, self.rank + 1))
        return slice(first, min(end, count))

    def complete_(self, tensor: torch.Tensor, own: slice) -> None:
        """Fills the rows of a tensor that are other ranks' with theirs, bit for bit; `own` are this rank's.

        Every row must be some rank's. Raises RankLostError.
        """
        self.completing(tensor, own)()

    def completing(self, tensor: torch.Tensor, own: slice) -> Callable[[], None]:
        """Begins `complete_` with the rows as they are now; the result waits for the others'."""
        if self.count == 1:
            return lambda: None
        import torch
        import torch.distributed as dist

        # The sum of integers that are all 0 but one: exact, whatever the order of the additions.
        rows = torch.zeros_like(tensor, device="cpu")
        rows[own] = tensor[own].cpu()
        bits = rows.view({4: torch.int32, 8: torch.int64}[tensor.element_size()])
        with _naming_the_lost():
            begun = dist.all_reduce(bits, group=self.group, async_op=True)

        def end() -> None:
            with _naming_the_lost():
                begun.wait()
            tensor.copy_(rows)

        return end

    def gathered(self, value: Value) -> list[Value]:
        """The `value` of every rank, in their order. Raises RankLostError."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        with _naming_the_lost():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What `make` gives in the first rank, which alone calls it; what it raises there, all raise."""
        if self.count == 1:
            return make()
        made: Value | Exception | None = None
        if self.rank == 0:
            try:
                made = make()
            except Exception as error:
                made = error
        made = self.gathered(made)[0]
        if isinstance(made, Exception):
            raise made
        return made  # type: ignore[return-value]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Raises ValueError, in every rank the same, where the `facts` of one, by their names, or the
        versions of its packages are not those of the first."""
        versions = {name: version(name) for name in ("dgdd-fast", "torch")}
        first, *others = self.gathered(versions | dict(facts))
        for number, other in enumerate(others, start=1):
            for name, value in first.items():
                if other[name] != value:
                    raise ValueError(
                        f"rank {number} of {self.count} has {name} {shown(other[name])}, and rank 0 has "
                        f"{shown(value)}: all ranks need the same"
                    )


def here() -> Ranks:
    """The ranks that this process is one of, where `torch.distributed` is initialised; else it alone."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Ranks()
    group = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
    return Ranks(dist.get_rank(), dist.get_world_size(), group)


def launched() -> bool:
    """Whether torchrun, or what sets its variables, started this process as one of several."""
    return 0 <= _variable("RANK", -1) < _variable("WORLD_SIZE", 1) and _variable("WORLD_SIZE", 1) > 1


def _variable(name: str, otherwise: int) -> int:
    """A whole number of the environment; anything else there is not torchrun's."""
    value = os.environ.get(name, "")
    return int(value) if re.fullmatch(r"\d{1,9}", value, re.ASCII) else otherwise


def leads() -> bool:
    """Whether this process is the one that writes and prints: the first of its run, or alone."""
    return not launched() or _variable("RANK", 0) == 0


def local_rank() -> int:
    """Which of the ranks of this machine this process is; 0 where it is alone."""
    return _variable("LOCAL_RANK", 0) if launched() else 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Within, the processes that torchrun started are connected. Alone, nothing happens."""
    if not launched():
        yield
        return
    import torch.distributed as dist

    # The terminal and torchrun both pass a signal on: that is one request.
    listen_to_one_request()
    with _naming_the_lost():
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    yield
    dist.destroy_process_group()


def may_speak() -> bool:
    """Whether this process may say why its run ends: the first of its ranks to ask may, and no other."""
    if not launched():
        return True
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return leads()
    import torch.distributed as dist

    try:
        store: Any = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=10)
        )
        return bool(store.add(f"message {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1)
    except RuntimeError:  # torchrun is gone
        return leads()


@contextlib.contextmanager
def _naming_the_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(f"another rank ended or cannot be reached ({error})") from error
