"""The same run gives the same bits on one device, stopped and resumed or not: what the documentation promises
for the CPU, and may promise for CUDA once this has passed there (DGDD_REQUIRE_CUDA=1)."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from expert_matching_cases import MASKS
from small_runs import TINY, WITH_SURGERY
from toy_data import toy_domains
from toy_experts import NETWORK, toy_experts

from dgdd_fast import training
from dgdd_fast.config import (
    RECIPES,
    DistillConfig,
    EvaluateSettings,
    ExpertConfig,
    NetworkConfig,
    Precision,
    PretrainConfig,
    with_method,
)
from dgdd_fast.data import DomainDataset
from dgdd_fast.distillation import DistillationInterrupted, distill
from dgdd_fast.experts import discriminators, expert_training
from dgdd_fast.experts.pretrain import PretrainingInterrupted, pretrain
from dgdd_fast.matching import batches
from dgdd_fast.training import accuracy, resolve_training, train_network

DATA = toy_domains(per_cell=8)
METHODS = ["dm+sgs", "hdd+sgs", "datadam", "datadam-bn+sgs", "m3d+sgs", "dc+sgs"]
METHODS += ["dm+dam+fact", "mmd", "cadm+sgs"]
# What a training of a ConvNet as SGS tests is changed in.
TRAININGS: dict[str, dict[str, Any]] = {
    "dm": {},
    "ncfm": {name: getattr(RECIPES["ncfm"], name) for name in ("optimizer", "augment", "cutmix_probability")},
    **{name: {"generalize": name} for name in ("mixstyle", "fact", "advfreq")},
    **{name: {"network": NetworkConfig(name, width=4)} for name in ("alexnet", "vgg11", "resnet18")},
}


def stop_after(steps: int) -> Any:
    """A callback for progress: Ctrl-C when it is called for the `steps`-th time."""
    seen: list[Any] = []

    def progress(state: Any) -> None:
        seen.append(state)
        if len(seen) == steps:
            signal.raise_signal(signal.SIGINT)

    return progress


def settings_of(method: str, folder: Path) -> DistillConfig:
    config = WITH_SURGERY
    if method.startswith(("mmd", "cadm")):
        pool = ExpertConfig(pool=str(toy_experts(folder / "experts", DATA)))
        masks = MASKS if method.startswith("cadm") else None
        config = dataclasses.replace(
            config, experts=pool, masks=masks, network=NetworkConfig(), image_lr=0.01
        )
    return with_method(config, method)


@pytest.mark.parametrize(
    ("method", "precision"),
    [*((method, "float32") for method in METHODS), ("dm+sgs", "tf32"), ("dm+sgs", "bfloat16")],
)
def test_a_distillation_repeats_and_resumes_bit_for_bit(
    method: str, precision: Precision, device: torch.device, tmp_path: Path
) -> None:
    config = dataclasses.replace(settings_of(method, tmp_path), precision=precision)
    whole = distill(DATA, config, device=device).images
    assert torch.equal(distill(DATA, config, device=device).images, whole)
    with pytest.raises(DistillationInterrupted):
        distill(DATA, config, device=device, run_folder=tmp_path / "run", progress=stop_after(2))
    resumed = distill(DATA, config, device=device, run_folder=tmp_path / "run", resume=True)
    assert torch.equal(resumed.images, whole)
    start = distill(DATA, dataclasses.replace(config, iterations=0), device=device).images
    assert not torch.equal(whole, start)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes in parts of five images, so that threads have something to share."""
    for module in (batches, discriminators, expert_training, training):
        monkeypatch.setattr(module, "rows_per_chunk", lambda network, device: 5)


def with_threads(counts: tuple[int, ...], work: Callable[[int], Any]) -> list[Any]:
    """What `work` gives with each number of threads."""
    before = torch.get_num_threads()
    results = []
    for threads in counts:
        torch.set_num_threads(threads)
        try:
            results.append(work(threads))
        finally:
            torch.set_num_threads(before)
    return results


# With batch normalisation a pass cannot be taken apart, and more threads may round otherwise.
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("method", [method for method in METHODS if method != "datadam-bn+sgs"])
def test_a_distillation_gives_the_same_bits_whatever_the_number_of_threads(
    method: str, tmp_path: Path
) -> None:
    config = settings_of(method, tmp_path)
    one, three = with_threads((1, 3), lambda threads: distill(DATA, config).images)
    assert torch.equal(one, three)


@pytest.mark.usefixtures("small_parts")
def test_experts_and_trainings_have_the_same_bits_whatever_the_number_of_threads(tmp_path: Path) -> None:
    config = PretrainConfig(experts=1, epochs=2, batch_size=30, network=NETWORK)

    def expert(threads: int) -> bytes:
        pretrain(DATA, config, tmp_path / f"{threads}")
        return (tmp_path / f"{threads}" / "expert_00.safetensors").read_bytes()

    one, three = with_threads((1, 3), expert)
    assert one == three
    data = toy_domains(per_cell=4, side=32)
    for name in ("dm", "ncfm", "resnet18"):
        settings = resolve_training(
            dataclasses.replace(TINY, epochs=2, **TRAININGS[name]), data.resolution, True
        )
        one, three = with_threads((1, 3), lambda threads, settings=settings: trained(data, settings))
        assert torch.equal(one[0], three[0])
        assert one[1] == three[1]


def trained(
    data: DomainDataset, config: EvaluateSettings, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, float]:
    """The weights of a network trained on all of `data`, and its accuracy there."""
    mean, std = data.channel_statistics()
    network = train_network(data.images, data.labels, 3, config, mean=mean, std=std, device=device)
    weights = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    return weights, accuracy(network, data, mean, std)


def test_experts_repeat_and_resume_bit_for_bit(device: torch.device, tmp_path: Path) -> None:
    config = PretrainConfig(experts=1, epochs=2, batch_size=30, network=NETWORK)
    with pytest.raises(PretrainingInterrupted):
        pretrain(DATA, config, tmp_path / "resumed", device=device, progress=stop_after(1))
    pretrain(DATA, config, tmp_path / "resumed", device=device, resume=True)
    for name in ("whole", "again"):
        pretrain(DATA, config, tmp_path / name, device=device)
    files = [tmp_path / name / "expert_00.safetensors" for name in ("whole", "again", "resumed")]
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize("training", TRAININGS)
def test_a_training_repeats_bit_for_bit(training: str, device: torch.device) -> None:
    data = toy_domains(per_cell=4, side=32)
    config = resolve_training(
        dataclasses.replace(TINY, epochs=2, **TRAININGS[training]), data.resolution, True
    )
    first, again = (trained(data, config, device) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
