"""A device that is none: tensors that say they live elsewhere and hold their numbers on the CPU.

Whatever crosses between it and the host is seen, so a machine without a GPU can tell where a loop would wait
for one. Autograd follows its tensors, which it would not on a CUDA device that torch does not find: it calls
itself "meta", the only other device of every build of torch. For the package, whatever is not the CPU is a
device to be left alone.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_map, tree_map_only

from dgdd_fast.seeds import derive_seed, generator

DEVICE = torch.device("meta")
PACKAGE = Path(__file__).parents[2] / "dgdd_fast"

# What a GPU can only do when the host has waited for it, as the host must know a number or a shape.
_WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
    "bincount",
    "equal",
}
# What launches nothing.
_FREE = {"view", "_unsafe_view", "expand", "slice", "select", "split", "split_with_sizes", "unbind", "t"}
_FREE |= {"transpose", "permute", "detach", "alias", "unsqueeze", "squeeze", "as_strided", "_reshape_alias"}
_FREE |= {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "lift_fresh"}


class DeviceTensor(Tensor):
    """Numbers of the device; `numbers` is where they really are."""

    @staticmethod
    def __new__(cls, numbers: Tensor) -> DeviceTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of `PretendedDevice`")


class _Generator(torch.Generator):
    """Draws on the device, as it says; torch knows none there."""

    device = DEVICE


class PretendedDevice(TorchDispatchMode):
    """Within, tensors can be made on and moved to `DEVICE`.

    Attributes:
        launches: how often each operator ran on the device.
        waits: how often the host waited for the device, by operator and place in the package.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    @staticmethod
    def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
        """In the place of `dgdd_fast.seeds.generator`, also for the device."""
        if torch.device(device) != DEVICE:
            return generator(seed, *names, device=device)
        return _Generator().manual_seed(derive_seed(seed, *names))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = tree_any(lambda part: isinstance(part, DeviceTensor), (args, kwargs))
        wanted = kwargs.get("device")
        name = func.overloadpacket.__name__
        to_device = there if wanted is None else torch.device(wanted) == DEVICE
        if name == "copy_":
            to_device = isinstance(args[0], DeviceTensor)
        self._note(name, args, kwargs, there, to_device)
        numbers = tree_map_only(DeviceTensor, lambda part: part.numbers, (args, kwargs))
        if wanted is not None:
            numbers[1]["device"] = torch.device("cpu")
        result = func(*numbers[0], **numbers[1])
        if not to_device:
            return result
        # What is written in place is what was given.
        known = {id(part.numbers): part for part in _leaves((args, kwargs)) if isinstance(part, DeviceTensor)}
        return tree_map_only(
            Tensor,
            lambda part: known[id(part)] if id(part) in known else DeviceTensor(_as_read(part)),
            result,
        )

    def _note(self, name: str, args: Any, kwargs: Any, there: bool, to_device: bool) -> None:
        if not (there or to_device):
            return
        leaves = _leaves((args, kwargs))
        crossing = name in ("_to_copy", "copy_") and (
            not to_device or any(type(part) is Tensor and part.dim() for part in leaves)
        )
        runs_on = kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,))
        awaited = crossing and not (to_device and runs_on)
        by_truth = name.startswith("index") and any(
            isinstance(part, Tensor) and part.dtype == torch.bool for part in _leaves(args[1:2])
        )
        if awaited or by_truth or name in _WAITS:
            self.waits[f"{name} at {_place()}"] += 1
        if name not in _FREE:
            self.launches[name] += 1


def _as_read(numbers: Tensor) -> Tensor:
    """Conjugates and negatives written out: here, below where torch looks for the mark of a lazy one, every
    operator would overlook it."""
    return numbers.resolve_conj().resolve_neg()


def _leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    tree_map(found.append, tree)
    return found


def _place() -> str:
    """Where in the package the call came from."""
    for frame in reversed(traceback.extract_stack()):
        if Path(frame.filename).is_relative_to(PACKAGE):
            return f"{Path(frame.filename).relative_to(PACKAGE)}:{frame.lineno}"
    return "elsewhere"
