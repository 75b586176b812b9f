"""The check of the CUDA kernels' compilation, on what ptxas says about kernels good and bad."""

import json
import sys
from pathlib import Path

import cuda_check
import ptxas_log
import pytest

FRAMED = "_ZN3lib12_GLOBAL__N_16framedIfLi32EEEvPKT_PS2_"
COMMAND = (
    "nvcc --generate-code=arch=compute_120,code=[sm_120] --generate-code=arch=compute_120,code=[compute_120]"
)


def report(kernel: str, architecture: int, frame: tuple[int, int, int] = (0, 0, 0), shared: str = "") -> str:
    stack, stores, loads = frame
    return (
        "ptxas info    : 0 bytes gmem\n"
        f"ptxas info    : Compiling entry function '{kernel}' for 'sm_{architecture}'\n"
        f"ptxas info    : Function properties for {kernel}\n"
        f"    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads\n"
        f"ptxas info    : Used 40 registers, used 1 barriers, {shared}376 bytes cmem[0]\n"
        "ptxas info    : Compile time = 4.946 ms\n"
    )


def everywhere(**options: tuple[int, int, int] | str) -> str:
    return "".join(report(FRAMED, architecture, **options) for architecture in cuda_check.ARCHITECTURES)


def test_a_stack_frame_is_shown_and_is_no_spill() -> None:
    usages = cuda_check.read_log("a.cu", everywhere(frame=(64, 0, 0), shared="256 bytes smem, "))
    assert cuda_check.problems("a.cu", usages, COMMAND) == []
    heading, kernel = cuda_check.table(usages).splitlines()[-2:]
    assert heading == "a.cu"
    assert kernel.split() == ["framed<float,", "32>", "256", *4 * ["40", "+64"]]


def test_a_spill_on_one_architecture_is_a_problem_and_stands_in_the_table() -> None:
    log = everywhere() + report("_Z7spilledi", 90, frame=(16, 24, 32))
    usages = cuda_check.read_log("a.cu", log)
    found = cuda_check.problems("a.cu", usages, COMMAND)
    assert found[0] == ("a.cu: spilled spills registers on sm_90: 24 bytes of stores, 32 bytes of loads")
    assert [problem for problem in found if "framed" in problem] == []
    assert "40 +16 SPILLS" in cuda_check.table(usages)


def test_a_spill_in_a_function_that_a_kernel_calls_is_a_problem() -> None:
    called = (
        "ptxas info    : Function properties for _Z6calledf\n"
        "    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n"
    )
    usages = cuda_check.read_log("a.cu", everywhere() + called)
    assert len(cuda_check.problems("a.cu", usages, COMMAND)) == 1


def test_a_missing_architecture_missing_ptx_and_a_file_without_kernels_are_problems() -> None:
    log = "".join(report(FRAMED, architecture) for architecture in (80, 90, 120))
    (problem,) = cuda_check.problems("a.cu", cuda_check.read_log("a.cu", log), COMMAND)
    assert problem.startswith("a.cu: not compiled for sm_100: does this nvcc know it")
    log += report("_Z5otheri", 100)
    found = cuda_check.problems("a.cu", cuda_check.read_log("a.cu", log), COMMAND)
    assert "a.cu: not compiled for sm_100: framed<float, 32>" in found
    assert "a.cu: not compiled for sm_80: other" in found
    complete = cuda_check.read_log("a.cu", everywhere())
    without_ptx = COMMAND.rsplit(" ", 1)[0]
    assert ["no PTX" in problem for problem in cuda_check.problems("a.cu", complete, without_ptx)] == [True]
    assert cuda_check.problems("a.cu", [], COMMAND) == ["a.cu: ptxas reported no kernel"]


def test_names_that_cannot_be_demangled_stay_as_they_are() -> None:
    assert cuda_check.readable("kernel_in_c") == "kernel_in_c"
    assert cuda_check.readable("_ZN3lib4deepIN5other4HalfEEEvPT_") == "deep<Half>"
    assert cuda_check.readable("_Z1fILi3ELb1EEvi") == "f<3, true>"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree with one kernel file and the build of it, and a module that imports."""
    (tmp_path / "csrc").mkdir()
    source = tmp_path / "csrc" / "a.cu"
    source.write_text('#include "launch.h"')
    (tmp_path / "build").mkdir()
    output = tmp_path / "build" / "a.cu.o"
    entry = {"file": str(source), "output": str(output), "command": COMMAND}
    (tmp_path / "build" / "compile_commands.json").write_text(json.dumps([entry]))
    monkeypatch.setattr(cuda_check, "ROOT", tmp_path)
    monkeypatch.setattr(cuda_check, "RESOURCES", tmp_path / "kernel_resources.txt")
    cuda_check.RESOURCES.write_text(cuda_check.resources(cuda_check.read_log("a.cu", everywhere())))
    monkeypatch.setattr(cuda_check, "check_import", lambda: [])
    monkeypatch.setenv("CUDACXX", sys.executable)
    return tmp_path


def run(checkout: Path) -> int:
    return cuda_check.main(["--build", str(checkout / "build")])


def test_good_kernels_pass_and_bad_ones_fail(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = checkout / "build" / "a.cu.o.ptxas"
    log.write_text(everywhere())
    assert run(checkout) == 0
    assert "1 kernels for sm_80, sm_90, sm_100, sm_120 and as PTX" in capsys.readouterr().out
    log.write_text(everywhere(frame=(8, 4, 4)))
    assert run(checkout) == 1
    assert "spills registers on sm_120" in capsys.readouterr().err


def test_what_the_emulated_runtime_knows_of_kernels_is_kept_up_to_date(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = checkout / "build" / "a.cu.o.ptxas"
    log.write_text(everywhere(shared="256 bytes smem, "))
    assert run(checkout) == 1
    assert "kernel_resources.txt does not know, or knows otherwise: " in capsys.readouterr().err
    assert cuda_check.main(["--build", str(checkout / "build"), "--write"]) == 0
    assert run(checkout) == 0
    assert cuda_check.RESOURCES.read_text().splitlines()[2].split()[0] == "256"


def test_a_kernel_file_that_the_build_forgot_fails(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "build" / "a.cu.o.ptxas").write_text(everywhere())
    (checkout / "csrc" / "forgotten.cu").write_text('#include "launch.h"')
    assert run(checkout) == 1
    assert "csrc/forgotten.cu: the package was built without it" in capsys.readouterr().err


def test_without_nvcc_or_a_build_it_says_what_to_do(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "build" / "compile_commands.json").unlink()
    assert run(checkout) == 1
    assert "was not built with CUDA" in capsys.readouterr().err
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")
    assert run(checkout) == 1
    assert "nvcc is missing" in capsys.readouterr().err


def test_the_launcher_keeps_the_report_and_passes_on_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = everywhere() + "a.cu(3): warning: unused\n"
    compiler = [
        sys.executable,
        "-c",
        "import sys; sys.stderr.write(sys.argv[1]); sys.exit(int(sys.argv[2]))",
        said,
    ]
    output = tmp_path / "a.cu.o"
    assert ptxas_log.main([*compiler, "0", "-o", str(output)]) == 0
    assert capsys.readouterr().err == "a.cu(3): warning: unused\n"
    assert len(cuda_check.read_log("a.cu", (tmp_path / "a.cu.o.ptxas").read_text())) == 4
    assert ptxas_log.main([*compiler, "3", "-o", str(tmp_path / "failed.o")]) == 3
    assert not (tmp_path / "failed.o.ptxas").exists()
