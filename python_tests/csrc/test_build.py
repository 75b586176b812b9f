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


def configure(folder: Path, *options: str, project: str = PROJECT, **environment: str) -> tuple[int, str]:
    assert CMAKE is not None
    (folder / "CMakeLists.txt").write_text(project)
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


@pytest.mark.parametrize("generator", ["Ninja", "Unix Makefiles"])
def test_without_a_program_that_builds_the_cure_is_told(tmp_path: Path, generator: str) -> None:
    project = f"""\
cmake_minimum_required(VERSION 3.24)
include({SOURCES / "cmake" / "build_program.cmake"})
project(small LANGUAGES NONE)
"""
    nowhere = str(tmp_path / "empty")
    code, output = configure(tmp_path, "-G", generator, project=project, PATH=nowhere)
    assert code != 0
    assert f"no program on the PATH that builds '{generator}'. Install ninja (pip install ninja)" in " ".join(
        output.split()
    )
    assert "CMAKE_MAKE_PROGRAM" not in output  # CMake's own words


@pytest.mark.parametrize(("generator", "program"), [("Ninja", "make"), ("Unix Makefiles", "ninja")])
def test_a_folder_begun_with_another_program_is_told_with_the_cure(
    tmp_path: Path, generator: str, program: str
) -> None:
    project = f"""\
cmake_minimum_required(VERSION 3.24)
include({SOURCES / "cmake" / "build_program.cmake"})
project(small LANGUAGES NONE)
"""
    code, output = configure(
        tmp_path, "-G", generator, f"-DCMAKE_MAKE_PROGRAM=/bin/{program}", project=project
    )
    assert code != 0
    said = " ".join(output.split())
    assert f"was begun with '{generator}', and now it is {program} that is there" in said
    assert "delete that folder and try again" in said


OLD_COMPILERS = {
    "none of C++20": 'exec g++ -U__GNUC__ -D__GNUC__=7 "$@"',
    "a part of C++20": 'for each; do if test -f "$each" && grep -q bit_cast "$each"; then exit 1; fi; done\n'
    'exec g++ "$@"',
}


@pytest.mark.parametrize("knows", OLD_COMPILERS)
def test_a_compiler_that_is_too_old_is_told_with_the_cure(tmp_path: Path, knows: str) -> None:
    project = f"""\
cmake_minimum_required(VERSION 3.24)
project(small LANGUAGES CXX)
set(CMAKE_CXX_STANDARD 20)
include({SOURCES / "cmake" / "compiler_check.cmake"})
"""
    compiler = fake(tmp_path, "c++", OLD_COMPILERS[knows])
    code, output = configure(tmp_path, project=project, CXX=compiler)
    assert code != 0
    said = " ".join(output.split())
    assert f"{compiler} (GNU " in said
    assert "Name a newer compiler in the environment variable CXX: GCC from 11 on" in said


def script(folder: Path, code: str, **environment: str) -> str:
    """What the commands of CMake print, with cmake/cuda_checks.cmake at hand."""
    assert CMAKE is not None
    path = folder / "script.cmake"
    path.write_text(f'include("{SOURCES}/cmake/cuda_checks.cmake")\n{code}\n')
    together = {**os.environ, **environment}
    done = subprocess.run([CMAKE, "-P", path], cwd=folder, env=together, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr  # where message() goes


@pytest.mark.parametrize(
    ("nvcc", "torch", "is_fault"),
    [
        ("13.0.88", "12.8", True),
        ("13.0.88", "13.2", False),
        ("12.8.93", "13.0", False),
        ("13.0.88", "", False),
    ],
)
def test_a_cuda_newer_than_torchs_is_told_with_the_cure(
    tmp_path: Path, nvcc: str, torch: str, is_fault: bool
) -> None:
    text = script(tmp_path, f'cuda_newer_than_torchs(fault "{nvcc}" "{torch}")\nmessage("${{fault}}")')
    assert ("Name an nvcc of CUDA 12 in the environment variable CUDACXX" in text) == is_fault
    assert bool(text.strip()) == is_fault


def fake(folder: Path, name: str, code: str) -> str:
    """A program that is a shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_a_host_compiler_that_nvcc_does_not_know_is_told_with_the_cure(tmp_path: Path) -> None:
    said = "host_config.h:137:2: error: #error -- unsupported GNU version! gcc versions later than 15"
    nvcc = fake(tmp_path, "nvcc", f"echo In file included from >&2; echo '{said}' >&2; exit 1")
    text = script(tmp_path, 'nvcc_refusal(fault)\nmessage("${fault}")', CUDACXX=nvcc, CUDAHOSTCXX="")
    assert said in text
    assert "CUDAHOSTCXX=g++-13" in text
    works = fake(tmp_path, "nvcc", 'test "$1 $2" = "-ccbin g++-13"')
    text = script(tmp_path, 'nvcc_refusal(fault)\nmessage("${fault}")', CUDACXX=works, CUDAHOSTCXX="g++-13")
    assert text.strip() == ""


@pytest.mark.parametrize(("available", "jobs"), [(100, 1), (1500, 2), (64000, 18)])
def test_no_more_files_are_compiled_at_a_time_than_memory_has_room_for(
    tmp_path: Path, available: int, jobs: int
) -> None:
    assert script(tmp_path, f"nvcc_jobs(jobs {available} 18)\nmessage(${{jobs}})").strip() == str(jobs)


def test_the_memory_that_is_free_is_found(tmp_path: Path) -> None:
    assert int(script(tmp_path, "available_memory(free)\nmessage(${free})")) > 100
