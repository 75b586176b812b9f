"""What the host decides for an iteration, as one thing that travels to the device.

A plan is a tree of tuples, NamedTuples, lists and dataclasses. Its tensors hold the numbers; everything else
in it, with the tensors' shapes, is its form: two plans of one form lead to the same work on other numbers,
which is what a captured graph repeats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ALIGNED = 64  # bytes: where each tensor in a buffer begins, as kernels load several numbers at once


class Aside:
    """A value that is no part of the form: read where work is prepared, never in what is repeated."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Aside)

    def __hash__(self) -> int:
        return hash(Aside)


class OnHost:
    """A tensor that stays on the host. No two plans that hold one are of the same form."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Packed(NamedTuple):
    """A plan whose numbers lie in one buffer for each dtype.

    Attributes:
        plan: as it was packed.
        form: hashable, equal for plans of the same form.
        places: the dtype, first number and shape of each tensor of the plan.
        buffers: on the host.
    """

    plan: Any
    form: Hashable
    places: list[tuple[torch.dtype, int, torch.Size]]
    buffers: dict[torch.dtype, Tensor]

    def in_buffers(self, buffers: dict[torch.dtype, Tensor]) -> Any:
        """The plan with its numbers in `buffers`, of the same sizes as its own, wherever these are."""
        places = iter(self.places)

        def placed(_: Tensor) -> Tensor:
            dtype, first, shape = next(places)
            return buffers[dtype][first : first + shape.numel()].view(shape)

        return _mapped(self.plan, placed)

    def copies(self, device: torch.device) -> dict[torch.dtype, Tensor]:
        """The buffers copied to a device; of pinned ones the copies are under way when this returns."""
        return {
            dtype: numbers.to(device, non_blocking=True, copy=True) for dtype, numbers in self.buffers.items()
        }


def pack(plan: Any, pinned: bool) -> Packed:
    """The plan, to be copied in as few pieces as it has dtypes; `pinned`, so that nobody waits for a copy to
    a GPU."""
    tensors: list[Tensor] = []
    form = _form(plan, tensors)
    sizes: dict[torch.dtype, int] = {}
    places = []
    for tensor in tensors:
        first = sizes.get(tensor.dtype, 0)
        places.append((tensor.dtype, first, tensor.shape))
        unit = _ALIGNED // tensor.dtype.itemsize
        sizes[tensor.dtype] = first + -(-tensor.numel() // unit) * unit
    buffers = {dtype: torch.zeros(size, dtype=dtype, pin_memory=pinned) for dtype, size in sizes.items()}
    for tensor, (dtype, first, shape) in zip(tensors, places, strict=True):
        buffers[dtype][first : first + shape.numel()].view(shape).copy_(tensor)
    return Packed(plan, form, places, buffers)


def on_device(plan: Any, device: torch.device) -> Any:
    """The plan with its numbers on a device, for work there."""
    if device.type == "cpu":
        return _mapped(plan, lambda tensor: tensor)
    packed = pack(plan, pinned=False)
    return packed.in_buffers(packed.copies(device))


def _mapped(plan: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The plan with `function` of each tensor in its place, and with what stays on the host laid open."""
    if isinstance(plan, Tensor):
        return function(plan)
    if isinstance(plan, OnHost):
        return plan.tensor
    if isinstance(plan, tuple | list):
        parts = [_mapped(part, function) for part in plan]
        return type(plan)(*parts) if hasattr(plan, "_fields") else type(plan)(parts)
    if dataclasses.is_dataclass(plan) and not isinstance(plan, type):
        fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
        return type(plan)(**{name: _mapped(part, function) for name, part in fields.items()})
    return plan


def _form(plan: Any, tensors: list[Tensor]) -> Hashable:
    """The form; adds the tensors to `tensors`, in the order of `_mapped`."""
    if isinstance(plan, Tensor):
        tensors.append(plan)
        return plan.dtype, plan.shape
    if isinstance(plan, tuple | list):
        return type(plan), tuple(_form(part, tensors) for part in plan)
    if dataclasses.is_dataclass(plan) and not isinstance(plan, type):
        parts = (getattr(plan, field.name) for field in dataclasses.fields(plan))
        return type(plan), tuple(_form(part, tensors) for part in parts)
    hashable: Hashable = plan
    return hashable
