"""The script for a machine with a GPU: stages are independent, limited in time, and all in the summary."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sanitize
import torch

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu.sh"
# Stands for Python: the tests fail, one benchmark never ends, everything else is well.
PYTHON = """#!/bin/sh
case "$*" in
  *json.dumps*) echo '{"device": "a chip"}' ;;
  *"-m pytest"*) echo "3 failed"; exit 3 ;;
  *"--regimes general"*) sleep 60 ;;
esac
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    path = tmp_path / "python"
    path.write_text(PYTHON)
    path.chmod(0o755)
    return path


def run(python: Path, *stages: str, seconds: int = 540) -> subprocess.CompletedProcess[str]:
    environment = {"OUT": str(python.parent / "out"), "PYTHON": str(python), "DGDD_SECONDS": str(seconds)}
    return subprocess.run(
        ["bash", SCRIPT, *stages],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def outcomes(python: Path) -> dict[str, str]:
    summary = json.loads((python.parent / "out" / "summary.json").read_text())
    assert summary["machine"] == {"device": "a chip"}
    return {stage: entry["result"] for stage, entry in summary["stages"].items()}


def test_a_failing_stage_stops_no_other_and_makes_the_exit_code(python: Path) -> None:
    finished = run(python, "build", "test", "bench-quick")
    assert finished.returncode == 1
    assert outcomes(python) == {"build": "passed", "test": "failed (3)", "bench-quick": "passed"}
    assert "3 failed" in (python.parent / "out" / "gpu.log").read_text()
    assert run(python, "build").returncode == 0


def test_a_stage_that_does_not_end_is_stopped_and_what_has_no_time_is_left_out(python: Path) -> None:
    finished = run(python, "bench-general", "build", seconds=6)
    assert finished.returncode == 1
    stopped, left_out = outcomes(python).values()
    assert stopped.startswith("stopped after")
    assert left_out == "left out: no time left"


def test_an_unknown_stage_is_named_with_those_there_are(python: Path) -> None:
    finished = run(python, "build", "tset")
    assert finished.returncode == 2
    assert "no stage 'tset'" in finished.stderr
    assert "sanitize" in finished.stderr


@pytest.mark.parametrize("stage", ["accuracy", "accuracy-cadm"])
def test_the_accuracy_studies_need_data(python: Path, stage: str) -> None:
    assert run(python, stage).returncode == 1
    assert "DGDD_ACCURACY_DATA must name a folder" in (python.parent / "out" / "gpu.log").read_text()


@pytest.mark.parametrize(
    ("stage", "study", "runs"),
    [
        ("accuracy", "accuracy.py", ["", ""]),
        ("accuracy-cadm", "accuracy_cadm.py", ["/photo", "/sketch"]),
    ],
)
def test_an_accuracy_study_holds_out_each_domain_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, study: str, runs: list[str]
) -> None:
    """A copy of the script, whose Python takes down how it is called and what the study's folder holds."""
    script = tmp_path / "bench" / "gpu.sh"
    script.parent.mkdir()
    script.write_text(SCRIPT.read_text())
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
case "$*" in
  *json.dumps*) echo '{{"device": "a chip"}}' ;;
  *{study}*)
    echo "$*" >>"$OUT/calls"
    find build/{stage} -name 'pool.json' >>"$OUT/found"
    mkdir -p build/{stage}/photo/experts && touch build/{stage}/photo/experts/pool.json ;;
esac
"""
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys.modules[__name__], "SCRIPT", script)
    monkeypatch.setenv("DGDD_ACCURACY_DATA", str(tmp_path))
    monkeypatch.setenv("DGDD_ACCURACY_DOMAINS", "photo sketch")
    monkeypatch.setenv("DGDD_ACCURACY_OPTIONS", "--seeds 1")
    assert run(python, stage).returncode == 0
    calls = (tmp_path / "out" / "calls").read_text().splitlines()
    for call, folder, target in zip(calls, runs, ("photo", "sketch"), strict=True):
        assert call.startswith(f"bench/{study} --runs build/{stage}{folder} ")
        assert f"--domains photo sketch --target {target} " in call
        assert call.endswith(f"_{target}_full.json --seeds 1")
    pool = f"build/{stage}/photo/experts/pool.json\n"
    assert (tmp_path / "out" / "found").read_text() == pool  # by the second call alone
    state = tmp_path / "state.tar"
    (tmp_path / "out" / f"{stage}_state.tar").rename(state)
    monkeypatch.setenv("DGDD_ACCURACY_STATE", str(state))
    assert run(python, stage).returncode == 0
    assert (tmp_path / "out" / "found").read_text() == 3 * pool


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
