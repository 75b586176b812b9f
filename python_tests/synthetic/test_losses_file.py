"""losses.csv: every iteration once, whatever became of the run in between."""

import dataclasses
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from small_runs import SMALL
from toy_data import toy_domains

from dgdd_fast.distillation import DistillationInterrupted, distill
from dgdd_fast.synthetic.losses_file import LossesFile, read_losses

CONFIG = dataclasses.replace(SMALL, iterations=5, checkpoint_every=2)


def test_an_interrupted_and_resumed_run_has_the_file_of_an_uninterrupted_one(tmp_path: Path) -> None:
    data = toy_domains()
    states = []
    distill(data, CONFIG, run_folder=tmp_path / "whole", progress=states.append)
    whole = tmp_path / "whole" / "losses.csv"
    assert read_losses(whole)["loss"] == pytest.approx([state.loss for state in states], rel=1e-6)
    assert read_losses(whole)["iteration"] == [1, 2, 3, 4, 5]

    def interrupt(state):
        if state.iteration == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(DistillationInterrupted):
        distill(data, CONFIG, run_folder=tmp_path / "other", progress=interrupt)
    other = tmp_path / "other" / "losses.csv"
    assert other.read_text() == "".join(whole.read_text().splitlines(keepends=True)[:4])
    with other.open("a") as file:  # of iterations after the last checkpoint, as a run that was killed leaves
        file.write("4,0.5\n5,0.")
    distill(data, CONFIG, run_folder=tmp_path / "other", resume=True)
    assert other.read_bytes() == whole.read_bytes()


def test_rows_can_be_read_as_soon_as_they_are_added_and_a_torn_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    with LossesFile(path, ("matching", "rest"), [[1.0, 0.25]]) as file:
        file.add(2, [0.5, 0.125])
        assert path.read_text() == "iteration,loss,matching,rest\n1,1.25,1,0.25\n2,0.625,0.5,0.125\n"
    with path.open("a") as torn:
        torn.write("3,0.6")
    assert read_losses(path)["loss"] == [1.25, 0.625]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", ""])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "losses.csv").write_text(text)
    with pytest.raises(ValueError, match="no file of losses"):
        read_losses(tmp_path / "losses.csv")


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    with LossesFile(path, (), []) as file, open("/dev/full", "w", buffering=1) as full:
        file._file, whole = full, file._file
        with pytest.raises(OSError, match="No space left") as caught:
            file.add(1, [0.5])
        file._file = whole
        with suppress(OSError):
            full.close()
    assert caught.value.filename == str(path)
