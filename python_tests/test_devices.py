"""Which device computes where none is named."""

import sys
from types import SimpleNamespace

import pytest
import torch
from command_line import dgdd
from run_commands import ONE_STEP
from toy_data import toy_domains, write_npz

from dgdd_fast import devices
from dgdd_fast.synthetic.distilled_set import DistilledSet


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count, architectures):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        core = SimpleNamespace(build_info=lambda: {"cuda_architectures": architectures})
        monkeypatch.setitem(sys.modules, "dgdd_fast._C", core)

    return pretend


@pytest.mark.parametrize(
    ("count", "architectures", "chosen"),
    [(0, "", ["cpu"]), (0, "90", ["cpu"]), (2, "90", ["cuda:0", "cuda:1"]), (2, "", ["cpu"])],
)
def test_auto_is_a_gpu_only_where_the_operators_are_compiled_for_one(gpus, count, architectures, chosen):
    gpus(count, architectures)
    assert devices.automatic_devices() == chosen
    assert devices.usable_device("auto") == chosen[0]
    assert devices.resolved_device("auto") == torch.device(chosen[0])


def test_a_device_that_is_not_there_is_refused_with_those_that_are(gpus):
    gpus(1, "90")
    assert devices.usable_device("cuda") == "cuda"
    with pytest.raises(ValueError, match=r"no device 'cuda:1'.*give one of cpu, cuda:0"):
        devices.usable_device("cuda:1")


def test_a_run_says_first_where_it_computes_and_its_set_records_what_auto_was(tmp_path, gpus):
    gpus(0, "")
    data = tmp_path / "data"
    data.mkdir()
    write_npz(toy_domains(per_cell=6), data)
    options = ("--data", data, "--target", "domain2", "--threads", 1, *ONE_STEP, "--out", tmp_path / "run")
    assert dgdd("distill", *options).output.startswith("computing on cpu, 1 CPU thread\n")
    assert "device: auto" in (tmp_path / "run" / "config.yaml").read_text()
    assert DistilledSet.load(tmp_path / "run" / "distilled.safetensors").provenance["device"] == "cpu"
