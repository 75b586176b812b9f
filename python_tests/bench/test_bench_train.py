"""The benchmark of training against plain PyTorch."""

import json
import sys
from pathlib import Path

import bench_train
import pytest
import torch
from plain_training import CLASSES, DOMAINS, OPERATIONS, Case, PlainNetwork, augmented

from dgdd_fast.config import NetworkConfig
from dgdd_fast.experts.pool import Expert
from dgdd_fast.networks import build_network


def test_quick_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = tmp_path / "table.json"
    arguments = ["--quick", "--threads", "1", "--turns", "2", "--epochs", "1", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["bench_train.py", *arguments])
    bench_train.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["case"]["task"] for row in rows] == ["evaluation", "pretraining"]
    for row in rows:
        assert set(row["times"]) == {"dgdd_fast", "plain"}
        assert 0 < row["least"]["dgdd_fast"] <= row["times"]["dgdd_fast"]["p80"]
    assert "pretraining resnet18" in capsys.readouterr().out


@pytest.mark.parametrize("architecture", ["convnet", "resnet18"])
def test_plain_networks_compute_what_the_packages_do(architecture: str) -> None:
    case = Case("pretraining", architecture, 32, 8, 4)
    torch.manual_seed(0)
    plain = PlainNetwork(case)
    settings = NetworkConfig(architecture=architecture, width=8)
    expert = Expert(CLASSES, DOMAINS, (32, 32), settings, 0.25)
    of_network = [*expert.network.stem.parameters(), *expert.network.stages.parameters()]
    ours = [*of_network, *expert.network.classifier.parameters(), *expert.discriminators.parameters()]
    with torch.no_grad():
        for parameter, own in zip(plain.parameters(), ours, strict=True):
            own.copy_(parameter)
        images = torch.randn(3, 3, 32, 32)
        classes, domains = expert(images)
        for found, wanted in zip([classes, *domains], plain(images), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_plain_augmentation_changes_each_image_by_itself(operation: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 16, 16).expand(6, -1, -1, -1).contiguous()
    changed = augmented(images, operation)
    assert changed.shape == images.shape
    assert not any(torch.equal(changed[0], other) for other in changed[1:])


def test_operations_of_an_epoch() -> None:
    """Those of a ConvNet, by hand."""
    case = Case("evaluation", "convnet", 32, 128, 10)
    first, second, third = (2 * 9 * 128 * inputs * side**2 for inputs, side in ((3, 32), (128, 16), (128, 8)))
    assert bench_train.gigaflops(case) == pytest.approx(10e-9 * (2 * first + 3 * second + 3 * third))
    own = build_network(10, (32, 32), case.network)
    assert sum(p.numel() for p in own.parameters()) == sum(p.numel() for p in PlainNetwork(case).parameters())
