"""Signals: one is a request, a second ends at once; no lock in a handler; one message, 128 + the number."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import SECONDS, alive, descendants, start, wait_until
from small_runs import SMALL
from toy_data import toy_domains

from dgdd_fast import interruption
from dgdd_fast.distillation import CHECKPOINT_NAME, distill
from dgdd_fast.interruption import SIGNALS, Interrupted, Stop, raise_at_signals, stop_at_whole_steps
from dgdd_fast.synthetic.checkpoint import Checkpoint

# The first checkpoint says that the loop is there; a later one is owed to the signal.
ENDLESS = (
    *("distill", "--target", "street", "--ipc", "1", "--iterations", "1000000"),
    *("--set=distill.network.width=2", "--set=distill.batch_real=2", "--threads", "1", "--resolution", "16"),
    *("--set", "distill.checkpoint_every=1000000", "--out", "run"),
)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request_and_a_later_one_an_exception(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]

    def ended_at_once() -> Stop:
        with stop_at_whole_steps() as stop:
            signal.raise_signal(number)
            signal.raise_signal(number)  # of the same moment: timeout(1) and closed terminals send two
            assert stop.is_set()
            assert stop.number == number
            time.sleep(0.25)
            with pytest.raises(Interrupted) as ended:
                signal.raise_signal(number)
            assert ended.value.number == number
        return stop

    assert ended_at_once().is_set()
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_another_signal_ends_at_once() -> None:
    with stop_at_whole_steps() as stop:
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()


def test_a_request_that_no_loop_saw_is_not_forgotten() -> None:
    with pytest.raises(Interrupted) as ended, stop_at_whole_steps():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.number == signal.SIGTERM


def test_a_second_signal_inside_the_handler_of_the_first_blocks_nothing() -> None:
    """A signal at every line that the handler runs: it must not wait for itself."""
    seen = []

    def trace(frame, event, argument):  # type: ignore[no-untyped-def]
        if frame.f_code.co_filename != interruption.__file__ or frame.f_code.co_name != "handle":
            return None
        seen.append(event)
        if event == "line" and len(seen) < 10:
            os.kill(os.getpid(), signal.SIGINT)
        return trace

    with stop_at_whole_steps() as stop:
        sys.settrace(trace)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
        finally:
            sys.settrace(None)
        assert stop.is_set()
    assert "line" in seen


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_at_signals(), stop_at_whole_steps() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_distils_as_the_main_one_does(tmp_path: Path) -> None:
    done = []
    thread = threading.Thread(target=lambda: done.append(distill(toy_domains(), SMALL, run_folder=tmp_path)))
    thread.start()
    thread.join(SECONDS)
    assert len(done) == 1
    assert Checkpoint.load(tmp_path / CHECKPOINT_NAME).iteration == SMALL.iterations


def iteration(path: Path) -> int:
    return Checkpoint.load(path).iteration


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM, signal.SIGHUP],
)
def test_a_signal_ends_a_run_with_a_checkpoint_one_message_and_its_code(
    number: signal.Signals, tmp_path: Path
) -> None:
    with start(*ENDLESS, folder=tmp_path) as run:
        path = tmp_path / "run" / CHECKPOINT_NAME
        wait_until(path.exists, run)
        run.send_signal(number)
        text, _ = run.communicate(timeout=SECONDS)
        assert run.returncode == 128 + number, text
        assert "Traceback" not in text
        assert text.count("error:") == 1
        assert f"stopped after iteration {iteration(path)} of" in text
        assert iteration(path) > 0
        assert "to go on: dgdd distill --resume --out run" in text


def test_a_signal_while_the_data_are_loaded_ends_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, pathlib, dgdd_fast\n"
        "def load(argument, resolution):\n"
        "    pathlib.Path('loading').touch()\n"
        "    time.sleep(100)\n"
        "dgdd_fast.register_loader('slow', load)\n"
    )
    arguments = ("--plugin", "slow.py", "distill", "--data", "slow:", "--target", "x", "--out", "run")
    with start(*arguments, folder=tmp_path) as run:
        wait_until((tmp_path / "loading").exists, run)
        run.send_signal(signal.SIGTERM)
        text, _ = run.communicate(timeout=SECONDS)
        assert run.returncode == 143, text
        where, said = text.splitlines()
        assert where.startswith("computing on ")
        assert said == "error: interrupted"
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    often = [part.replace("checkpoint_every=1000000", "checkpoint_every=5") for part in ENDLESS]
    with start(
        *often, folder=tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ) as run:
        path = tmp_path / "run" / CHECKPOINT_NAME
        wait_until(path.exists, run)
        run.send_signal(signal.SIGHUP)
        before = iteration(path)
        wait_until(lambda: iteration(path) > before + 5, run)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=SECONDS)
        assert run.returncode == 130


STUDY = """
data: embedded-digits
targets: [street]
methods: [dm, dm+sgs]
ipc: [1]
seeds: [0]
resolution: 16
distill: {iterations: 1000000, checkpoint_every: 1000000, batch_real: 2, network: {width: 2}}
evaluate: {runs: 1, epochs: 1, network: {width: 2}}
"""


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGTERM, 2),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_a_grid_has_its_workers_write_their_checkpoints(
    number: signal.Signals, workers: int, tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    arguments = ("grid", "study.yaml", "--workers", workers, "--threads", 1, "--out", "grid")
    with start(*arguments, folder=tmp_path) as run:

        def checkpoints() -> list[Path]:
            return list(tmp_path.glob(f"grid/jobs/*/{CHECKPOINT_NAME}"))

        wait_until(lambda: len(checkpoints()) == max(1, workers), run)
        os.killpg(run.pid, number)  # as a terminal and timeout(1) do
        text, _ = run.communicate(timeout=SECONDS)
        assert run.returncode == 128 + number, text
        assert "Traceback" not in text
        assert text.count("error:") == 1
        assert "the same command again" in text
        assert all(iteration(path) > 0 for path in checkpoints())
        assert not list(tmp_path.glob("grid/jobs/*/error.txt"))


@pytest.mark.slow
def test_the_workers_of_a_grid_that_was_killed_write_their_checkpoints_and_end(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    arguments = ("grid", "study.yaml", "--workers", 2, "--threads", 1, "--out", "grid")
    with start(*arguments, folder=tmp_path) as run:
        wait_until(lambda: len(list(tmp_path.glob(f"grid/jobs/*/{CHECKPOINT_NAME}"))) == 2, run)
        workers = descendants(run.pid)
        assert len(workers) >= 2
        run.kill()
        run.wait()
        deadline = time.monotonic() + SECONDS
        while any(map(alive, workers)):
            assert time.monotonic() < deadline, "they live on"
            time.sleep(0.05)
    assert all(iteration(path) > 0 for path in tmp_path.glob(f"grid/jobs/*/{CHECKPOINT_NAME}"))


@pytest.mark.slow
def test_ctrl_c_while_the_workers_start_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    with start("grid", "study.yaml", "--workers", 2, "--out", "grid", folder=tmp_path) as run:
        wait_until((tmp_path / "grid" / "grid.json").exists, run)
        time.sleep(0.3)
        os.killpg(run.pid, signal.SIGINT)
        text, _ = run.communicate(timeout=SECONDS)
        assert run.returncode == 130, text
        assert "Traceback" not in text
        assert text.count("error:") == 1
