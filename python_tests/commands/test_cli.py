"""The dgdd command: what it writes, what it says, and how it ends."""

import json
import shutil

import numpy as np
import pytest
import torch
from command_line import dgdd, failure
from PIL import Image
from run_commands import TINY

from dgdd_fast.config import DistillConfig, NetworkConfig, SurgeryConfig, method_name, with_method
from dgdd_fast.config.run import RunConfig, read_run_config, write_run_config
from dgdd_fast.distillation import DistillationInterrupted
from dgdd_fast.synthetic.distilled_set import DistilledSet


def test_help_lists_every_command_with_an_example():
    text = dgdd("--help").output
    for command in ("demo", "pretrain", "distill", "evaluate", "export", "data", "doctor"):
        assert f"dgdd {command}" in text
        assert dgdd(command, "--help").output
    assert "dgdd distill --resume --out" in dgdd("distill", "--help").output


def test_data_counts_images(pictures):
    text = dgdd("data", pictures).output
    assert "72 images of 16 x 16 px, 3 classes, 3 domains" in text
    assert "class1" in text


def test_doctor_finds_the_operators_right():
    text = dgdd("doctor").output
    assert "operators on cpu: good" in text
    assert torch.__version__ in text


def test_doctor_shows_which_build_of_torch_is_imported(monkeypatch):
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.99.0+build7"))
    assert "2.99.0+build7" in dgdd("doctor").output


def test_a_run_folder_holds_settings_checkpoint_set_and_sheet(run, pictures):
    assert {file.name for file in run.iterdir()} == {
        "config.yaml", "checkpoint.safetensors", "distilled.safetensors", "contact_sheet.png", "losses.csv",
    }  # fmt: skip
    settings = read_run_config(run / "config.yaml")
    assert settings.data == str(pictures)
    assert settings.target == "domain2"
    assert settings.distill.surgery == SurgeryConfig()
    distilled = DistilledSet.load(run / "distilled.safetensors")
    assert len(distilled) == 9
    assert distilled.domain_names == ("domain0", "domain1")
    assert distilled.provenance["target"] == "domain2"


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(run, pictures, tmp_path):
    dgdd("distill", "--resume", "--out", run, "--iterations", "4")
    dgdd("distill", "--config", run / "config.yaml", "--out", tmp_path / "whole")
    resumed, whole = (DistilledSet.load(out / "distilled.safetensors") for out in (run, tmp_path / "whole"))
    assert torch.equal(resumed.images, whole.images)
    assert resumed.provenance["iterations"] == 4


def test_any_setting_can_be_set_by_its_name(pictures, run, tmp_path):
    out = tmp_path / "run"
    assigned = ["--set", "distill.network.norm=none", "--set", "distill.surgery.eps=1e-9"]
    dgdd("distill", "--data", pictures, "--target", "domain2", *TINY, *assigned, "--out", out)
    settings = read_run_config(out / "config.yaml").distill
    assert (settings.network.norm, settings.surgery.eps) == ("none", 1e-9)
    report = tmp_path / "evaluation.json"
    assigned = ["--set", "evaluate.network.width=4", "--set", "evaluate.epochs=2"]
    dgdd("evaluate", run, "--runs", 1, *assigned, "--no-random", "--out", report)
    description = json.loads(report.read_text())["results"]["dm+sgs"]["description"]
    assert "width 4" in description
    assert "for 2 epochs" in description
    for arguments, message in (
        (["--set", "distill.surgry.eps=1"], "did you mean distill.surgery.eps"),
        (["--set", "distill.surgery.eps"], "--set takes NAME=VALUE"),
        (["--set", "distill.surgery.eps=-1"], "distill.surgery.eps must be finite and not negative, got -1"),
    ):
        code, text = failure("distill", "--data", pictures, "--target", "domain2", *arguments)
        assert code == 2
        assert message in text


def test_export_writes_each_image_once(run, tmp_path):
    dgdd("export", run, "--out", tmp_path / "png")
    distilled = DistilledSet.load(run / "distilled.safetensors")
    for row, image in enumerate(distilled.pixels()):
        (file,) = (tmp_path / "png" / "images").glob(f"domain?/class?/{row:03d}.png")
        assert np.array_equal(np.array(Image.open(file)), image.permute(1, 2, 0).numpy())
    assert (tmp_path / "png" / "contact_sheet.png").exists()
    code, message = failure("export", run, "--out", tmp_path / "png")
    assert code == 2
    assert "holds contact_sheet.png already" in message


def test_embedded_digits_from_distillation_to_accuracy(tmp_path):
    dgdd(
        "distill",
        "--target",
        "street",
        "--method",
        "dm",
        "--resolution",
        "16",
        *TINY,
        "--out",
        tmp_path / "run",
    )
    dgdd("evaluate", tmp_path / "run", "--runs", "1", "--epochs", "1")
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert 0 <= report["results"]["dm"]["accuracies"]["street (held out)"]["mean"] <= 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "nowhere"], "nowhere"),
        (["distill", "--data", "nowhere", "--target", "x"], "nowhere"),
        (["distill", "--target", "x", "--method", "ddm"], "unknown method 'ddm'"),
        (
            ["distill", "--target", "x", "--method", "dm", "--set=distill.surgery.alpha=2"],
            "--set makes the method dm+sgs, and it is dm: for dm+sgs give --method dm+sgs",
        ),
        (["distill", "--target", "x", "--set=distill.objective=hdd"], "--set makes the method hdd+sgs"),
        (["distill", "--target", "x", "--method", "cadm", "--set", ""], "'--set': it is empty"),
        (["distill", "--target", "x", "--set=distill.init=zeros"], "distill.init must be one of"),
        (["distill", "--resume"], "--out FOLDER"),
        (["distill", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["distill", "--ipc", "many"], "--ipc"),
        (["evaluate", "nowhere.safetensors"], "nowhere.safetensors"),
        (["evaluate", "set", "--recipe", "best"], "--recipe must be one of dm, ncfm"),
        (["pretrain", "--data", "nowhere"], "nowhere"),
        (["pretrain", "--data", "embedded-digits"], "choose the domain to hold out"),
        (
            ["pretrain", "--data", "embedded-digits", "--target", "plain", "--set=pretrain.network.width=0"],
            "pretrain.network.width must be",
        ),
    ],
)  # fmt: skip
def test_usage_errors_end_with_2_and_say_what_is_wrong(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text = failure(*arguments)
    assert code == 2
    assert message in text
    assert list(tmp_path.iterdir()) == []


def test_the_domain_to_hold_out_must_be_chosen_and_known(pictures, tmp_path):
    code, text = failure("distill", "--data", pictures, "--out", tmp_path / "run")
    assert code == 2
    assert "--target: domain0, domain1, domain2; or --target none" in text
    code, text = failure("distill", "--data", pictures, "--target", "domain9", "--out", tmp_path / "run")
    assert code == 2
    assert "domain0, domain1, domain2" in text


@pytest.mark.parametrize("command", ["distill", "pretrain"])
def test_a_domain_called_none_is_not_mistaken_for_holding_none_out(command, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data" / "domain0").rename(tmp_path / "data" / "none")
    code, text = failure(command, "--data", tmp_path / "data", "--target", "none", "--out", tmp_path / "out")
    assert code == 2
    assert "a domain of the data is called none" in text


def test_all_domains_can_be_distilled(pictures, tmp_path):
    dgdd("distill", "--data", pictures, "--target", "none", *TINY, "--out", tmp_path)
    assert len(DistilledSet.load(tmp_path / "distilled.safetensors").domain_names) == 3
    code, text = failure("evaluate", tmp_path, "--on", "target")
    assert code == 2
    assert "no domain was held out" in text


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(run, pictures):
    before = (run / "config.yaml").read_text()
    code, text = failure("distill", "--data", pictures, "--target", "domain2", "--out", run)
    assert code == 2
    assert "--resume" in text
    code, text = failure("distill", "--resume", "--out", run, "--seed", "5")
    assert code == 2
    assert "seed" in text
    assert (run / "config.yaml").read_text() == before


def test_a_diverged_run_ends_with_1_and_keeps_its_checkpoint(pictures, tmp_path):
    arguments = ["--data", pictures, "--target", "domain2", *TINY, "--iterations", 20]
    arguments += ["--set=distill.image_lr=1e6"]
    arguments += ["--set", "distill.network.norm=none"]  # a norm would bound the features
    code, text = failure("distill", *arguments, "--out", tmp_path)
    assert code == 1
    assert "NaN or Inf" in text
    assert (tmp_path / "checkpoint.safetensors").exists()


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(pictures, tmp_path, monkeypatch):
    def interrupted(*_, run_folder, **__):
        (run_folder / "checkpoint.safetensors").touch()
        raise DistillationInterrupted("stopped after iteration 7 of 9; resume from here")

    monkeypatch.setattr("dgdd_fast.distillation.distill", interrupted)
    code, text = failure("distill", "--data", pictures, "--target", "domain2", "--out", tmp_path / "run")
    assert code == 130
    assert "stopped after iteration 7 of 9" in text
    assert f"dgdd distill --resume --out {tmp_path / 'run'}" in text


def test_debug_shows_where_an_error_comes_from():
    result = dgdd("--debug", "data", "nowhere", ok=False)
    assert isinstance(result.exception, ValueError)


def test_run_config_comes_back_from_its_file(tmp_path):
    run = RunConfig(
        data="Bilder/größer",
        target="no",
        threads=3,
        distill=DistillConfig(surgery=SurgeryConfig(eps=1e-15), network=NetworkConfig(depth=2)),
    )
    write_run_config(tmp_path / "run.yaml", run)
    assert read_run_config(tmp_path / "run.yaml") == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distil: {}", "unknown setting 'distil'; known settings: data, target"),
        ("distill: {ipcs: 3}", "unknown setting 'ipcs' in distill"),
        ("distill: {ipc: three}", "distill.ipc must be int"),
        ("distill: [", "run.yaml"),
        ("- a", "must be a mapping"),
    ],
)
def test_a_wrong_run_config_is_named(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"run\.yaml") as error:
        read_run_config(tmp_path / "run.yaml")
    assert message in str(error.value)


def test_numbers_in_a_run_config_may_leave_out_the_point(tmp_path):
    (tmp_path / "run.yaml").write_text("distill: {image_lr: 1e-2, ipc: 4, surgery: {alpha: 2}}")
    settings = read_run_config(tmp_path / "run.yaml").distill
    assert settings.image_lr == 0.01
    assert settings.surgery == SurgeryConfig(alpha=2.0)


def test_a_method_is_an_objective_and_modifiers():
    assert method_name(with_method(DistillConfig(), "dm")) == "dm"
    assert method_name(with_method(DistillConfig(), "dm+sgs")) == "dm+sgs"
    kept = SurgeryConfig(alpha=5.0)
    assert with_method(DistillConfig(surgery=kept), "dm+sgs").surgery == kept
    assert with_method(DistillConfig(surgery=kept), "dm").surgery is None
    for method in ("sgs", "dm+", "dm+sgs+sgs", ""):
        with pytest.raises(ValueError, match="unknown method"):
            with_method(DistillConfig(), method)
