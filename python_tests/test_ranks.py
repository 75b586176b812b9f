"""Several processes that share the classes of a run: the same bits as one process, and how all end."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from expert_matching_cases import settings as expert_settings
from rank_processes import DIED, on_ranks
from small_runs import MOSAICS, SMALL, TINY, WITH_SURGERY, toy_set
from toy_data import toy_domains, without_rows
from toy_experts import toy_experts

from dgdd_fast import devices, ranks
from dgdd_fast.commands.options import start_computing
from dgdd_fast.config import DistillConfig, SurgeryConfig, with_method
from dgdd_fast.data import DomainDataset
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.distillation import (
    CHECKPOINT_NAME,
    DistillationDivergedError,
    DistillationInterrupted,
    distill,
)
from dgdd_fast.evaluation import Evaluation, evaluate
from dgdd_fast.matching.feature_matching import FeatureMatching
from dgdd_fast.matching.registry import build_objective
from dgdd_fast.matching.resolve import resolve_distillation
from dgdd_fast.ranks import RankLostError, Ranks, launched, leads, local_rank
from dgdd_fast.synthetic.checkpoint import Checkpoint
from dgdd_fast.synthetic.distilled_set import DistilledSet
from dgdd_fast.synthetic.gradients import ImageGradients
from dgdd_fast.synthetic.initial import assign_domains, initial_tiles

DATA = without_rows(toy_domains(classes=5), 1, 2, keep=3)
EVEN = toy_domains()
ODD = dataclasses.replace(WITH_SURGERY, ipc=3)
BY_CLASS = dataclasses.replace(MOSAICS, ipc=2, stepping="class", plateau=1, image_weight_decay=0.1)
EQUAL_LENGTH = dataclasses.replace(SMALL, surgery=SurgeryConfig(1.5, 0.4, length="gradient"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "method", ["dm", "dm+fact+sgs", "hdd+sgs", "datadam", "m3d+sgs", "dc+sgs", "cadm+sgs"]
)
@pytest.mark.parametrize(
    "budget",
    [pytest.param(1, id="passes of few images"), pytest.param(40, id="one pass", marks=pytest.mark.slow)],
)
def test_gradients_of_some_classes_are_bit_for_bit_those_of_all(
    method: str, budget: int, tmp_path: Path
) -> None:
    """Also where a pass holds images of classes on both sides of a border."""
    plain = method.partition("+")[0]
    config = dataclasses.replace(SMALL, ipc=3, memory_budget_mib=budget)
    if plain == "cadm":
        config = dataclasses.replace(
            expert_settings(str(toy_experts(tmp_path, DATA))), memory_budget_mib=budget
        )
    settings = resolve_distillation(with_method(config, method), DATA)
    mean, std = DATA.channel_statistics()
    assigned = assign_domains(DATA.counts(), settings.ipc, settings.factor)
    tiles = initial_tiles(DATA, assigned, settings, mean, std)
    real = RealImages(DATA, mean, std, torch.device("cpu"))
    whole, part = (build_objective(real, settings, assigned.flatten()) for _ in range(2))
    for iteration in (0, 1):
        wanted = whole.gradients(tiles, iteration, by_domain=settings.surgery is not None)
        for classes in (slice(0, 2), slice(2, 3), slice(3, 5)):
            part.take(classes)
            strange = torch.randn_like(tiles)
            strange[part.tiles] = tiles[part.tiles]  # what other ranks have moved is not known
            found = part.gradients(strange, iteration, by_domain=settings.surgery is not None)
            assert torch.equal(found.losses[:, classes], wanted.losses[:, classes])
            others = torch.ones(5, dtype=torch.bool)
            others[classes] = False
            assert not found.losses[:, others].any()
            for one, other in ((found.union, wanted.union), (found.apart, wanted.apart)):
                assert (one is None and other is None) or torch.equal(one, other[part.tiles])
            for one, other in ((found.by_domain, wanted.by_domain), (found.valid, wanted.valid)):
                assert (one is None and other is None) or torch.equal(one, other[:, part.tiles])


@pytest.mark.parametrize(
    ("config", "ranks"),
    [
        pytest.param(WITH_SURGERY, 2, id="dm+sgs"),
        pytest.param(ODD, 2, id="odd number of images", marks=pytest.mark.slow),
        pytest.param(ODD, 3, id="odd number, three ranks"),
        pytest.param(EQUAL_LENGTH, 2, id="equal length"),
        pytest.param(EQUAL_LENGTH, 5, id="equal length, five ranks", marks=pytest.mark.slow),
        pytest.param(BY_CLASS, 2, id="by class, plateau"),
    ],
)
def test_ranks_make_the_files_of_one_process(config: DistillConfig, ranks: int, tmp_path: Path) -> None:
    wanted = distill(DATA, config, run_folder=tmp_path / "one")
    sets = on_ranks(ranks, lambda _: distill(DATA, config, run_folder=tmp_path / "shared"), tmp_path)
    for made in sets:
        assert isinstance(made, DistilledSet), made
        assert torch.equal(made.images, wanted.images)
        assert made.provenance == wanted.provenance
    for name in (CHECKPOINT_NAME, "losses.csv"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def at_iteration(iteration: int, act: Callable[[], object]) -> None:
    """Have this process do something before it finds the gradients of an iteration."""
    plain, done = FeatureMatching.gradients_with, itertools.count()

    def gradients(self: FeatureMatching, *given: Any) -> ImageGradients:
        if next(done) == iteration:
            act()
        return plain(self, *given)

    FeatureMatching.gradients_with = gradients  # type: ignore[method-assign]


LONG = dataclasses.replace(ODD, iterations=7, checkpoint_every=2)


def resumes_alike(folder: Path) -> None:
    """On one process and on another number of ranks."""
    wanted = distill(DATA, LONG).images
    kept = (folder / CHECKPOINT_NAME).read_bytes()
    (folder / "meeting").unlink()
    for made in on_ranks(3, lambda _: distill(DATA, LONG, run_folder=folder, resume=True), folder):
        assert torch.equal(made.images, wanted)
    (folder / CHECKPOINT_NAME).write_bytes(kept)
    assert torch.equal(distill(DATA, LONG, run_folder=folder, resume=True).images, wanted)


def test_a_signal_to_one_rank_stops_all_at_the_same_iteration(tmp_path: Path) -> None:
    def work(rank: int) -> DistilledSet:
        if rank == 1:
            at_iteration(2, lambda: signal.raise_signal(signal.SIGTERM))
        return distill(DATA, LONG, run_folder=tmp_path)

    for ended in on_ranks(2, work, tmp_path):
        assert isinstance(ended, DistillationInterrupted)
        assert "after iteration 4 of 7" in str(ended)  # heard in the third, known to all in the fourth
    assert Checkpoint.load(tmp_path / CHECKPOINT_NAME).iteration == 4
    resumes_alike(tmp_path)


def test_a_signal_that_comes_while_a_rank_waits_stops_all_an_iteration_later(tmp_path: Path) -> None:
    def work(rank: int) -> DistilledSet:
        plain, done = Ranks.completing, itertools.count()

        def completing(self: Ranks, *given: Any) -> Callable[[], None]:
            complete = plain(self, *given)
            if rank == 1 and next(done) == 3:
                signal.raise_signal(signal.SIGTERM)
            return complete

        Ranks.completing = completing  # type: ignore[method-assign]
        return distill(DATA, LONG, run_folder=tmp_path)

    for ended in on_ranks(2, work, tmp_path):
        assert isinstance(ended, DistillationInterrupted)
        assert "of 7" in str(ended)
    assert Checkpoint.load(tmp_path / CHECKPOINT_NAME).iteration < 7


def test_a_rank_that_dies_ends_the_others_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    def work(rank: int) -> DistilledSet:
        if rank == 1:
            at_iteration(5, lambda: os.kill(os.getpid(), signal.SIGKILL))
        return distill(DATA, LONG, run_folder=tmp_path)

    first, second = on_ranks(2, work, tmp_path)
    assert second == DIED
    assert isinstance(first, RankLostError)
    assert "another rank ended" in str(first)
    assert Checkpoint.load(tmp_path / CHECKPOINT_NAME).iteration == 4
    resumed = distill(DATA, LONG, run_folder=tmp_path, resume=True)
    assert torch.equal(resumed.images, distill(DATA, LONG).images)


def test_a_gradient_that_is_not_finite_ends_all_and_names_the_class(tmp_path: Path) -> None:
    def work(rank: int) -> DistilledSet:
        plain = FeatureMatching.gradients_with

        def gradients(self: FeatureMatching, *given: Any) -> ImageGradients:
            found = plain(self, *given)
            if rank == 1 and found.by_domain is not None:
                found.by_domain[0, -1, 0, 0, 0] = torch.inf
            return found

        FeatureMatching.gradients_with = gradients  # type: ignore[method-assign]
        return distill(DATA, LONG, run_folder=tmp_path)

    for ended in on_ranks(2, work, tmp_path):
        assert isinstance(ended, DistillationDivergedError)
        assert "class class4 at iteration 0" in str(ended)
    assert Checkpoint.load(tmp_path / CHECKPOINT_NAME).iteration == 0


def changed(data: DomainDataset) -> DomainDataset:
    images = data.images[:].clone()
    images[7, 0, 0, 0] += 1
    return dataclasses.replace(data, images=images)


@pytest.mark.parametrize(
    ("data", "config", "message"),
    [
        (changed(DATA), LONG, "rank 1 of 2 has the data and experts"),
        (DATA, dataclasses.replace(LONG, image_lr=0.3), "rank 1 of 2 has the settings"),
    ],
    ids=["data", "settings"],
)
def test_ranks_that_see_different_things_are_refused_before_anything_is_written(
    data: DomainDataset, config: DistillConfig, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    different = (data, config)
    given = [(DATA, LONG), different]
    ended = on_ranks(2, lambda rank: distill(*given[rank], run_folder=folder), tmp_path)
    assert str(ended[0]) == str(ended[1])
    assert isinstance(ended[0], ValueError)
    assert message in str(ended[0])
    assert not folder.exists()


def test_ranks_with_other_versions_of_the_package_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def work(rank: int) -> DistilledSet:
        if rank == 1:
            ranks.version = lambda name: f"0.0 of {name}"  # type: ignore[assignment]
        return distill(DATA, LONG, run_folder=folder)

    for ended in on_ranks(2, work, tmp_path):
        assert isinstance(ended, ValueError)
        assert "rank 1 of 2 has dgdd-fast '0.0 of dgdd-fast', and rank 0 has" in str(ended)
    assert not folder.exists()


def test_ranks_talk_through_gloo_where_the_program_began_with_another(tmp_path: Path) -> None:
    def work(rank: int) -> tuple[list[float], str]:
        backend = dist.get_backend
        dist.get_backend = lambda group=None: "nccl" if group is None else backend(group)
        found = ranks.here()
        assert found.group is not dist.group.WORLD
        rows = torch.tensor([[1.0, 5.0], [2.0, 3.0]]) * (rank + 1)
        found.complete_(rows, slice(rank, rank + 1))
        return rows.flatten().tolist(), backend(found.group)

    assert on_ranks(2, work, tmp_path) == [([1.0, 5.0, 4.0, 6.0], "gloo")] * 2


@pytest.mark.parametrize("asked", [None, "auto", "cuda", "cuda:0"])
def test_each_rank_of_a_machine_has_a_gpu_of_its_own(
    asked: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "automatic_devices", lambda: ["cuda:0", "cuda:1"])
    chosen = []
    for local, rank in (("0", "4"), ("1", "5"), ("2", "6")):  # the third shares
        for name, value in (("WORLD_SIZE", "8"), ("RANK", rank), ("LOCAL_RANK", local)):
            monkeypatch.setenv(name, value)
        chosen.append(start_computing(asked, None))
    assert chosen == (["cuda:0"] * 3 if asked == "cuda:0" else ["cuda:0", "cuda:1", "cuda:0"])


@pytest.mark.parametrize("method", ["datadam-bn", "dm+dam"])
def test_methods_whose_classes_change_each_other_are_refused(method: str, tmp_path: Path) -> None:
    config = with_method(SMALL, method)
    for ended in on_ranks(2, lambda _: distill(DATA, config), tmp_path):
        assert isinstance(ended, ValueError)
        assert f"{method} cannot share its classes among ranks" in str(ended)


@pytest.mark.parametrize("done", [0, 1])
def test_ranks_share_the_runs_of_an_evaluation(done: int, tmp_path: Path) -> None:
    training, tests = toy_set(EVEN), {"test": EVEN.test()}
    config = dataclasses.replace(TINY, runs=3, epochs=2)
    before = evaluate(training, tests, dataclasses.replace(config, runs=done)) if done else None
    wanted = evaluate(training, tests, config)

    def work(rank: int) -> tuple[Evaluation, list[int]]:
        kept: list[int] = []
        found = evaluate(training, tests, config, done=before, keep=lambda result: kept.append(result.runs))
        return found, kept

    assert on_ranks(2, work, tmp_path) == [(wanted, [done + 2, 3][: 2 - done]), (wanted, [])]


def test_ranks_that_test_on_different_images_are_refused(tmp_path: Path) -> None:
    tests = [EVEN.test(), EVEN.test().select(torch.arange(5))]
    given = dataclasses.replace(TINY, runs=2, epochs=1)
    for ended in on_ranks(2, lambda rank: evaluate(toy_set(EVEN), {"test": tests[rank]}, given), tmp_path):
        assert isinstance(ended, ValueError)
        assert "rank 1 of 2 has the images to test on" in str(ended)


def test_shares_are_even_and_cover_everything() -> None:
    for count in range(1, 20):
        for together in (1, 2):
            for most in range(1, -(-count // together) + 1):
                shares = [Ranks(rank, most).share(count, together) for rank in range(most)]
                rows = [row for share in shares for row in range(count)[share]]
                assert rows == list(range(count))
                assert all(share.start % together == 0 for share in shares)
                sizes = [share.stop - share.start for share in shares]
                assert min(sizes) > 0
                assert max(sizes) - min(sizes) <= 2 * together - 1
    with pytest.raises(ValueError, match=r"4 ranks are too many to share 5 classes: start 3 or fewer"):
        Ranks(0, 4).share(5, together=2)


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "many", "RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "first"},
        {"WORLD_SIZE": "2", "RANK": "2"},
        {"WORLD_SIZE": "2", "RANK": ""},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"WORLD_SIZE": "9" * 5000, "RANK": "1"},
    ],
)
def test_what_torchrun_does_not_set_makes_no_rank(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not launched()
    assert leads()
    assert local_rank() == 0
