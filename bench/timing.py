"""What the benchmarks share: clocks for the CPU and for CUDA, turns and statistics, bandwidth, provenance."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgdd_fast import _C

Call = Callable[[], object]
Clock = Callable[[Call, int], float]  # milliseconds of one call, the mean of so many


@dataclass(frozen=True)
class Effort:
    """How long to measure: at most `turns` turns for each provider, of `turn_ms` (or one call) each, in about
    `row_ms` for all providers of a row; at least five turns whatever they take."""

    turns: int
    turn_ms: float
    row_ms: float


@dataclass(frozen=True)
class Time:
    """Milliseconds of one call."""

    median: float
    p20: float
    p80: float

    @classmethod
    def of(cls, turns: list[float]) -> Time:
        cuts = statistics.quantiles(turns, n=5, method="inclusive")
        return cls(statistics.median(turns), cuts[0], cuts[3])


def wall_clock(call: Call, calls: int) -> float:
    """By the host's clock, for calls that have done their work when they return."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return 1e3 * (time.perf_counter() - start) / calls


def event_clock(call: Call, calls: int) -> float:
    """By CUDA events around all calls, one launched behind the other: where the host cannot launch as fast as
    the device computes, it is the host's time."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def launch_clock(call: Call, calls: int) -> float:
    """The host's time to launch, without waiting for the device. For few calls: a full queue blocks."""
    torch.cuda.synchronize()
    elapsed = wall_clock(call, calls)
    torch.cuda.synchronize()
    return elapsed


class FlushedClock:
    """CUDA events around each call alone, with the L2 cache overwritten before it."""

    def __init__(self, device: torch.device) -> None:
        bytes_of_cache = torch.cuda.get_device_properties(device).L2_cache_size
        self.eviction = torch.empty(4 * bytes_of_cache, dtype=torch.uint8, device=device)

    def __call__(self, call: Call, calls: int) -> float:
        events = []
        for _ in range(calls):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.eviction.zero_()
            start.record()
            call()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
        return statistics.fmean(start.elapsed_time(end) for start, end in events)


def clock_of(device: torch.device) -> Clock:
    return event_clock if device.type == "cuda" else wall_clock


def turns_of(providers: Mapping[str, Call], effort: Effort, clock: Clock) -> dict[str, list[float]]:
    """Each provider's time per call in every turn, after one call that is not counted. They take turns, so
    that whatever else the machine does meets all of them."""
    single = {}
    for name, call in providers.items():
        clock(call, 1)
        single[name] = clock(call, 1)
    calls = {name: max(1, round(effort.turn_ms / each)) for name, each in single.items()}
    round_ms = sum(calls[name] * each for name, each in single.items())
    turns = min(effort.turns, max(5, round(effort.row_ms / round_ms)))
    measured: dict[str, list[float]] = {name: [] for name in providers}
    for _ in range(turns):
        for name, call in providers.items():
            measured[name].append(clock(call, calls[name]))
    return measured


def interleaved(providers: Mapping[str, Call], effort: Effort, clock: Clock) -> dict[str, Time]:
    """The same, with the turns of each provider summed up."""
    return {name: Time.of(turns) for name, turns in turns_of(providers, effort, clock).items()}


def copy_bandwidth(device: torch.device) -> float:
    """GB/s of copying 256 MiB (1 GiB on CUDA) on the device, bytes read plus bytes written."""
    elements = 2**28 if device.type == "cuda" else 2**26
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    copied = interleaved({"copy": lambda: target.copy_(source)}, Effort(15, 0, 2000), clock_of(device))
    return 2 * source.nbytes / copied["copy"].median / 1e6


def matmul_rate(device: torch.device) -> float:
    """GFLOP/s of a large product of float32 matrices: about what the arithmetic units can do."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.rand(size, size, device=device) for _ in range(2))
    multiplied = interleaved({"matmul": lambda: left @ right}, Effort(5, 0, 0), clock_of(device))
    return 2 * size**3 / multiplied["matmul"].median / 1e6


class Graphed:
    """The replay of a call that was captured once in a CUDA graph: the same memory in, the same memory out,
    one launch."""

    def __init__(self, call: Call) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # plans, handles and generated code come before the capture
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result: Any = call()  # what every replay writes again

    def __call__(self) -> None:
        self.graph.replay()


def relative_error(result: Tensor, truth: Tensor) -> float:
    """The L2 norm of the error over that of the truth, summed in float64."""
    return ((result.double() - truth.double()).norm() / truth.double().norm()).item()


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit that is measured: what DGDD_COMMIT says (for a copy without its history), or git."""
    if named := os.environ.get("DGDD_COMMIT"):
        return named
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        described = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return described.stdout.strip() or None


def environment(device: torch.device) -> dict[str, Any]:
    """Where a table comes from."""
    facts = {
        "device": device_name(device),
        "commit": commit(),
        "torch": torch.__version__,
        "build": _C.build_info(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "cuda": torch.version.cuda,
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "spectral_kernels": os.environ.get("DGDD_SPECTRAL_KERNELS", "simple"),
        }
    return facts


def require_device(name: str) -> torch.device:
    """The device to measure on, or an end with a message."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no CUDA device; --device cpu times the CPU kernels")
    return torch.device(name, 0) if name == "cuda" else torch.device(name)
