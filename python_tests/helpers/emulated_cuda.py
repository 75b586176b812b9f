"""The CUDA operators on a machine without a GPU: the emulated build (csrc/tests/emulated).

Host tensors stand for tensors on a device. While `EmulatedCuda` is entered, operators of torch.ops.dgdd go to
the CUDA glue and launch code, an emulated CUDA runtime that refuses what a real device would, and the kernels
themselves in the emulator.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

BUILD = Path(__file__).resolve().parents[2] / "build" / "tests"


@cache
def module() -> ModuleType | None:
    """The emulated build that the environment variable DGDD_EMULATED names, or that of `make test`; None
    where it was not built."""
    named = os.environ.get("DGDD_EMULATED")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    path = Path(named) if named else BUILD / f"dgdd_emulated{suffix}"
    if not path.exists():
        if named:
            raise FileNotFoundError(f"DGDD_EMULATED={named} does not exist")
        return None
    spec = importlib.util.spec_from_file_location("dgdd_emulated", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    sys.modules["dgdd_emulated"] = loaded
    return loaded


class EmulatedCuda(TorchDispatchMode):
    """Sends torch.ops.dgdd to the emulated build. Every use begins with the runtime's settings as they are by
    default: an H200, kernels run and watched."""

    active: EmulatedCuda | None = None

    def __init__(self) -> None:
        super().__init__()
        loaded = module()
        assert loaded is not None
        self.runtime = loaded
        self.is_suspended = False

    def __enter__(self) -> EmulatedCuda:
        self.runtime.reset()
        super().__enter__()
        EmulatedCuda.active = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        EmulatedCuda.active = None
        self.runtime.reset()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "dgdd" and not self.is_suspended:
            name = func._schema.name.removeprefix("dgdd::")
            func = getattr(torch.ops.dgdd_emulated, name).default
        return func(*args, **(kwargs or {}))


def stands_for_cuda(device: torch.device) -> bool:
    """Whether operators on this device's tensors run CUDA kernels, real or emulated ones."""
    return device.type == "cuda" or EmulatedCuda.active is not None


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Runs the CPU's own kernels on host tensors where these stand for a device's otherwise."""
    if EmulatedCuda.active is None:
        yield
        return
    EmulatedCuda.active.is_suspended = True
    try:
        yield
    finally:
        EmulatedCuda.active.is_suspended = False
