"""The benchmark of the spectral operators: what it measures, what it counts, and what it refuses to time."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import bench_spectral
import pytest
import spectral_shapes
import torch
from bench_spectral import Providers, Row
from spectral_shapes import OPERATORS, REGIMES, Case
from timing import Effort, Time

from dgdd_fast import ops

SMALL = Case("spectral_surgery", images=4, size=8, dtype="float32")
QUICK = Effort(turns=5, turn_ms=0, row_ms=0)


@pytest.mark.parametrize(
    ("operator", "planes"),
    [
        ("spectral_surgery", 3 + 1),  # gradients in, update out
        ("spectral_surgery_step_", 3 + 2 * 2),  # image and buffer are read and written
        ("spectral_consensus", 3 + 1 + 5 / 8),  # signal and half spectrum out
    ],
)
def test_necessary_bytes_are_inputs_once_and_outputs_once(operator: str, planes: float) -> None:
    case = dataclasses.replace(SMALL, operator=operator)
    assert case.essential_bytes == planes * 4 * 3 * 8 * 8 * 4
    assert dataclasses.replace(case, dtype="bfloat16").essential_bytes == case.essential_bytes / 2


def cuda_cases(memory_bytes: int = 80 * 2**30, quick: bool = False) -> list[Case]:
    sizes = (32, 64, 128, 224, 227)
    return list(spectral_shapes.cuda_cases(OPERATORS, sizes, REGIMES, memory_bytes, quick))


def test_every_regime_has_its_sizes_and_every_operator() -> None:
    cases = cuda_cases()
    assert len(set(cases)) == len(cases)
    assert {(case.regime, case.size) for case in cases} == {
        *((regime, size) for regime in ("one class", "all classes", "saturating") for size in (32, 64, 128)),
        ("general", 224),
        ("general", 227),
    }
    for regime in REGIMES:
        chosen = [case for case in cases if case.regime == regime]
        assert {case.operator for case in chosen} == set(OPERATORS)
        assert {case.domains for case in chosen} == {3, 5, 8}
    shapes = {(case.images, case.size) for case in cases if case.regime == "all classes"}
    assert shapes == {(10 * 10, 32), (7 * 20, 64), (10 * 20, 128)}
    assert len(cuda_cases(quick=True)) < len(cases) / 1.5


@pytest.mark.parametrize("memory_gib", [80, 12])
def test_saturating_batches_are_a_few_gigabytes_and_fit_the_device(memory_gib: int) -> None:
    limit = min(3, memory_gib / 16) * 2**30
    for case in cuda_cases(memory_gib * 2**30):
        if case.regime == "saturating":
            itemsize = 2 if case.dtype == "bfloat16" else 4
            gradient_bytes = case.domains * math.prod(case.shape) * itemsize
            assert 0.99 * limit < gradient_bytes <= limit


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_has_every_provider_with_its_error(operator: str, dtype: str, device: torch.device) -> None:
    case = dataclasses.replace(SMALL, operator=operator, dtype=dtype)
    with torch.no_grad():
        rows = list(bench_spectral.measure(case, device, 10.0, False, QUICK))
    assert [row.cache for row in rows] == (["warm", "flushed"] if device.type == "cuda" else ["warm"])
    expected = {"dgdd_fast", "eager"}
    if device.type == "cuda":
        expected |= {"dgdd_fast_graph", "eager_graph"}
    for row in rows:
        assert expected <= row.times.keys()
        assert all(0 < each.p20 <= each.median <= each.p80 for each in row.times.values())
        ours = row.times["dgdd_fast"].median
        assert row.gigabytes_per_second == pytest.approx(case.essential_bytes / (1e6 * ours))
        assert row.share_of_copy == pytest.approx(row.gigabytes_per_second / 10)
        assert row.speedup["eager"] == row.times["eager"].median / ours
        assert 0 < row.error["dgdd_fast"] < bench_spectral.LARGEST_ERROR[dtype]
        assert json.loads(json.dumps(dataclasses.asdict(row)))["case"]["operator"] == operator
        assert f"{ours:.4f}" in bench_spectral.line(row, bench_spectral.COLUMNS)


def test_errors_are_seen_wherever_the_image_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The float64 results are for images spread over the batch, the first and the last among them."""
    monkeypatch.setattr(bench_spectral, "TRUTH_PIXELS", 20 * 3 * 3 * 8 * 8)
    case = dataclasses.replace(SMALL, images=100)
    arguments = case.arguments(torch.device("cpu"))
    chosen, true_results = bench_spectral.truth(case, arguments)
    assert len(set(chosen.tolist())) == 20
    assert {0, 99} <= set(chosen.tolist())
    (result,) = bench_spectral.outputs(case.operator, ops.spectral_surgery, arguments)
    assert bench_spectral.largest_error((result,), chosen, true_results) < 1e-6
    result[99] = 0
    assert bench_spectral.largest_error((result,), chosen, true_results) > 1e-2


def test_a_step_leaves_the_arguments_of_the_next_provider_alone() -> None:
    case = dataclasses.replace(SMALL, operator="spectral_surgery_step_")
    arguments = case.arguments(torch.device("cpu"))
    images = arguments[0].clone()
    moved, _ = bench_spectral.outputs(case.operator, ops.spectral_surgery_step_, arguments)
    assert torch.equal(arguments[0], images)
    assert not torch.equal(moved, images)


def test_an_implementation_that_fails_or_is_wrong_is_left_out_with_the_reason() -> None:
    providers = Providers(SMALL, torch.device("cpu"))

    def fails() -> None:
        raise RuntimeError("no compiler\nand a long story")

    def wrong() -> None:
        providers.calls["wrong"] = fails
        providers.error["wrong"] = 0.3

    def not_a_number() -> None:
        providers.calls["nan"] = fails
        providers.error["nan"] = math.nan

    providers.attempt("compiled", fails)
    providers.attempt("wrong", wrong)
    providers.attempt("nan", not_a_number)
    assert providers.calls == {}
    assert providers.missing == {
        "compiled": "RuntimeError: no compiler",
        "wrong": "ArithmeticError: its relative error is 3.0e-01",
        "nan": "ArithmeticError: its relative error is nan",
    }


def test_a_missing_cupy_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "cupy_peer", raising=False)
    providers = Providers(SMALL, torch.device("cpu"))
    providers.attempt("cupy", lambda: bench_spectral.cupy_peer("float32"))
    assert "cupy" in providers.missing["cupy"]
    providers.attempt("cupy", lambda: bench_spectral.cupy_peer("bfloat16"))
    assert providers.missing["cupy"] == "TypeError: CuPy has no transforms in bfloat16"


def test_rows_with_a_compilation_come_last_and_are_added_to_those_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a GPU, whose rows nobody measures here."""
    measured: list[tuple[Case, bool]] = []

    def measure(case: Case, device: torch.device, copy_gbs: float, compiled: bool, effort: Effort):
        measured.append((case, compiled))
        times = {"dgdd_fast": Time(1.0, 1.0, 1.0)}
        missing = {"compiled": "no compiler"} if compiled else {}
        yield Row(case, None, "warm", times, 1.0, 0.1, {}, {"dgdd_fast": 0.0}, missing)

    facts = {"device": "a chip", "commit": "0123", "torch": "2.11", "memory_bytes": 80 * 2**30}
    for name, value in (
        ("measure", measure),
        ("environment", lambda device: facts),
        ("require_device", lambda name: torch.device(name)),
        ("copy_bandwidth", lambda device: 10.0),
        ("matmul_rate", lambda device: 10.0),
    ):
        monkeypatch.setattr(bench_spectral, name, value)
    path = tmp_path / "table.json"
    words = ["bench_spectral.py", "--device", "cuda", "--json", str(path), "--resume"]

    def run(*more: str) -> list[tuple[Case, bool]]:
        measured.clear()
        monkeypatch.setattr(sys, "argv", [*words, *more])
        bench_spectral.main()
        return list(measured)

    saturating = run("--no-compile", "--regimes", "saturating")
    assert {case.regime for case, _ in saturating} == {"saturating"}
    assert not any(compiled for _, compiled in saturating)
    rest = run()
    flags = [compiled for _, compiled in rest]
    assert flags == sorted(flags)
    assert {case for case, compiled in rest if not compiled}.isdisjoint(case for case, _ in saturating)
    assert {case for case, _ in saturating if case.domains == 3} <= {case for case, added in rest if added}
    assert run() == []
    assert len(json.loads(path.read_text())["rows"]) == len(cuda_cases())
    assert "without compiled: no compiler" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench_spectral.py", "--device", "cuda"])
    with pytest.raises(SystemExit, match="no CUDA device"):
        bench_spectral.main()


def test_wrong_results_end_in_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.json"
    small = ["--quick", "--threads", "1", "--sizes", "32", "--operators", "spectral_surgery"]
    monkeypatch.setattr(sys, "argv", ["bench_spectral.py", *small, "--json", str(path)])
    monkeypatch.setattr(bench_spectral.ops, "spectral_surgery", lambda gradients, *_: gradients.mean(0))
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit, match="relative error"):
        bench_spectral.main()
    torch.set_num_threads(threads)
    (row,) = json.loads(path.read_text())["rows"]
    assert row["error"]["dgdd_fast"] > 0.1
    assert "3x100x3x32x32" in capsys.readouterr().out
