"""Several processes that share the experts of a pool: the files of one process, and how all end."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import DIED, on_ranks
from small_experts import NETWORK, TINY
from toy_data import toy_domains

from dgdd_fast.experts import ExpertPool
from dgdd_fast.experts.expert_training import _FILE, ExpertTraining, checkpoint_file
from dgdd_fast.experts.pretrain import PretrainingInterrupted, PretrainProgress, pretrain
from dgdd_fast.interruption import TrainingDivergedError
from dgdd_fast.ranks import RankLostError, Ranks

DATA = toy_domains(per_cell=2, side=12)
STEPS = 2  # an epoch
CONFIG = dataclasses.replace(
    TINY,
    experts=3,
    epochs=2,
    batch_size=len(DATA) // STEPS,
    checkpoint_every=1,
    network=dataclasses.replace(NETWORK, width=2),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of one process."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    pretrain(DATA, CONFIG, folder)
    return files(folder)


def test_ranks_make_the_files_of_one_process(whole: dict[str, bytes], tmp_path: Path) -> None:
    """Also where experts are left for some of the ranks only."""
    folder = tmp_path / "shared"

    def work(rank: int) -> tuple[int, list[tuple[int, int]]]:
        seen: list[tuple[int, int]] = []

        def progress(state: PretrainProgress) -> None:
            seen.append((state.expert, state.epoch))

        return len(pretrain(DATA, CONFIG, folder, progress=progress)), seen

    told = [(0, 1), (1, 1), (0, 2), (1, 2), (2, 1), (2, 2)]
    assert on_ranks(2, work, tmp_path) == [(3, told), (3, [])]
    assert files(folder) == whole


def at_step(number: int, act: Callable[[], object]) -> None:
    """Have this process do something at a step of the training, counted from 1."""
    plain, done = ExpertTraining.step, 0

    def step(self: ExpertTraining) -> bool:
        nonlocal done
        done += 1
        if done == number:
            act()
        return plain(self)

    ExpertTraining.step = step  # type: ignore[method-assign]


def while_waiting(number: int, act: Callable[[], object]) -> None:
    """The same once this process has told of a step what there is to tell."""
    plain = Ranks.gathered

    def gathered(self: Ranks, value: Any) -> list[Any]:
        values = plain(self, value)
        if value.__class__.__name__ == "_Report":
            nonlocal number
            number -= 1
            if number == 0:
                act()
        return values

    Ranks.gathered = gathered  # type: ignore[method-assign]


@pytest.mark.parametrize(("hears", "stops_after"), [(at_step, 3), (while_waiting, 4)])
def test_a_signal_to_one_rank_stops_all_after_the_same_step(
    hears: Callable[..., None], stops_after: int, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """More ranks then go on where it ended."""

    def work(rank: int) -> ExpertPool:
        if rank == 1:
            hears(3, lambda: signal.raise_signal(signal.SIGTERM))
        return pretrain(DATA, CONFIG, tmp_path)

    for ended in on_ranks(2, work, tmp_path):
        assert isinstance(ended, PretrainingInterrupted)
        assert ended.number == signal.SIGTERM
        done = stops_after // STEPS
        assert f"stopped after {done} of 2 epochs of experts 1 to 2 of 3; go on from" in str(ended)
    for index in (0, 1):
        assert _FILE.read(checkpoint_file(tmp_path, index))[1]["steps"] == stops_after
    (tmp_path / "meeting").unlink()
    on_ranks(3, lambda _: pretrain(DATA, CONFIG, tmp_path, resume=True), tmp_path)
    (tmp_path / "meeting").unlink()
    assert files(tmp_path) == whole


def test_a_rank_that_dies_ends_the_others_and_one_process_goes_on(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    def work(rank: int) -> ExpertPool:
        if rank == 1:
            at_step(STEPS + 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
        return pretrain(DATA, CONFIG, tmp_path)

    first, second = on_ranks(2, work, tmp_path)
    assert second == DIED
    assert isinstance(first, RankLostError)
    (tmp_path / "meeting").unlink()
    for index in (0, 1):
        assert _FILE.read(checkpoint_file(tmp_path, index))[1]["steps"] == STEPS
    pretrain(DATA, CONFIG, tmp_path, resume=True)
    assert files(tmp_path) == whole


def test_an_expert_that_diverges_ends_all_and_is_named(tmp_path: Path) -> None:
    def work(rank: int) -> ExpertPool:
        if rank == 1:
            plain = ExpertTraining._end_epoch

            def end_epoch(self: ExpertTraining) -> None:
                self.sums[0] = torch.nan
                plain(self)

            ExpertTraining._end_epoch = end_epoch  # type: ignore[method-assign]
        return pretrain(DATA, CONFIG, tmp_path)

    for ended in on_ranks(2, work, tmp_path):
        assert isinstance(ended, TrainingDivergedError)
        assert "the loss of expert 2 is nan" in str(ended)


def test_ranks_that_see_different_data_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "experts"
    given = [DATA, DATA.select(torch.arange(1, len(DATA)))]
    for ended in on_ranks(2, lambda rank: pretrain(given[rank], CONFIG, folder), tmp_path):
        assert isinstance(ended, ValueError)
        assert "rank 1 of 2 has the data" in str(ended)
    assert not folder.exists()


def test_a_pool_in_the_way_is_refused_by_all(whole: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "pool.json").write_bytes(whole["pool.json"])
    for ended in on_ranks(2, lambda _: pretrain(DATA, CONFIG, tmp_path), tmp_path):
        assert isinstance(ended, ValueError)
        assert "pool.json exists: go on with it" in str(ended)
