"""`dgdd pretrain`, and the commands that take its experts."""

import contextlib
import json
import shutil
import signal

from command_line import dgdd, failure
from run_commands import NARROW

from dgdd_fast.config.run import read_run_config
from dgdd_fast.experts import ExpertPool
from dgdd_fast.interruption import Stop
from dgdd_fast.synthetic.distilled_set import DistilledSet

EXPERTS = ("--experts", 2, "--epochs", 2, *NARROW)


def test_experts_of_some_classes_are_looked_into_on_those(pictures, tmp_path):
    chosen = ("--data", pictures, "--classes", "class0,class2", "--target", "domain2")
    dgdd("pretrain", *chosen, *EXPERTS, "--out", tmp_path)
    assert ExpertPool.load(tmp_path).class_names == ("class0", "class2")
    dgdd("channels", tmp_path, "--data", pictures)
    assert (tmp_path / "channels.json").exists()


def test_no_set_stands_for_another_that_is_called_alike(pictures, run, tmp_path):
    dgdd("pretrain", "--data", pictures, "--target", "domain2", *EXPERTS, "--out", tmp_path / "experts")
    other, real = tmp_path / "other" / run.name, tmp_path / "real"
    shutil.copytree(run, other)
    shutil.copytree(run, real)
    dgdd("channels", tmp_path / "experts", run / "distilled.safetensors", other, real, "--data", pictures)
    report = json.loads((tmp_path / "experts" / "channels.json").read_text())
    sets = {str(folder / "distilled.safetensors") for folder in (run, other, real)}
    assert set(report["stages"][0]["unstable"]) == {"real", *sets}
    dgdd("channels", tmp_path / "experts", run / "distilled.safetensors", "--data", pictures)
    report = json.loads((tmp_path / "experts" / "channels.json").read_text())
    assert set(report["stages"][0]["unstable"]) == {"real", run.name}


def test_pretrain_writes_experts_that_know_their_data(pictures, tmp_path):
    arguments = ("--data", pictures, "--target", "domain2", *EXPERTS)
    text = dgdd("pretrain", *arguments, "--set=pretrain.reversal_weight=0.5", "--out", tmp_path).output
    assert "2 experts on 36 images of 16 x 16 px, 3 classes, domains domain0, domain1" in text
    pool = ExpertPool.load(tmp_path)
    assert pool.domain_names == ("domain0", "domain1")
    assert (pool.config.reversal_weight, pool.config.network.width) == (0.5, 4)
    code, text = failure("pretrain", *arguments, "--out", tmp_path)
    assert code == 2
    assert "--resume" in text


def test_pretrain_takes_settings_from_a_file_and_options_override_it(pictures, tmp_path):
    (tmp_path / "fast.yaml").write_text(
        "{experts: 1, epochs: 1, batch_size: 40, momentum: 0.5, learning_rate: 1e-3, network: {width: 4}}"
    )
    arguments = ("pretrain", "--data", pictures, "--target", "domain2")
    named = ("learning_rate=0.02", "cutmix_probability=0", "discriminators=joint")
    sets = [part for name in named for part in ("--set", f"pretrain.{name}")]
    given = ("--config", tmp_path / "fast.yaml", *sets)
    dgdd(*arguments, *given, "--out", tmp_path / "first")
    config = ExpertPool.load(tmp_path / "first").config
    assert (config.experts, config.momentum, config.network.width) == (1, 0.5, 4)
    assert (config.learning_rate, config.cutmix_probability, config.discriminators) == (0.02, 0.0, "joint")
    dgdd(*arguments, "--config", tmp_path / "first" / "pool.json", "--out", tmp_path / "again")
    for name in ("expert_00.safetensors", "pool.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    (tmp_path / "fast.yaml").write_text("{epoch: 1}")
    code, text = failure(*arguments, *given, "--out", tmp_path / "none")
    assert code == 2
    assert "fast.yaml: unknown setting 'epoch'" in text


def test_experts_are_what_cadm_distils_with(pictures, tmp_path):
    dgdd("pretrain", "--data", pictures, "--target", "domain2", *EXPERTS, "--out", tmp_path / "experts")
    arguments = ("--data", pictures, "--target", "domain2", "--method", "cadm+sgs", "--ipc", 2)
    arguments += ("--iterations", 2, "--set=distill.batch_real=4", "--set=distill.image_lr=0.01")
    code, text = failure("distill", *arguments, "--out", tmp_path / "none")
    assert code == 2
    assert "dgdd pretrain" in text
    dgdd("distill", *arguments, "--experts", tmp_path / "experts", "--out", tmp_path / "run")
    dgdd(
        *("distill", "--config", tmp_path / "run" / "config.yaml", "--iterations", 0),
        *("--set=distill.experts.matching=plain", "--out", tmp_path / "ablation"),
    )
    ablation = read_run_config(tmp_path / "ablation" / "config.yaml").distill.experts
    assert ablation is not None
    assert (ablation.matching, ablation.regularisation) == ("plain", None)
    distilled = DistilledSet.load(tmp_path / "run" / "distilled.safetensors")
    assert distilled.factor == 2
    assert (distilled.ipc, len(distilled)) == (2, 3 * 2 * 4)
    assert distilled.config["masks"]["share"] == 0.33
    dgdd("export", tmp_path / "run", "--out", tmp_path / "png")
    assert len(list((tmp_path / "png" / "images").glob("*/*/*.png"))) == 24
    text = dgdd("channels", tmp_path / "experts", tmp_path / "run", "--data", pictures).output
    assert "unstable channels" in text
    assert all(name in text for name in ("discriminators", "linear probe", "uniformly"))
    narrow = "--set=evaluate.network.width=4"
    text = dgdd("evaluate", tmp_path / "run", "--runs", 1, "--epochs", 1, narrow).output
    results = json.loads((tmp_path / "run" / "evaluation.json").read_text())["results"]
    assert set(results) == {"cadm+sgs", "random", "random+mosaics"}
    assert "Random+mosaics" in text
    report = json.loads((tmp_path / "experts" / "channels.json").read_text())
    assert set(report["stages"][3]["unstable"]) == {"real", "run"}
    assert len(report["experts"]) == 2
    code, text = failure(
        "distill", "--data", pictures, "--target", "domain2", "--experts", tmp_path / "experts"
    )
    assert code == 2
    assert "--experts belongs to mmd and cadm" in text


def test_pretrain_goes_on_after_ctrl_c(pictures, tmp_path, monkeypatch):
    arguments = ("pretrain", "--data", pictures, "--target", "domain2", *EXPERTS)
    monkeypatch.setattr("dgdd_fast.experts.pretrain.stop_at_whole_steps", stopped_at_once)
    code, text = failure(*arguments, "--out", tmp_path / "run")
    assert code == 130
    assert "stopped after 1 of 2 epochs of expert 1 of 2" in text
    assert f"the same command with --resume --out {tmp_path / 'run'}" in text
    monkeypatch.undo()
    dgdd(*arguments, "--out", tmp_path / "run", "--resume")
    dgdd(*arguments, "--out", tmp_path / "whole")
    for name in ("expert_00.safetensors", "expert_01.safetensors", "pool.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@contextlib.contextmanager
def stopped_at_once():
    stop = Stop()
    stop.number = signal.SIGINT
    yield stop
