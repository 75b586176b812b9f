"""How exactly a run computes: torch's flags for it, which are the process's, set for the run and put back.

* "float32": every float32 product in float32, nowhere TF32 (10 bits of mantissa instead of 23), though the
  process may allow it.
* "tf32": TF32 allowed in convolutions and matrix products, on GPUs that have it; elsewhere as "float32".
* "bfloat16": as "float32", but what `autocast` encloses runs in bfloat16.

"auto" is one of them by a rule of the machine, and what a run records is that one.

The choice of cuDNN's algorithms is pinned as well: deterministic ones, by rule instead of by trial.
"""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .config import Precision, PrecisionOrAuto
from .devices import automatic_devices

_backends: Any = torch.backends  # its modules make their attributes up as they are asked for
# Flags of the newer generation. Those of cuDNN must agree for the older one to be readable.
_ON_CUDA = (_backends.cuda.matmul, _backends.cudnn.conv, _backends.cudnn.rnn)
_ON_CPU = (_backends.mkldnn.matmul, _backends.mkldnn.conv)


def resolved_precision(precision: PrecisionOrAuto) -> Precision:
    """`precision`, or for "auto" bfloat16 on CPUs with units for its matrix products (AMX), where there is no
    GPU; float32 elsewhere. Other CPUs multiply bfloat16 at most twice as fast, and Winograd's products in
    float32 are a quarter of those; GPUs have not been measured. Raises ValueError for one that there is
    not."""
    _check(precision, PrecisionOrAuto)
    if precision != "auto":
        return precision
    has_units = torch.cpu._is_amx_tile_supported() and automatic_devices() == ["cpu"]
    return "bfloat16" if has_units else "float32"


@contextlib.contextmanager
def arithmetic(precision: Precision, device: str | torch.device) -> Iterator[None]:
    """Compute as `precision` says on `device`, whatever flags and autocast the caller has set; at the end,
    also by an error, all are what they were.

    The flags are those of the whole process: threads must not compute in two precisions at once.

    Raises ValueError for a precision that there is not.
    """
    _check(precision)
    tf32, cuda, cudnn = precision == "tf32", _backends.cuda, _backends.cudnn
    # Two generations of flags exist. Where the caller made them contradict each other, an older one can be
    # neither read nor, then, put back, and is left as it is: the newer ones decide.
    products, convolutions = (
        _readable(torch.get_float32_matmul_precision),
        _readable(lambda: cudnn.allow_tf32),
    )
    newer = [part.fp32_precision for part in (*_ON_CUDA, *_ON_CPU)]
    algorithms = cudnn.deterministic, cudnn.benchmark
    try:
        if products is not None:
            cuda.matmul.allow_tf32 = tf32
        if convolutions is not None:
            cudnn.allow_tf32 = tf32
        for part in _ON_CUDA:
            part.fp32_precision = "tf32" if tf32 else "ieee"
        for part in _ON_CPU:
            part.fp32_precision = "ieee"
        cudnn.deterministic, cudnn.benchmark = True, False
        with torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = algorithms
        for part in (*_ON_CUDA, *_ON_CPU):
            part.fp32_precision = "none"  # as is set for all parts together
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if convolutions is not None:
            cudnn.allow_tf32 = convolutions
        for part, value in zip((*_ON_CUDA, *_ON_CPU), newer, strict=True):
            if part.fp32_precision != value:
                part.fp32_precision = value


def autocast(precision: Precision, device: str | torch.device) -> torch.autocast:
    """Runs the passes of networks in the block in bfloat16 where `precision` says so.

    Weights are rounded anew for every pass: torch would keep the rounded ones until the outermost block ends,
    which is that of `arithmetic`, and weights that an optimiser moves in place would never move again.
    """
    _check(precision)
    enabled = precision == "bfloat16"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def at_least_float32(logits: Tensor) -> Tensor:
    """What a loss is computed from: `logits` that `autocast` made bfloat16 as float32, others as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check(precision: str, names: Any = Precision) -> None:
    known = typing.get_args(names)
    if precision not in known:
        raise ValueError(f"precision must be one of {', '.join(map(repr, known))}, got {precision!r}")


def _readable(flag: Any) -> Any:
    try:
        return flag()
    except RuntimeError:
        return None
