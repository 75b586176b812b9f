"""What cannot fit is refused before it is allocated, or ends in one message; absurd numbers are refused."""

from __future__ import annotations

import dataclasses
import math
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import failure
from small_runs import SMALL, toy_set
from toy_data import toy_domains

from dgdd_fast import distillation, memory
from dgdd_fast.commands import app
from dgdd_fast.config import EvaluateConfig, NetworkConfig, PretrainConfig, SurgeryConfig, checked
from dgdd_fast.distillation import distill
from dgdd_fast.evaluation import evaluate
from dgdd_fast.experts.pretrain import pretrain
from dgdd_fast.memory import available, check_fits, readable
from dgdd_fast.networks import build_network, network_bytes

HUGE = NetworkConfig(width=300_000)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (24_576_000_000, "24.6 GB"), (3.6e17, "360 PB"), (1e21, "1e+03 EB")],
)
def test_bytes_are_readable(count: float, text: str) -> None:
    assert readable(count) == text


def test_what_fits_passes_and_what_does_not_is_told_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda _: 1000)
    check_fits("a thing", 1000)
    with pytest.raises(ValueError, match=r"a thing would take 1\.5 kB of memory or more, and there are 1 kB"):
        check_fits("a thing", 1500)
    monkeypatch.setattr(memory, "available", lambda _: None)
    check_fits("a thing", 10**30)


def test_a_limit_of_the_address_space_counts() -> None:
    code = "import torch; from dgdd_fast.memory import available; print(available(torch.device('cpu')))"
    limit = 8 * 10**9

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=limited, capture_output=True, text=True, check=True
    )
    assert 0 < int(done.stdout) < limit
    there = available(torch.device("cpu"))
    assert there is None or there > 0


def test_a_network_s_bytes_are_those_of_its_parameters() -> None:
    config = NetworkConfig(width=8, depth=2)
    network = build_network(3, (16, 16), config)
    assert network_bytes(3, (16, 16), config) == 4 * sum(part.numel() for part in network.parameters())


def test_images_or_networks_that_cannot_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_domains()
    monkeypatch.setattr(memory, "available", lambda _: 10**10)
    many = dataclasses.replace(SMALL, ipc=1_000_000)
    with pytest.raises(
        ValueError, match=r"1000000 images per class of 16 x 16 px for 3 classes would take .* GB"
    ):
        distill(data, many, run_folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="a network of width 300000 would take"):
        distill(data, dataclasses.replace(SMALL, network=HUGE))
    with pytest.raises(ValueError, match="training a network of width 300000 would take"):
        evaluate(toy_set(data), {"all": data}, EvaluateConfig(runs=1, network=HUGE))
    experts = PretrainConfig(network=dataclasses.replace(HUGE, architecture="resnet18"))
    with pytest.raises(ValueError, match="training an expert of width 300000 would take"):
        pretrain(data, experts, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "there is not enough memory: use smaller images"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0"),
            "for 20.00 GiB more",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 24576000000 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "for 24.6 GB more",
        ),
        (
            RuntimeError(
                'torch_call_dispatcher( "aten::new_empty", "", stack.data()) API call failed at ops.h'
            ),
            "there is not enough memory: use smaller images",
        ),
    ],
    ids=["python", "cuda", "cpu", "operator"],
)
def test_an_allocation_that_fails_ends_in_one_message(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(distillation, "distill", fails)
    code, text = failure("distill", "--target", "street", "--resolution", 16, "--out", tmp_path / "run")
    assert code == app.FAILURE
    assert message in text
    assert text.count("error:") == 1


def test_an_error_of_another_kind_is_no_lack_of_memory() -> None:
    assert app._exit_code(RuntimeError("shapes differ")) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SurgeryConfig(alpha=1e9), r"alpha must be at most 1000000, got 1000000000\.0"),
        (SurgeryConfig(beta=-1e9), "beta must be at least -1000000"),
        (SurgeryConfig(alpha=math.inf), "alpha must be finite"),
        (dataclasses.replace(SMALL, image_lr=1e38), "image_lr must be at most 1000000"),
        (EvaluateConfig(runs=10**7), "runs must be at most 10000"),
        (EvaluateConfig(epochs=10**12), "epochs must be at most 1000000000"),
        (EvaluateConfig(learning_rate=1e7), "learning_rate must be at most 1000000"),
        (PretrainConfig(experts=10**5), "experts must be at most 10000"),
        (PretrainConfig(domain_weight=1e7), "domain_weight must be at most 1000000"),
    ],
)
def test_numbers_beyond_reason_are_refused_by_name(config: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(config)


@pytest.mark.parametrize(
    "arguments",
    [
        ("distill", "--target", "street", "--threads", 100_000),
        ("evaluate", "none", "--threads", 100_000),
        ("grid", "sgs-table-2", "--scale", "small", "--threads", 100_000),
        ("grid", "sgs-table-2", "--scale", "small", "--workers", 100_000),
        ("tune", "sgs-table-2", "--scale", "small", "--workers", 100_000),
    ],
)
def test_crews_beyond_reason_are_refused(
    arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = failure(*arguments)
    assert code == 2
    assert "must be at most" in text
    assert list(tmp_path.iterdir()) == []
