"""Runs that were stopped, killed or diverged: what they leave, and that they end bit for bit alike."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_runs import MOSAICS, SMALL, WITH_SURGERY
from toy_data import toy_domains

from dgdd_fast.config import (
    DistillConfig,
    NetworkConfig,
    SurgeryConfig,
)
from dgdd_fast.config.run import LOSSES_NAME
from dgdd_fast.distillation import (
    CHECKPOINT_NAME,
    DistillationDivergedError,
    DistillationInterrupted,
    Progress,
    distill,
)
from dgdd_fast.matching import descent
from dgdd_fast.matching.feature_matching import FeatureMatching, MatchingPlan
from dgdd_fast.synthetic.checkpoint import FILE, Checkpoint, CheckpointError
from dgdd_fast.synthetic.gradients import ImageGradients
from dgdd_fast.synthetic.losses_file import read_losses

BY_CLASS = dataclasses.replace(MOSAICS, stepping="class", plateau=1, image_weight_decay=0.1)
EQUAL_LENGTH = dataclasses.replace(SMALL, surgery=SurgeryConfig(1.5, 0.4, length="gradient"))


@pytest.mark.parametrize(
    "config",
    [SMALL, WITH_SURGERY, EQUAL_LENGTH, MOSAICS, BY_CLASS],
    ids=["dm", "dm+sgs", "equal length", "mosaics, adam", "by class"],
)
def test_ctrl_c_leaves_a_checkpoint_and_the_resumed_run_ends_bit_for_bit_alike(
    config: DistillConfig, tmp_path: Path
) -> None:
    data = toy_domains()
    handler = signal.getsignal(signal.SIGINT)
    config = dataclasses.replace(config, iterations=7, checkpoint_every=100)
    whole = distill(data, config)

    def interrupt(state: Progress) -> None:
        if state.iteration == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(DistillationInterrupted, match=r"after iteration 3 of 7; resume from .*--resume"):
        distill(data, config, run_folder=tmp_path, progress=interrupt)
    assert Checkpoint.load(tmp_path / CHECKPOINT_NAME).iteration == 3
    seen: list[int] = []
    resumed = distill(
        data,
        config,
        run_folder=tmp_path,
        resume=True,
        progress=lambda state: seen.append(state.iteration),
    )
    assert seen == [4, 5, 6, 7]
    assert torch.equal(resumed.images, whole.images)
    assert resumed.provenance == whole.provenance
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_finished_run_can_be_prolonged(tmp_path: Path) -> None:
    data = toy_domains()
    distill(data, WITH_SURGERY, run_folder=tmp_path)
    longer = dataclasses.replace(WITH_SURGERY, iterations=6)
    prolonged = distill(data, longer, run_folder=tmp_path, resume=True)
    assert torch.equal(prolonged.images, distill(data, longer).images)
    with pytest.raises(CheckpointError, match="already at iteration 6"):
        distill(data, WITH_SURGERY, run_folder=tmp_path, resume=True)


KILLED_RUN = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from pathlib import Path
from dgdd_fast.distillation import distill
from small_runs import WITH_SURGERY
from toy_data import toy_domains
import dataclasses
config = dataclasses.replace(WITH_SURGERY, iterations=400, checkpoint_every=1)
def tell(state):
    print(state.iteration, flush=True)
result = distill(toy_domains(), config, run_folder=Path(sys.argv[1]), resume=True, progress=tell)
"""


def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    """SIGKILL at an arbitrary moment of a run that writes a checkpoint every iteration, twice, then the
    rest."""
    script = KILLED_RUN.format(tests=str(Path(__file__).parent / "helpers"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for wait in (0.011, 0.037):
        run = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env=environment, text=True
        )
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(wait)
        run.kill()
        run.communicate()
        assert run.returncode == -signal.SIGKILL
    stopped_at = Checkpoint.load(tmp_path / CHECKPOINT_NAME).iteration
    assert 0 < stopped_at < 400
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = dataclasses.replace(WITH_SURGERY, iterations=stopped_at + 3, checkpoint_every=1)
        resumed = distill(toy_domains(), config, run_folder=tmp_path, resume=True).images
        whole = distill(toy_domains(), config).images
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(resumed, whole)


@pytest.mark.parametrize("alone", [False, True], ids=["watched", "alone"])
@pytest.mark.parametrize("config", [SMALL, WITH_SURGERY], ids=["dm", "dm+sgs"])
def test_a_nan_stops_with_class_iteration_and_the_last_good_checkpoint(
    config: DistillConfig, alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the host looks after five more iterations, as it does on a GPU."""
    data = toy_domains()
    monkeypatch.setattr(descent, "works_alone", lambda device: alone)
    monkeypatch.setattr(descent, "SECONDS_UNREAD", 100.0)
    config = dataclasses.replace(config, iterations=8, checkpoint_every=2 if not alone else 1000)
    honest = FeatureMatching.gradients_with
    seen = []

    def poisoned(
        self: FeatureMatching, images: torch.Tensor, plan: MatchingPlan, by_domain: bool
    ) -> ImageGradients:
        gradients = honest(self, images, plan, by_domain)
        seen.append(images.clone())
        if plan.space.iteration.value == 3:
            found = gradients.by_domain if by_domain else gradients.union
            assert found is not None
            found[..., 5, 1, 2, 3] = float("nan")  # image 5 is of class 1
        return gradients

    monkeypatch.setattr(FeatureMatching, "gradients_with", poisoned)
    with pytest.raises(
        DistillationDivergedError, match=r"class class1 at iteration 3; the last good checkpoint is .*"
    ):
        distill(data, config, run_folder=tmp_path)
    kept = Checkpoint.load(tmp_path / CHECKPOINT_NAME)
    assert kept.iteration == (0 if alone else 2)
    assert torch.isfinite(kept.images).all()
    assert read_losses(tmp_path / LOSSES_NAME)["iteration"] == [1, 2, 3]
    # What was queued behind it found the images as it had found them.
    assert len(seen) == (8 if alone else 4)
    assert all(torch.equal(images, seen[3]) for images in seen[4:])


@pytest.mark.parametrize("config", [WITH_SURGERY, MOSAICS], ids=["sgd", "adam"])
def test_a_device_left_alone_comes_to_the_same_bits(
    config: DistillConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_domains()
    config = dataclasses.replace(config, iterations=7, checkpoint_every=3)
    watched = distill(data, config, run_folder=tmp_path / "watched").images
    monkeypatch.setattr(descent, "works_alone", lambda device: True)
    monkeypatch.setattr(descent, "SECONDS_UNREAD", 100.0)
    told: list[tuple[int, int]] = []

    def tell(state: Progress) -> None:
        told.append((state.iteration, state.images_so_far().provenance["iterations"]))

    alone = distill(data, config, run_folder=tmp_path / "alone", progress=tell).images
    assert torch.equal(alone, watched)
    # It looks once at first, then as it keeps a checkpoint.
    assert told == [(1, 1), (2, 3), (3, 3), (4, 6), (5, 6), (6, 6), (7, 7)]
    rows = [read_losses(tmp_path / name / LOSSES_NAME) for name in ("watched", "alone")]
    assert rows[0] == rows[1]
    kept = [Checkpoint.load(tmp_path / name / CHECKPOINT_NAME) for name in ("watched", "alone")]
    assert torch.equal(kept[0].losses, kept[1].losses)
    assert all(torch.equal(part, kept[1].optimizer[name]) for name, part in kept[0].optimizer.items())


def test_a_request_to_stop_a_device_left_alone_keeps_all_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_domains()
    config = dataclasses.replace(SMALL, iterations=9, checkpoint_every=1000)
    whole = distill(data, config).images
    monkeypatch.setattr(descent, "works_alone", lambda device: True)
    monkeypatch.setattr(descent, "SECONDS_UNREAD", 100.0)
    honest = FeatureMatching.gradients_with
    done = []

    def interrupting(self: FeatureMatching, *arguments: Any) -> ImageGradients:
        done.append(1)
        if len(done) == 5:
            signal.raise_signal(signal.SIGINT)
        return honest(self, *arguments)

    monkeypatch.setattr(FeatureMatching, "gradients_with", interrupting)
    with pytest.raises(DistillationInterrupted, match="stopped after iteration 5 of 9"):
        distill(data, config, run_folder=tmp_path)
    assert Checkpoint.load(tmp_path / CHECKPOINT_NAME).iteration == 5
    assert torch.equal(distill(data, config, run_folder=tmp_path, resume=True).images, whole)


def test_an_exploding_learning_rate_is_stopped_by_the_real_check() -> None:
    network = NetworkConfig(width=8, depth=2, norm="none")  # a norm would bound the features
    config = dataclasses.replace(SMALL, image_lr=1e6, iterations=20, network=network)
    with pytest.raises(DistillationDivergedError, match="Lower the image learning rate"):
        distill(toy_domains(), config)


def test_a_checkpoint_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    data = toy_domains()
    distill(data, SMALL, run_folder=tmp_path)
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    with pytest.raises(ValueError, match=r"exists: resume that run .*--resume"):
        distill(data, SMALL, run_folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"image_lr = 0\.2, now 0\.5"):
        distill(data, dataclasses.replace(SMALL, image_lr=0.5), run_folder=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"on other data: of toy, 108 images .* not learnt from"):
        distill(toy_domains(seed=5), SMALL, run_folder=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="of toy, 27 images that were learnt from are gone; choose"):
        distill(data.train(), SMALL, run_folder=tmp_path, resume=True)
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before


def test_a_checkpoint_of_the_version_before_goes_on(tmp_path: Path) -> None:
    data, path = toy_domains(), tmp_path / CHECKPOINT_NAME
    distill(data, dataclasses.replace(WITH_SURGERY, iterations=2), run_folder=tmp_path)
    kept = Checkpoint.load(path)
    tensors = {"images": kept.images, "losses": kept.losses, "optimizer.momentum": kept.optimizer["momentum"]}
    described = {name: getattr(kept, name) for name in ("iteration", "config", "fingerprint", "threads")}
    del described["config"]["surgery"]["length"]  # which there was not
    save_file(tensors, path, {"dgdd-fast checkpoint 2": json.dumps(described)})
    resumed = distill(data, WITH_SURGERY, run_folder=tmp_path, resume=True)
    assert torch.equal(resumed.images, distill(data, WITH_SURGERY).images)
    save_file(tensors, path, {"dgdd-fast checkpoint 2": json.dumps(described)})
    with pytest.raises(CheckpointError, match="checkpoints of earlier versions do not tell"):
        distill(data.train(), WITH_SURGERY, run_folder=tmp_path, resume=True)


def test_a_checkpoint_of_hdd_before_its_features_were_cut_off_is_refused(tmp_path: Path) -> None:
    data, path = toy_domains(), tmp_path / CHECKPOINT_NAME
    for objective in ("hdd", "dm"):
        config = dataclasses.replace(SMALL, objective=objective)
        distill(data, dataclasses.replace(config, iterations=2), run_folder=tmp_path)
        tensors, description = FILE.unpack(path.read_bytes())
        del description["version"]
        path.write_bytes(dataclasses.replace(FILE, version=3).pack(tensors, description))
        if objective == "hdd":
            with pytest.raises(CheckpointError, match="cut off at 10, which is another loss; delete it"):
                distill(data, config, run_folder=tmp_path, resume=True)
            path.unlink()
        else:
            resumed = distill(data, config, run_folder=tmp_path, resume=True)
            assert torch.equal(resumed.images, distill(data, config).images)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "text"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    data = toy_domains()
    path = tmp_path / CHECKPOINT_NAME
    distill(data, SMALL, run_folder=tmp_path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "foreign":
        save_file({"weights": torch.zeros(3)}, path)
    else:
        path.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=CHECKPOINT_NAME):
        distill(data, SMALL, run_folder=tmp_path, resume=True)
