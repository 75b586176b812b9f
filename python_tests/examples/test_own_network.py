"""A network of a user's own is everything that a built-in one is: what features are compared in, an expert,
masked, attended to, tested on; and without stages it is refused by name where stages are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import dgdd, failure
from run_commands import NARROW
from small_runs import SMALL, TINY
from torch import Tensor, nn
from toy_data import toy_domains, write_npz

from dgdd_fast import distill, evaluate, load_plugins, pretrain, register_network
from dgdd_fast.analysis.channels import examine_experts
from dgdd_fast.config import (
    DistillConfig,
    ExpertConfig,
    MaskConfig,
    NetworkConfig,
    PretrainConfig,
    SurgeryConfig,
)
from dgdd_fast.data import DomainDataset
from dgdd_fast.experiments.grid import Workers, read_index, run_grid
from dgdd_fast.experiments.study import study_from_dict
from dgdd_fast.experts import ExpertPool
from dgdd_fast.networks import Network, build_network, describe_network, initialise, resolve_network
from dgdd_fast.plugins import ENVIRONMENT
from dgdd_fast.seeds import generator

OWN = Path(__file__).parents[2] / "examples" / "own_network.py"
DEPTHWISE = NetworkConfig("depthwise", width=4)
FLAT = NetworkConfig("flat", width=4)
PRETRAIN = PretrainConfig(experts=2, epochs=1, batch_size=40, network=DEPTHWISE)


class Flat(Network):
    """A convolution with a bias map of its own, and nothing that could be a stage."""

    def __init__(
        self, num_classes: int, resolution: tuple[int, int], config: NetworkConfig, channels: int = 3
    ) -> None:
        width = self.settings(config, resolution).width
        super().__init__(num_classes, (channels, *resolution), width, width)
        self.convolution = nn.Conv2d(channels, width, 3)
        self.offset = Offset(width)

    def features(self, images: Tensor) -> Tensor:
        return self.offset(torch.tanh(self.convolution(images))).mean((2, 3))


class Offset(nn.Module):
    """Parameters of another kind, which say how they are initialised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(channels, 1, 1))

    def initialise(self, generator: torch.Generator) -> None:
        self.values.copy_(torch.randn(self.values.shape, generator=generator))

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.values


@pytest.fixture(scope="module", autouse=True)
def own_networks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, "")
        load_plugins([OWN])
        register_network("flat", Flat)
        yield
    # The names stay registered: a file is run once a process.


@pytest.fixture(scope="module")
def data() -> DomainDataset:
    return toy_domains(per_cell=6)


@pytest.fixture(scope="module")
def pool(data: DomainDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts") / "pool"
    pretrain(data, PRETRAIN, folder)
    return folder


def moved(data: DomainDataset, config: DistillConfig) -> bool:
    """Whether a run moves its images, to the same place twice."""
    first, again = (distill(data, config).images for _ in range(2))
    assert torch.equal(first, again)
    return not torch.equal(first, distill(data, dataclasses.replace(config, iterations=0)).images)


def test_it_fills_in_what_the_settings_leave_open() -> None:
    settings = resolve_network(NetworkConfig("depthwise"), (16, 16))
    assert (settings.width, settings.depth) == (32, None)
    assert describe_network(settings) == "Depthwise (width 32, instance norm)"
    with pytest.raises(ValueError, match="the depth of depthwise is its own"):
        resolve_network(NetworkConfig("depthwise", depth=2), (16, 16))
    with pytest.raises(ValueError, match="sides of at least 8 px"):
        build_network(3, (4, 4), DEPTHWISE)


@pytest.mark.parametrize("config", [DEPTHWISE, FLAT])
def test_its_parameters_depend_on_the_generator_alone(config: NetworkConfig) -> None:
    one, other = (build_network(3, (16, 16), config) for _ in range(2))
    for network in (one, other):
        initialise(network, generator(7))
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))
    initialise(other, generator(8))
    assert not any(
        torch.equal(*pair)
        for pair in zip(one.parameters(), other.parameters(), strict=True)
        if pair[0].unique().numel() > 1  # the weights and biases of normalisations are all alike
    )


@pytest.mark.parametrize("objective", ["dm", "hdd", "datadam", "datadam-bn", "dc"])
def test_features_are_compared_in_it(data: DomainDataset, objective: str) -> None:
    config = dataclasses.replace(SMALL, objective=objective, network=DEPTHWISE, iterations=2)
    assert moved(data, config)
    if objective in ("dm", "hdd", "dc"):
        assert moved(data, dataclasses.replace(config, network=FLAT))


def test_experts_of_it_are_trained_matched_in_and_masked(data: DomainDataset, pool: Path) -> None:
    log = ExpertPool.load(pool).log
    assert [len(epochs[0]["domain_accuracy"]) for epochs in log] == [3, 3]  # one for each of its stages
    mmd = DistillConfig(
        objective="mmd",
        experts=ExpertConfig(pool=str(pool)),
        ipc=2,
        iterations=3,
        image_lr=0.02,
        batch_real=4,
    )
    masked = dataclasses.replace(mmd, objective="cadm", masks=MaskConfig(activation_probability=1.0))
    assert moved(data, mmd)
    assert moved(data, dataclasses.replace(masked, surgery=SurgeryConfig()))
    assert not torch.equal(distill(data, mmd).images, distill(data, masked).images)
    masked = dataclasses.replace(masked, masks=MaskConfig(stages=(2, 4)))
    with pytest.raises(ValueError, match=r"masks\.stages names stage 4, and a depthwise has 3"):
        distill(data, masked)
    stages = examine_experts(ExpertPool.load(pool), data, MaskConfig(share=0.5))[0].masked_share
    assert stages == pytest.approx([50.0] * 3)


@pytest.mark.parametrize("config", [DEPTHWISE, FLAT])
def test_sets_are_tested_on_it(data: DomainDataset, config: NetworkConfig) -> None:
    distilled = distill(data, dataclasses.replace(SMALL, iterations=0))
    for generalize in ("none", "mixstyle", "fact", "advfreq"):
        if config is FLAT and generalize == "mixstyle":
            continue
        training = dataclasses.replace(TINY, network=config, epochs=2, generalize=generalize)
        result = evaluate(distilled, {"own": data}, training)
        assert result.config.network.architecture in result.description.lower()


def test_without_stages_it_is_refused_where_they_are_needed(data: DomainDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"flat has none; take one of .*depthwise"):
        pretrain(data, dataclasses.replace(PRETRAIN, network=FLAT), tmp_path / "experts")
    for objective in ("datadam", "datadam-bn"):
        with pytest.raises(ValueError, match=r"a network with stages .*got flat"):
            distill(data, dataclasses.replace(SMALL, objective=objective, network=FLAT))
    distilled = distill(data, dataclasses.replace(SMALL, iterations=0))
    with pytest.raises(ValueError, match=r"between the stages of a network .*Flat has none"):
        evaluate(distilled, {"own": data}, dataclasses.replace(TINY, network=FLAT, generalize="mixstyle"))


def test_the_commands_take_it(data: DomainDataset, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_npz(data, tmp_path / "data")
    source = ("--data", tmp_path / "data", "--target", "domain0")
    plugin = ("--plugin", OWN)
    small = ("--ipc", 2, "--iterations", 1, "--threads", 1, "--set=distill.batch_real=4")
    experts, out = tmp_path / "experts", tmp_path / "run"
    training = ("--architecture", "depthwise", "--experts", 1, "--epochs", 1, *NARROW)
    dgdd(*plugin, "pretrain", *source, *training, "--out", experts)
    dgdd(*plugin, "distill", *source, *small, "--method", "cadm", "--experts", experts, "--out", out)
    text = dgdd(*plugin, "evaluate", out, "--runs", 1, "--epochs", 1, "--on", "target").output
    assert "Depthwise (width 4" in text  # the network of the distillation, and so of the experts
    text = dgdd(
        *plugin,
        "evaluate",
        out,
        "--runs",
        1,
        "--epochs",
        1,
        "--on",
        "target",
        "--architecture",
        "flat",
        "--overwrite",
    ).output
    assert "flat (width 64" in text
    code, text = failure(*plugin, "pretrain", *source, "--architecture", "flat", "--out", tmp_path / "none")
    assert code == 2
    assert "flat has none" in text


def test_a_study_takes_it(data: DomainDataset, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_npz(data, tmp_path / "data")
    network = {"architecture": "depthwise", "width": 4}
    study = study_from_dict(
        {
            "data": str(tmp_path / "data"),
            "targets": ["domain0"],
            "methods": ["dm", "mmd", "cadm+sgs"],
            "ipc": [2],
            "seeds": [0],
            "distill": {"iterations": 1, "batch_real": 2, "image_lr": 0.1},
            "pretrain": {"experts": 1, "epochs": 1, "network": network},
            "evaluate": {"epochs": 1, "network": network},
        }
    )
    outcome = run_grid(study, tmp_path / "grid", Workers(), lambda report: None)
    assert outcome.failures == {}
    index = read_index(tmp_path / "grid")
    reports = [index.evaluation(entry.file) for entry in index.entries]
    assert ["Depthwise (width 4" in report["description"] for report in reports if report] == [True] * 4


def test_a_class_that_is_no_network_is_refused() -> None:
    with pytest.raises(TypeError, match="'linear' must be a subclass of"):
        register_network("linear", nn.Linear)  # type: ignore[arg-type]
