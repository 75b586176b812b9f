"""Commands as torchrun starts them, with two processes: the files of one, and each message once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import dgdd
from processes import SECONDS, start
from run_commands import NARROW, TINY

pytestmark = pytest.mark.slow  # torchrun and each process load torch: a minute a command on a busy core

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dgdd_fast")
ONE_THREAD = ("--threads", 1)


def torchrun(*arguments: object, folder: Path) -> tuple[int, str]:
    """Exit code and output of the command."""
    with start(*arguments, folder=folder, program=TORCHRUN) as run:
        output, _ = run.communicate(timeout=SECONDS)
        return run.returncode, output


def succeed(*arguments: object, folder: Path) -> str:
    code, output = torchrun(*arguments, folder=folder)
    assert code == 0, output
    return output


def test_a_distillation_and_its_evaluation_are_those_of_one_process(pictures: Path, tmp_path: Path) -> None:
    distil = ("distill", "--data", pictures, "--target", "domain2", *TINY, *ONE_THREAD)
    one, shared = tmp_path / "one" / "run", tmp_path / "shared" / "run"
    dgdd(*distil, "--out", one)
    output = succeed(*distil, "--out", shared, folder=tmp_path)
    assert output.count("written: ") == 1
    names = sorted(file.name for file in one.iterdir())
    assert sorted(file.name for file in shared.iterdir()) == names
    for name in names:
        assert (shared / name).read_bytes() == (one / name).read_bytes(), name

    evaluate = ("--runs", 3, "--epochs", 2, *ONE_THREAD)
    dgdd("evaluate", one, *evaluate)
    output = succeed("evaluate", shared, *evaluate, folder=tmp_path)
    assert output.count("written: ") == 1
    found, wanted = (json.loads((run / "evaluation.json").read_text()) for run in (shared, one))
    assert found["results"] == wanted["results"]
    for result in found["results"].values():
        assert [len(accuracies["runs"]) for accuracies in result["accuracies"].values()] == [3, 3]

    code, output = torchrun(*distil, "--out", shared, folder=tmp_path)
    assert code != 0
    assert output.count("go on with it (--resume") == 1


def test_a_pretraining_makes_the_files_of_one_process(pictures: Path, tmp_path: Path) -> None:
    pretrain = ("pretrain", "--data", pictures, "--target", "domain2", "--experts", 2, "--epochs", 1, *NARROW)
    dgdd(*pretrain, *ONE_THREAD, "--out", tmp_path / "one")
    output = succeed(*pretrain, *ONE_THREAD, "--out", tmp_path / "shared", folder=tmp_path)
    assert output.count("written: ") == 1
    names = ["expert_00.safetensors", "expert_01.safetensors", "pool.json"]
    assert sorted(file.name for file in (tmp_path / "shared").iterdir()) == names
    for name in names:
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
