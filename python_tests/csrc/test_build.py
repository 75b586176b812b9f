"""The build uses what is found now, not what an earlier try in the same folder found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2]
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
PROJECT = f"""\
cmake_minimum_required(VERSION 3.24)
include({SOURCES / "cmake" / "forget.cmake"})
project(small LANGUAGES CXX)
message(STATUS "compiler ${{CMAKE_CXX_COMPILER}}")
set(DGDD_FINGERPRINT "${{FINGERPRINT}}" CACHE INTERNAL "")
"""

pytestmark = pytest.mark.skipif(
    CMAKE is None or shutil.which("g++") is None, reason="there is no CMake or no g++"
)


def configure(folder: Path, *options: str, **environment: str) -> tuple[int, str]:
    assert CMAKE is not None
    (folder / "CMakeLists.txt").write_text(PROJECT)
    command = [CMAKE, "-S", str(folder), "-B", str(folder / "build"), *options]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_second_try_takes_the_compiler_of_the_second_try(tmp_path: Path) -> None:
    compiler = str(shutil.which("g++"))
    code, output = configure(tmp_path, CXX="/bin/false")
    assert code != 0, output
    code, output = configure(tmp_path, CXX=compiler)
    assert code == 0, output
    assert f"compiler {compiler}" in output
    code, output = configure(tmp_path, CXX=compiler)
    assert "anew" not in output  # nor is anything looked for twice
    link = tmp_path / "another"
    link.symlink_to(compiler)
    code, output = configure(tmp_path, CXX=str(link))
    assert code == 0, output
    assert f"compiler {link}" in output
    link.unlink()  # as a virtual environment that was deleted takes its tools away
    code, output = configure(tmp_path, CXX=compiler)
    assert code == 0, output


def test_what_the_command_line_names_stays(tmp_path: Path) -> None:
    compiler = str(shutil.which("g++"))
    code, output = configure(tmp_path, f"-DCMAKE_CXX_COMPILER={compiler}", CXX="/bin/false")
    assert code == 0, output
    code, output = configure(tmp_path, f"-DCMAKE_CXX_COMPILER={compiler}", CXX="/bin/true")
    assert code == 0, output
    assert f"compiler {compiler}" in output
