"""Checks the CUDA kernels of the package as it was last built here, without a GPU: each is compiled for every
architecture and as PTX for those to come, none spills registers to memory, and the module links and imports.

    make cuda-check

It prints registers, shared memory and stack of every kernel from what ptxas said when they were compiled
(`ptxas_log.py` keeps it), so nothing is compiled twice.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = (80, 90, 100, 120)
RESOURCES = Path(__file__).with_name("kernel_resources.txt")

ENTRY = re.compile(r"ptxas info +: Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<architecture>\d+)")
FRAME = re.compile(r" *(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"ptxas info +: Used (?P<registers>\d+) registers(?:.*?\b(?P<shared>\d+) bytes smem)?")


@dataclass
class Usage:
    """What one kernel takes on one architecture: registers of a thread, bytes of the rest. `shared` is what
    has a fixed size; stack and spills include the functions that the kernel calls."""

    source: str
    kernel: str
    architecture: int
    registers: int = 0
    shared: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0

    def __str__(self) -> str:
        text = str(self.registers)
        if self.stack:
            text += f" +{self.stack}"
        if self.spill_stores or self.spill_loads:
            text += " SPILLS"
        return text


def read_log(source: str, log: str) -> list[Usage]:
    """Every kernel of the file `source` in what `ptxas -v` printed about it."""
    usages: list[Usage] = []
    for line in log.splitlines():
        if entry := ENTRY.match(line):
            usages.append(Usage(source, readable(entry["kernel"]), int(entry["architecture"])))
        elif not usages:
            continue
        elif frame := FRAME.match(line):
            stack, stores, loads = map(int, frame.groups())
            usages[-1].stack += stack
            usages[-1].spill_stores += stores
            usages[-1].spill_loads += loads
        elif used := USED.match(line):
            usages[-1].registers = int(used["registers"])
            usages[-1].shared = int(used["shared"] or 0)
    return usages


def readable(mangled: str) -> str:
    """`kernel<arguments>` for the name of a kernel in the object file, without namespaces and parameters."""
    demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    demangle.restype = ctypes.c_void_p
    status = ctypes.c_int()
    address = demangle(mangled.encode(), None, None, ctypes.byref(status))
    if not address:
        return mangled
    name = ctypes.string_at(address).decode()
    ctypes.CDLL(None).free(ctypes.c_void_p(address))
    name = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    return re.sub(r"\b[A-Za-z_]\w*::", "", without_parameters(name))


def without_parameters(signature: str) -> str:
    """The part of `f<(A)1, B>(C, D)` before the parentheses that are in no angle brackets."""
    depth = 0
    for position, character in enumerate(signature):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return signature[:position]
    return signature


def table(usages: Iterable[Usage]) -> str:
    """One line for each kernel, one column for each architecture."""
    kernels: dict[tuple[str, str], dict[int, Usage]] = defaultdict(dict)
    for usage in usages:
        kernels[usage.source, usage.kernel][usage.architecture] = usage
    architectures = sorted({architecture for row in kernels.values() for architecture in row})
    lines = [["kernel", "shared", *(f"sm_{architecture}" for architecture in architectures)]]
    sources = [""]
    for (source, name), row in sorted(kernels.items()):
        shared = "/".join(str(size) for size in sorted({usage.shared for usage in row.values()}))
        lines.append([name, shared, *(str(row.get(architecture, "-")) for architecture in architectures)])
        sources.append(source)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["registers of a thread; +: bytes of stack; shared: bytes with a fixed size"]
    for position, cells in enumerate(lines):
        if position and sources[position] != sources[position - 1]:
            text.append(sources[position])
        numbers = map(str.rjust, cells[1:], widths[1:])
        text.append("  ".join(["  " + cells[0].ljust(widths[0]), *numbers]).rstrip())
    return "\n".join(text)


def resources(usages: Iterable[Usage]) -> str:
    """The text of kernel_resources.txt: what the emulated CUDA runtime (tests/emulated) takes from nvcc."""
    kernels: dict[str, dict[int, Usage]] = defaultdict(dict)
    for usage in usages:
        kernels[usage.kernel][usage.architecture] = usage
    lines = [
        "# What nvcc made of each kernel: bytes of static shared memory, and registers of a thread on "
        + ", ".join(f"sm_{architecture}" for architecture in ARCHITECTURES)
        + ".",
        "# Written by csrc/tests/cuda_check.py --write.",
    ]
    for kernel, row in sorted(kernels.items()):
        shared = max(usage.shared for usage in row.values())
        registers = [f"{row[sm].registers:3}" for sm in ARCHITECTURES if sm in row]
        lines.append(f"{shared:5} {' '.join(registers)}  {kernel}")
    return "\n".join(lines) + "\n"


def outdated(usages: Iterable[Usage], known: str) -> list[str]:
    """What the text of kernel_resources.txt has wrong. Registers may differ: each nvcc hands out its own."""

    def shared_bytes(text: str) -> dict[str, str]:
        lines = (line.split(maxsplit=1 + len(ARCHITECTURES)) for line in text.splitlines() if line[:1] != "#")
        return {line[-1]: line[0] for line in lines}

    there, recorded = shared_bytes(resources(usages)), shared_bytes(known)
    different = sorted(kernel for kernel in {*there, *recorded} if there.get(kernel) != recorded.get(kernel))
    if not different:
        return []
    return [
        f"{RESOURCES.name} does not know, or knows otherwise: {', '.join(different[:5])}"
        f"{' and others' if len(different) > 5 else ''}. Bring it up to date: "
        "python csrc/tests/cuda_check.py --write"
    ]


def problems(source: str, usages: list[Usage], command: str) -> list[str]:
    """What is wrong with the kernels of the file `source`, compiled by `command`."""
    if not usages:
        return [f"{source}: ptxas reported no kernel"]
    found = [
        f"{source}: {usage.kernel} spills registers on sm_{usage.architecture}: "
        f"{usage.spill_stores} bytes of stores, {usage.spill_loads} bytes of loads"
        for usage in usages
        if usage.spill_stores or usage.spill_loads
    ]
    every = {usage.kernel for usage in usages}
    for architecture in ARCHITECTURES:
        missing = every - {usage.kernel for usage in usages if usage.architecture == architecture}
        if missing == every:
            hint = "does this nvcc know it, and is CUDAARCHS unset?"
            found.append(f"{source}: not compiled for sm_{architecture}: {hint}")
        elif missing:
            found.append(f"{source}: not compiled for sm_{architecture}: {', '.join(sorted(missing))}")
    if not re.search(rf",code=[^ ]*compute_{ARCHITECTURES[-1]}\b", command):
        found.append(f"{source}: no PTX for compute_{ARCHITECTURES[-1]}, so nothing for newer GPUs")
    return found


def check_kernels(commands: list[dict[str, str]]) -> tuple[list[Usage], list[str]]:
    """All kernels and all that is wrong with them, from the build's compile_commands.json."""
    every_usage: list[Usage] = []
    found: list[str] = []
    by_source = {Path(entry["file"]): entry for entry in commands if entry["file"].endswith(".cu")}
    for source in sorted((ROOT / "csrc").rglob("*.cu")):
        if "launch.h" not in source.read_text():
            continue  # it starts no kernels, so it has none
        name = str(source.relative_to(ROOT))
        entry = by_source.get(source)
        log = None if entry is None else Path(entry["output"] + ".ptxas")
        if entry is None or log is None or not log.exists():
            found.append(f"{name}: the package was built without it")
            continue
        usages = read_log(name, log.read_text())
        every_usage += usages
        found += problems(name, usages, entry["command"])
    return every_usage, found


def check_import() -> list[str]:
    """Imports the module with every symbol looked up at once, as lazy binding hides what is missing."""
    finished = subprocess.run(
        [sys.executable, "-c", "from dgdd_fast import _C; print(_C.build_info()['cuda_architectures'])"],
        env={**os.environ, "LD_BIND_NOW": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        return [f"dgdd_fast._C does not import with all its symbols bound:\n{finished.stderr.strip()}"]
    if not finished.stdout.strip():
        return ["the installed dgdd_fast was built without CUDA; install it again where nvcc is found"]
    return []


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--build", type=Path, help="the build folder (default: this Python's in build/)")
    parser.add_argument("--write", action="store_true", help=f"bring {RESOURCES.name} up to date")
    options = parser.parse_args(arguments)
    if not shutil.which(os.environ.get("CUDACXX", "nvcc")):
        print(
            "cuda-check: nvcc is missing. Install the CUDA toolkit, 13.0 or newer, and put its bin folder on "
            "the PATH or name nvcc in the environment variable CUDACXX; then build the package again "
            "(rm -f .venv/package && make cuda-check)",
            file=sys.stderr,
        )
        return 1
    tag = "cp{}{}-*".format(*sys.version_info)
    folders = [options.build] if options.build else list((ROOT / "build").glob(tag))
    commands = [folder / "compile_commands.json" for folder in folders]
    if len(commands) != 1 or not commands[0].exists():
        print(
            f"cuda-check: the package was not built with CUDA by {sys.executable} in build/{tag}: install it "
            "where nvcc is found (rm -f .venv/package && make cuda-check)",
            file=sys.stderr,
        )
        return 1
    usages, found = check_kernels(json.loads(commands[0].read_text()))
    found += check_import()
    if options.write:
        RESOURCES.write_text(resources(usages))
    found += outdated(usages, RESOURCES.read_text())
    print(table(usages))
    for problem in found:
        print(f"cuda-check: {problem}", file=sys.stderr)
    if not found:
        names = ", ".join(f"sm_{architecture}" for architecture in ARCHITECTURES)
        kernels = len({(usage.source, usage.kernel) for usage in usages})
        print(f"cuda-check: {kernels} kernels for {names} and as PTX, none spills")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
