"""The accuracy study: three methods at one budget, stopped and gone on with."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import accuracy
import pytest
from data_trees import write_npz

SMALL = "--ipc 2 --iterations 3 --batch-real 4 --image-lr 0.1 --width 8 --epochs 2 --seeds 2"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a small study, whose options are those of the command line."""
    for domain in ("photo", "sketch", "cartoon"):
        write_npz(tmp_path / "data", domain, ["cat", "dog"])
    paths = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]
    options = ["--target", "sketch", *paths, "--out", str(tmp_path / "table.json"), *SMALL.split()]
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *options])
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def test_a_stopped_study_goes_on_and_ends_in_a_table(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = accuracy.evaluate
    calls = 0

    def stopped_in_the_third(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(accuracy, "evaluate", stopped_in_the_third)
    with pytest.raises(SystemExit, match="stopped with 2 of 6"):
        accuracy.main()
    assert not (study / "table.json").exists()
    accuracy.main()
    assert calls == 3 + 4

    table = json.loads((study / "table.json").read_text())
    assert table["sources"] == ["cartoon", "photo"]
    assert table["distill"]["iterations"] == 3
    for method in ("random", "dm", "dm+sgs"):
        seeds = table["accuracy"][method]["target"]["seeds"]
        kept = [
            json.loads((study / "runs" / f"sketch-{method}-seed{seed}" / "result.json").read_text())
            for seed in range(2)
        ]
        assert seeds == [result["target"] for result in kept]
        assert table["accuracy"][method]["target"]["mean"] == pytest.approx(sum(seeds) / 2)


def test_without_a_gpu_it_says_so(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--device", "cuda"])
    with pytest.raises(SystemExit, match="no CUDA device"):
        accuracy.main()
