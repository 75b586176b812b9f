"""What does not fit into memory is refused before it is allocated; and sizes in readable units."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # in the functions that need it, as the command says sizes before it loads torch


def check_fits(what: str, needed: int, device: torch.device | str = "cpu") -> None:
    """Raises ValueError where `what`, of at least `needed` bytes, takes more than the device has."""
    import torch

    there = available(torch.device(device))
    if there is not None and needed > there:
        raise ValueError(
            f"{what} would take {readable(needed)} of memory or more, and there are {readable(there)}: use "
            "fewer or smaller ones"
        )


def available(device: torch.device) -> int | None:
    """Bytes that are still available, swap included; None where the system does not tell."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [_meminfo(), _address_space(), _of_group()]
    return min((limit for limit in limits if limit is not None), default=None)


def readable(count: float) -> str:
    """``24.6 GB``."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} EB"


def _meminfo() -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return sum(1024 * int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        return None


def _address_space() -> int | None:
    """What `ulimit -v` leaves."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return limit
    return max(0, limit - used)


def _of_group() -> int | None:
    """The limit of a container."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return None
