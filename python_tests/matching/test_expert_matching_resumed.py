"""Runs of MMD and CADM that are gone on with: interrupted, of earlier versions, with moved experts."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import pytest
import torch
from expert_matching_cases import DATA, experts, masks, settings
from safetensors.torch import load_file, save_file
from toy_experts import toy_experts

from dgdd_fast.config import (
    DistillConfig,
    SurgeryConfig,
    from_dict,
)
from dgdd_fast.distillation import (
    CHECKPOINT_NAME,
    DistillationInterrupted,
    Progress,
    distill,
)
from dgdd_fast.experts import ExpertPool, ExpertPoolError
from dgdd_fast.synthetic.checkpoint import Checkpoint

OLD_MASK_SETTINGS = ("share", "activation_probability", "score", "rescale", "consistency_weight")


@pytest.mark.parametrize("surgery", [None, SurgeryConfig()], ids=["cadm", "cadm+sgs"])
@pytest.mark.parametrize("stepping", ["joint", "class"])
def test_an_interrupted_run_resumes_bit_for_bit(
    surgery: SurgeryConfig | None, stepping: str, folder: str, tmp_path: Path
) -> None:
    config = settings(folder, surgery=surgery, checkpoint_every=100)
    if stepping == "class":
        config = dataclasses.replace(config, stepping="class", plateau=1, image_weight_decay=5e-4)
    whole = distill(DATA, config).images

    def interrupt(state: Progress) -> None:
        if state.iteration == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(DistillationInterrupted):
        distill(DATA, config, run_folder=tmp_path, progress=interrupt)
    assert torch.equal(distill(DATA, config, run_folder=tmp_path, resume=True).images, whole)


@pytest.mark.parametrize("objective", ["cadm", "mmd"])
def test_a_run_of_the_version_before_resumes_bit_for_bit(objective: str, folder: str, tmp_path: Path) -> None:
    """Its settings had switches in place of terms, and one mask an image."""
    config = settings(folder, objective, iterations=4)
    config = experts(masks(config, draws=1) if objective == "cadm" else config, interpolate=True)
    whole = distill(DATA, config).images
    distill(DATA, dataclasses.replace(config, iterations=2), run_folder=tmp_path)
    checkpoint = Checkpoint.load(tmp_path / CHECKPOINT_NAME)
    old, switches = checkpoint.config, {"matching": True, "regularisation": True, "consistency": True}
    old["experts"] = {"pool": folder, "interpolate": True, "match": True, "regularise": True}
    if objective == "cadm":
        old["masks"] = {name: old["masks"][name] for name in OLD_MASK_SETTINGS} | switches
    checkpoint.save(tmp_path / CHECKPOINT_NAME)
    resumed = distill(
        DATA, from_dict(DistillConfig, old | {"iterations": 4}), run_folder=tmp_path, resume=True
    )
    assert torch.equal(resumed.images, whole)


def test_moved_experts_may_go_on_with_a_run_and_other_experts_may_not(folder: str, tmp_path: Path) -> None:
    config = settings(folder, iterations=2)
    distill(DATA, config, run_folder=tmp_path / "run")
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in Path(folder).iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    longer = experts(dataclasses.replace(config, iterations=3), pool=str(moved))
    whole = distill(DATA, dataclasses.replace(config, iterations=3)).images
    assert torch.equal(distill(DATA, longer, run_folder=tmp_path / "run", resume=True).images, whole)
    others = experts(longer, pool=str(toy_experts(tmp_path / "others", DATA, experts=3)))
    with pytest.raises(ValueError, match="a run with other experts"):
        distill(DATA, others, run_folder=tmp_path / "run", resume=True)


def test_experts_of_the_version_before_are_read_and_flipped_bits_are_found(tmp_path: Path) -> None:
    folder = toy_experts(tmp_path, DATA)
    pool = ExpertPool.load(folder)
    first, second = pool.new_expert(), pool.new_expert()
    pool.fill_(first, 0, 0.5)
    save_file(load_file(pool.expert_file(0)), pool.expert_file(0))  # without description and checksum
    ExpertPool.load(folder).fill_(second, 0, 0.5)
    assert all(
        torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True)
    )
    content = bytearray(pool.expert_file(1).read_bytes())
    content[-3] ^= 1
    pool.expert_file(1).write_bytes(content)
    with pytest.raises(ExpertPoolError, match=r"expert_01\.safetensors is damaged"):
        ExpertPool.load(folder).fill_(second, 1, 1.0)
