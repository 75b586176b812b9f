"""What the operators share: checks of shapes for tracing, and their relation to autograd.

In tracing sizes may be symbols: nothing asks for their values beyond the operators' own checks. As for
autograd: what takes gradients or scores as data has a backward that raises, a step refuses what autograd
follows, a mask is constant, and applying one is its own derivative.
"""

# torch.library and torch._check carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_like(
    op: str, name: str, tensor: Tensor, dtype: torch.dtype, shape: Sequence[torch.SymInt | int]
) -> None:
    """Raises RuntimeError, in tracing, unless `tensor` has this dtype and shape."""

    def message() -> str:
        return f"dgdd::{op}: {name} must be {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}"

    torch._check(tensor.dtype == dtype and tensor.dim() == len(shape), message)
    for size, expected in zip(tensor.shape, shape, strict=True):
        torch._check(size == expected, message)


class _Autograd(torch.library.Library):
    """Kernels of the Autograd key that are asked only where autograd follows the call; every other call goes
    straight on.

    In Python, because torch's stable C++ interface can neither ask a tensor whether it requires a gradient
    nor go on below autograd.
    """

    def impl(self, op_name: str, fn: Any, dispatch_key: str = "", **options: Any) -> None:
        operator = getattr(torch.ops.dgdd, op_name).default
        written = [
            position
            for position, argument in enumerate(operator._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]

        def kernel(keyset: Any, *arguments: Any) -> Any:
            if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
                return fn(keyset, *arguments)
            if written:  # graphs that saved these tensors must hear of it
                torch.autograd.graph.increment_version([arguments[position] for position in written])
            with torch._C._AutoDispatchBelowAutograd():
                return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

        super().impl(op_name, kernel, dispatch_key, **options)


AUTOGRAD = _Autograd("dgdd", "IMPL")


def refuse_backward(op: str, reason: str) -> None:
    """Have a backward through `op` raise RuntimeError, which gives the `reason`."""

    def backward(context: Any, *output_grads: Tensor) -> None:
        raise RuntimeError(
            f"dgdd::{op} is not differentiable: {reason}. "
            "Call it under torch.no_grad(), or on detached tensors"
        )

    torch.library.register_autograd(f"dgdd::{op}", backward, lib=AUTOGRAD)


def empty_like_features(features: Tensor, trailing: tuple[int, ...] | None = None) -> Tensor:
    """As the compiled operators lay it out: channels last where the features are, else contiguous. With other
    trailing axes where these are given."""
    samples, channels, *rest = features.shape
    rest = rest if trailing is None else list(trailing)
    if features.is_contiguous() or features.stride(1) != 1:
        return features.new_empty(samples, channels, *rest)
    return features.new_empty(samples, *rest, channels).movedim(-1, 1)
