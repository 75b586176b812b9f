"""What the benchmarks share: statistics, turns, and where a table says that it comes from."""

import subprocess
from collections.abc import Callable

import pytest
import timing
import torch
from timing import Effort, Time


def test_a_time_is_the_median_and_the_percentiles_of_its_turns() -> None:
    assert Time.of([5.0, 1.0, 4.0, 2.0, 3.0, 6.0]) == Time(median=3.5, p20=2.0, p80=5.0)


class FakeClock:
    """Every call takes what it returns, whatever the clock on the wall says."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, int]] = []

    def __call__(self, call: Callable[[], float], calls: int) -> float:
        self.asked.append((call(), calls))
        return call()


def test_providers_take_turns_and_quick_ones_are_called_more_often() -> None:
    clock = FakeClock()
    times = timing.interleaved({"quick": lambda: 0.5, "slow": lambda: 8.0}, Effort(7, 4.0, 1000.0), clock)
    assert times == {"quick": Time(0.5, 0.5, 0.5), "slow": Time(8.0, 8.0, 8.0)}
    warm_up = [(0.5, 1), (0.5, 1), (8.0, 1), (8.0, 1)]
    assert clock.asked == warm_up + 7 * [(0.5, 8), (8.0, 1)]


@pytest.mark.parametrize(("row_ms", "turns"), [(1000.0, 20), (96.0, 8), (1.0, 5)])
def test_a_row_keeps_to_its_time_but_for_five_turns(row_ms: float, turns: int) -> None:
    clock = FakeClock()
    timing.interleaved({"one": lambda: 12.0}, Effort(20, 4.0, row_ms), clock)
    assert len(clock.asked) == 2 + turns


def test_relative_error_is_of_the_l2_norm() -> None:
    truth = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert timing.relative_error(torch.tensor([3.0, 4.5]), truth) == pytest.approx(0.1)


def test_a_table_says_which_commit_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGDD_COMMIT", "0123456789ab")
    facts = timing.environment(torch.device("cpu"))
    assert facts["commit"] == "0123456789ab"
    assert facts["device"]
    assert facts["torch"] == torch.__version__
    monkeypatch.delenv("DGDD_COMMIT")

    def no_history(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 128, stdout="", stderr="fatal: not a git repository")

    monkeypatch.setattr(subprocess, "run", no_history)
    assert timing.commit() is None


def test_a_missing_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="finds no CUDA device"):
        timing.require_device("cuda")
    assert timing.require_device("cpu") == torch.device("cpu")
