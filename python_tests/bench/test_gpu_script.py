"""The script for a machine with a GPU: stages are independent, limited in time, and all in the summary."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sanitize
import torch

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu.sh"
DEFAULT_STAGES = [
    *("build", "check", "test-operators", "bench-quick", "bench-loop", "bench-saturating"),
    *(
        "bench-distillation",
        "bench-pipelined",
        "bench-masking",
        "bench-normalise",
        "bench-augment",
        "bench-general",
        "memcheck",
        "racecheck",
        "test",
    ),
    *("synccheck", "initcheck", "bench-compiled"),
]
# Stands for Python, and takes down how it is called: the tests of the operators fail, one benchmark never
# ends, and all else is well. FITS says why the card does not fit.
PYTHON = """#!/bin/sh
echo "$*" >>"$OUT/../calls"
case "$*" in
  *card.py\\ --fits) echo "${FITS:-card and build}"; test -z "$FITS"; exit ;;
  *card.py) echo '{"device": "a chip"}' ;;
  *"-m pytest"*" /"*/python_tests/ops) echo "3 failed"; exit 3 ;;
  *"--regimes general"*) sleep 60 ;;
esac
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    path = tmp_path / "python"
    path.write_text(PYTHON)
    path.chmod(0o755)
    # Stands for compute-sanitizer, which calls what it is given.
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$*" >>"$OUT/../calls"\n')
    tool.chmod(0o755)
    return path


def run(python: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    folder = python.parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DGDD_")}
    environment |= {"OUT": str(folder / "out"), "PYTHON": str(python), **variables}
    environment["PATH"] = f"{folder / 'bin'}:{environment['PATH']}"
    return subprocess.run(
        ["bash", SCRIPT, *words], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def outcomes(python: Path) -> dict[str, str]:
    summary = json.loads((python.parent / "out" / "summary.json").read_text())
    assert summary["machine"] == {"device": "a chip"}
    return {stage: entry["result"] for stage, entry in summary["stages"].items()}


def log(python: Path) -> str:
    return (python.parent / "out" / "gpu.log").read_text()


def calls(python: Path) -> str:
    return (python.parent / "calls").read_text()


def test_stages_run_in_the_order_of_worth_without_compiling_and_a_failing_one_stops_no_other(
    python: Path,
) -> None:
    finished = run(python, "--without", "bench-general")
    assert finished.returncode == 1
    results = outcomes(python)
    assert list(results) == [stage for stage in DEFAULT_STAGES if stage != "bench-general"]
    assert results.pop("test-operators") == "failed (3)"
    assert set(results.values()) == {"passed"}
    assert "3 failed" in log(python)
    assert "card and build" in log(python)
    assert sorted(path.name for path in (python.parent / "out").iterdir()) == ["gpu.log", "summary.json"]
    benchmarks = [call for call in calls(python).splitlines() if "bench_" in call and "--quick" not in call]
    assert all("--device cuda" in call and "--resume" in call for call in benchmarks)
    files = {Path(call.split(" --json ")[1].split()[0]) for call in benchmarks}
    assert len(files) <= 6  # eight with the other two
    assert {file.parent for file in files} == {python.parent / "out"}
    assert all(re.fullmatch(r"[\w.-]+", file.name, re.ASCII) for file in files)
    with_compile = [
        position
        for position, call in enumerate(benchmarks)
        if "--no-compile" not in call and "bench_distill" not in call
    ]
    assert with_compile == list(range(len(benchmarks) - 4, len(benchmarks)))
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        assert f"--tool {tool} " in calls(python)


def test_the_operators_tests_come_first_and_the_others_later(python: Path) -> None:
    run(python, "test-operators", "test")
    first, second = (call for call in calls(python).splitlines() if "-k cuda" in call)
    tests = SCRIPT.parents[1] / "python_tests"
    assert first.split()[-1] == str(tests / "ops")
    assert second.split()[-2:] == [f"--ignore={tests / 'ops'}", str(tests)]


def test_chosen_stages_alone_run_and_leave_a_good_exit_code(python: Path) -> None:
    assert run(python, "bench-quick", "build").returncode == 0
    assert outcomes(python) == {"bench-quick": "passed", "build": "passed"}


def test_a_stage_that_does_not_end_is_stopped_and_what_has_no_time_is_left_out(python: Path) -> None:
    finished = run(python, "bench-general", "build", DGDD_SECONDS="6")
    assert finished.returncode == 1
    stopped, left_out = outcomes(python).values()
    assert stopped.startswith("stopped after")
    assert left_out == "left out: no time left"


def test_tests_that_take_too_long_tell_what_has_failed_so_far(python: Path) -> None:
    waiting = f"""exec {sys.executable} -c 'import time
try: time.sleep(60)
except KeyboardInterrupt: print("2 failed so far")'"""
    python.write_text(PYTHON.replace('echo "3 failed"; exit 3', waiting))
    assert run(python, "test-operators", DGDD_SECONDS="7").returncode == 1
    assert outcomes(python)["test-operators"].startswith("stopped after ")
    assert "2 failed so far" in log(python)


def test_where_the_card_does_not_fit_one_message_says_so_and_nothing_but_the_build_runs(python: Path) -> None:
    message = 'the card, an "H100",\nis sm_90, and dgdd_fast was built for 80-real only'
    assert run(python, FITS=message).returncode == 1
    build, *others = outcomes(python).values()
    assert build == "passed"
    assert set(others) == {"left out: nothing can run on the GPU"}
    assert len(others) == len(DEFAULT_STAGES) - 1
    assert log(python).count(message) == 1
    assert "bench_" not in calls(python)


def test_a_wheel_is_installed_instead_of_a_build(python: Path) -> None:
    wheel = python.parent / "dgdd_fast.whl"
    assert run(python, "build", DGDD_WHEEL=str(wheel)).returncode == 1
    assert f"DGDD_WHEEL must name a wheel, got '{wheel}'" in log(python)
    wheel.touch()
    assert run(python, "build", DGDD_WHEEL=str(wheel)).returncode == 0
    (install,) = (call for call in calls(python).splitlines() if "pip install" in call)
    assert install.endswith(f"--force-reinstall {wheel}")
    assert "--no-index" in install


def test_a_build_is_for_the_card_alone(python: Path) -> None:
    run(python, "build", CUDAARCHS="90-real")
    (install,) = (call for call in calls(python).splitlines() if "pip install" in call)
    assert "cmake.define.CMAKE_CUDA_ARCHITECTURES=90-real" in install
    assert install.endswith("--editable .")


def test_a_log_that_is_too_long_loses_its_middle(python: Path) -> None:
    python.write_text(PYTHON.replace("sleep 60", "yes 'a line of a failure' | head -c 20000000; echo last"))
    assert run(python, "bench-general").returncode == 0
    lines = log(python).splitlines()
    assert (python.parent / "out" / "gpu.log").stat().st_size < 9 << 20
    assert lines[0] == '{"device": "a chip"}'
    assert "[...]" in lines
    assert "last" in lines


@pytest.mark.parametrize("words", [("build", "tset"), ("--without", "tset")])
def test_an_unknown_stage_is_named_with_those_there_are(python: Path, words: tuple[str, ...]) -> None:
    finished = run(python, *words)
    assert finished.returncode == 2
    assert "no stage 'tset'" in finished.stderr
    assert "bench-loop" in finished.stderr
    assert not (python.parent / "out").exists()


def test_a_python_without_torch_is_named(python: Path) -> None:
    python.write_text("#!/bin/sh\nexit 1\n")
    finished = run(python)
    assert finished.returncode == 2
    assert "cannot import torch" in finished.stderr


@pytest.mark.parametrize("stage", ["accuracy", "accuracy-cadm"])
def test_the_accuracy_studies_need_data(python: Path, stage: str) -> None:
    assert run(python, stage).returncode == 1
    assert "DGDD_ACCURACY_DATA must name a folder" in log(python)


@pytest.mark.parametrize(("stage", "study"), [("accuracy", "accuracy"), ("accuracy-cadm", "accuracy_cadm")])
def test_an_accuracy_study_is_a_grid_that_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, study: str
) -> None:
    """A copy of the script, whose Python takes down how it is called and what the grid's folder holds."""
    script = tmp_path / "bench" / "gpu.sh"
    script.parent.mkdir()
    script.write_text(SCRIPT.read_text())
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
case "$*" in
  *card.py) echo '{{"device": "a chip"}}' ;;
  *" grid "*)
    shift 2
    echo "$*" >>calls
    find build/{study} -name 'config.yaml' >>found
    mkdir -p build/{study}/jobs/one
    touch build/{study}/jobs/one/config.yaml ;;
  *" table "*) touch build/{study}/table.csv ;;
esac
"""
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys.modules[__name__], "SCRIPT", script)
    variables = {"DGDD_ACCURACY_DATA": str(tmp_path), "DGDD_ACCURACY_OPTIONS": "--classes cat,dog"}
    assert run(python, stage, **variables).returncode == 0
    assert (tmp_path / "calls").read_text() == (
        f"grid bench/studies/{study}.yaml --data {tmp_path} --devices cuda --out build/{study} "
        "--classes cat,dog\n"
    )
    assert (tmp_path / "found").read_text() == ""
    assert len(list((tmp_path / "out").iterdir())) == 3
    state = tmp_path / "state.tar"
    (tmp_path / "out" / f"{study}.tar").rename(state)
    names = subprocess.run(["tar", "-tf", state], capture_output=True, text=True, check=True).stdout
    assert {"./jobs/one/config.yaml", "./table.csv"} <= set(names.splitlines())
    assert run(python, stage, DGDD_ACCURACY_STATE=str(state), **variables).returncode == 0
    assert (tmp_path / "found").read_text() == f"build/{study}/jobs/one/config.yaml\n"


def test_the_accuracy_studies_are_those_of_the_benchmarks() -> None:
    called = re.findall(r"\{ study (\w+); \}", SCRIPT.read_text())
    assert called == ["accuracy", "accuracy_cadm"]
    assert all((SCRIPT.parent / "studies" / f"{name}.yaml").exists() for name in called)


@pytest.mark.parametrize("whole", [False, True])
def test_the_calls_for_the_sanitizer_agree_with_the_cpu(whole: bool, device: torch.device) -> None:
    for size in (*sanitize.FUSED_SIZES[:2], *sanitize.GENERAL_SIZES):
        arguments = (size, torch.float32, whole)
        results = sanitize.spectral_results(*arguments, str(device))
        sanitize.check("spectral", results, sanitize.spectral_results(*arguments, "cpu"))
    masking = ((5, 24, 7, 6), torch.bfloat16, whole)
    results = sanitize.masking_results(*masking, str(device))
    sanitize.check("masking", results, sanitize.masking_results(*masking, "cpu"))


def test_a_result_that_differs_from_the_cpu_is_named() -> None:
    ones = torch.ones(4)
    with pytest.raises(SystemExit, match="spectral: result 1 is off by 1"):
        sanitize.check("spectral", iter([ones, torch.zeros(4)]), iter([ones, ones]))
    with pytest.raises(SystemExit, match="off by nan"):
        sanitize.check("spectral", iter([torch.full((4,), torch.nan)]), iter([ones]))
