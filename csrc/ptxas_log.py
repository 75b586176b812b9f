"""CMake's launcher for nvcc: runs the compiler it is given and keeps what ptxas reports about the kernels in
OBJECT.ptxas beside the object file, where `tests/cuda_check.py` reads it. Everything else that the compiler
says goes on to the terminal."""

import subprocess
import sys
from pathlib import Path


def main(command: list[str]) -> int:
    finished = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    lines = finished.stderr.splitlines(keepends=True)
    report = [line for line in lines if line.startswith("ptxas info") or "bytes stack frame" in line]
    sys.stderr.writelines(line for line in lines if line not in report)
    if finished.returncode == 0:
        Path(command[command.index("-o") + 1] + ".ptxas").write_text("".join(report))
    return finished.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
