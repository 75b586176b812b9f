"""Whether the installed package can run on the GPU at hand, for gpu.sh.

python bench/card.py          # the machine, as JSON
python bench/card.py --fits   # card and build side by side; what keeps them apart, with exit code 1
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import re
import sys
from importlib import import_module
from typing import Any

import torch


def covers(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether code built for `architectures`, CMake's list such as "80-real 90", runs on a card.

    Machine code runs on its own generation from its own number on, and where it is specific ("90a") on that
    number only; PTX ("-virtual") runs on everything from its number on. A number alone is both.
    """
    for name in architectures.split():
        parts = re.fullmatch(r"(\d+)(\d)([af]?)(-real|-virtual)?", name)
        if parts is None:
            return True  # "native" and the like: built for what was there
        built = int(parts[1]), int(parts[2])
        if parts[3] == "a":
            runs = built == capability
        elif parts[4] == "-real" or parts[3] == "f":
            runs = built[0] == capability[0] and built <= capability
        else:
            runs = built <= capability
        if runs:
            return True
    return False


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver knows; None without a driver."""
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return version.value // 1000, version.value % 1000 // 10


def dotted(version: tuple[int, int] | None) -> str | None:
    return None if version is None else ".".join(map(str, version))


def machine() -> dict[str, Any]:
    """What the results come from."""
    here = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if here else None,
        "architecture": "sm_{}{}".format(*torch.cuda.get_device_capability()) if here else None,
        "driver_cuda": dotted(driver_version()),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def problem() -> str | None:
    """Why nothing can run on the GPU, and what to do; None if it can."""
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA: install one that is built for it, or name "
            "another Python (PYTHON=...)"
        )
    driver = driver_version()
    try:
        torch.cuda.init()
    except Exception as error:  # no driver, one too old, no card: torch tells which
        known = f"the driver is for CUDA {dotted(driver)}" if driver else "there is no NVIDIA driver"
        reason = str(error).split("\n", 1)[0]
        return f"torch {torch.__version__} finds no GPU that it can use; {known}. It says: {reason}"
    try:
        build = import_module("dgdd_fast._C").build_info()
    except ImportError as error:
        return str(error)
    if not build["cuda_architectures"]:
        return (
            "dgdd_fast was built without CUDA: put nvcc on the PATH and build it here (bench/gpu.sh build), "
            "or give a wheel that was built with it (DGDD_WHEEL=...)"
        )
    capability = torch.cuda.get_device_capability()
    if not covers(build["cuda_architectures"], capability):
        return (
            f"the card, {torch.cuda.get_device_name()}, is sm_{capability[0]}{capability[1]}, and dgdd_fast "
            f"was built for {build['cuda_architectures']} only: build it here (bench/gpu.sh build, without "
            "DGDD_WHEEL), or give a wheel for this card"
        )
    compiler = re.search(r"(\d+)\.(\d+)", build["cuda_compiler"])
    if driver and compiler and int(compiler[1]) > driver[0]:
        return (
            f"the driver is for CUDA {dotted(driver)}, and dgdd_fast was built by {build['cuda_compiler']}, "
            f"which needs a driver for CUDA {compiler[1]}.0 or newer: update the driver, or build with an "
            f"nvcc of CUDA {driver[0]}"
        )
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--fits", action="store_true", help="compare the card with the installed package")
    options = parser.parse_args()
    if not options.fits:
        print(json.dumps(machine()))
        return
    if found := problem():
        sys.exit(found)
    build = import_module("dgdd_fast._C").build_info()
    facts = machine()
    print(
        f"card: {facts['device']}, {facts['architecture']}, driver for CUDA {facts['driver_cuda']}; "
        f"build: {build['cuda_architectures']}, by {build['cuda_compiler']}"
    )


if __name__ == "__main__":
    main()
