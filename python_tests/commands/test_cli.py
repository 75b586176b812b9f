"""The dgdd command: what it writes, what it says, and how it ends."""

import contextlib
import json
import signal

import numpy as np
import pytest
import torch
from command_line import dgdd, failure
from PIL import Image
from toy_data import toy_domains

from dgdd_fast.config import DistillConfig, NetworkConfig, SurgeryConfig, method_name, with_method
from dgdd_fast.config.run import RunConfig, read_run_config, write_run_config
from dgdd_fast.distillation import DistillationInterrupted
from dgdd_fast.experts import ExpertPool
from dgdd_fast.interruption import Stop
from dgdd_fast.synthetic.distilled_set import DistilledSet

TINY = ["--ipc", "3", "--iterations", "2", "--width", "8", "--batch-real", "4"]
EXPERTS = ["--experts", "2", "--epochs", "2", "--width", "4", "--batch-size", "40"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """An image folder of three domains, 3 classes, 16 px."""
    folder = tmp_path_factory.mktemp("pictures")
    data = toy_domains(per_cell=8)
    for row in range(len(data)):
        cell = folder / data.domain_names[data.domains[row]] / data.class_names[data.labels[row]]
        cell.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[row].permute(1, 2, 0).numpy()).save(cell / f"{row}.png")
    return folder


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    """The folder of a finished run on the pictures."""
    out = tmp_path_factory.mktemp("runs") / "run"
    dgdd("distill", "--data", pictures, "--target", "domain2", *TINY, "--out", out)
    return out


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
        "config.yaml", "checkpoint.safetensors", "distilled.safetensors", "contact_sheet.png",
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


def test_evaluate_prints_and_writes_the_set_beside_random(run):
    text = dgdd("evaluate", run, "--runs", "2", "--epochs", "2").output
    report = json.loads((run / "evaluation.json").read_text())
    assert set(report["results"]) == {"dm+sgs", "random"}
    accuracies = report["results"]["dm+sgs"]["accuracies"]
    assert set(accuracies) == {"domain2 (held out)", "source domains"}
    assert all(len(values["runs"]) == 2 for values in accuracies.values())
    assert "DM+SGS" in text
    assert "Random" in text
    assert "2 epochs" in text


def test_evaluate_across_architectures_and_in_the_inherited_way(run, tmp_path):
    out = tmp_path / "cross.json"
    architectures = ("--architecture", "convnet", "--architecture", "resnet18", "--architecture", "alexnet")
    arguments = ("--recipe", "ncfm", "--on", "target", "--runs", "1", "--epochs", "1", "--width", "4")
    arguments += ("--depth", "2")  # of the ConvNet
    text = dgdd("evaluate", run, *architectures, *arguments, "--out", out).output
    results = json.loads(out.read_text())["results"]
    assert {name for name in results if name.startswith("dm+sgs")} == {
        "dm+sgs, convnet", "dm+sgs, resnet18", "dm+sgs, alexnet",
    }  # fmt: skip
    assert len(results) == 6
    config = results["random, resnet18"]["config"]
    assert (config["network"]["architecture"], config["network"]["width"]) == ("resnet18", 4)
    assert (config["optimizer"], config["cutmix_probability"]) == ("adamw", 0.5)
    for part in (
        "ConvNet (width 4, depth 2, instance norm)",
        "ResNet-18 (width 4, instance norm)",
        "AlexNet",
        "AdamW",
        "in sequence",
        "CutMix in 50%",
    ):
        assert part in text


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


def test_evaluate_only_what_is_asked(run, tmp_path):
    out = tmp_path / "target.json"
    arguments = ("--on", "target", "--no-random", "--runs", "1", "--epochs", "1", "--out", out)
    dgdd("evaluate", run / "distilled.safetensors", *arguments, "--norm", "batch")
    results = json.loads(out.read_text())["results"]
    assert results["dm+sgs"]["config"]["network"]["norm"] == "batch"
    assert set(results) == {"dm+sgs"}
    assert set(results["dm+sgs"]["accuracies"]) == {"domain2 (held out)"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--architecture", "resnet18", "--depth", 3), "--depth is of a convnet, and resnet18 has a depth"),
        (("--norm", "layer"), "norm must be one of 'instance', 'batch', 'none', got 'layer'"),
    ],
)
def test_evaluate_refuses_a_network_there_is_not(run, tmp_path, arguments, message):
    code, text = failure("evaluate", run, *arguments, "--out", tmp_path / "none.json")
    assert code == 2
    assert message in text


def test_a_single_domain_in_styles_is_tested_on_all_others(pictures, tmp_path):
    out = tmp_path / "run"
    single = ["--domain", "domain1", "--target", "none", "--pseudo-domains", 2, "--method", "hdd+sgs"]
    dgdd("distill", "--data", pictures, *single, *TINY, "--out", out)
    distilled = DistilledSet.load(out / "distilled.safetensors")
    assert distilled.domain_names == ("style1", "style2")
    assert distilled.provenance["sources"] == ["domain1"]
    text = dgdd(
        "evaluate", out, "--runs", 1, "--epochs", 2, "--whole", "--generalize", "mixstyle", "--no-random"
    ).output
    results = json.loads((out / "evaluation.json").read_text())["results"]
    assert set(results) == {"hdd+sgs", "whole"}
    tests = {"domain0 (held out)", "domain2 (held out)", "source domains"}
    assert set(results["whole"]["accuracies"]) == tests
    assert "mixstyle" in results["whole"]["description"]
    assert "Whole data" in text
    assert "HDD-DM+SGS" in text


def test_a_choice_of_classes_is_kept_from_the_run_to_its_evaluation(pictures, tmp_path):
    chosen, out = ("--data", pictures, "--classes", "class2, class0"), tmp_path / "run"
    assert "48 images of 16 x 16 px, 2 classes" in dgdd("data", pictures, *chosen[2:]).output
    dgdd("distill", *chosen, "--target", "domain2", *TINY, "--out", out)
    assert read_run_config(out / "config.yaml").classes == ("class2", "class0")
    assert DistilledSet.load(out / "distilled.safetensors").class_names == ("class0", "class2")
    dgdd("distill", "--resume", "--out", out, "--iterations", 3)
    distilled = DistilledSet.load(out / "distilled.safetensors")
    assert (distilled.class_names, len(distilled)) == (("class0", "class2"), 6)
    code, text = failure("distill", "--resume", "--out", out, "--classes", "class0,class1")
    assert code == 2
    assert "data" in text
    assert read_run_config(out / "config.yaml").classes == ("class2", "class0")
    evaluated = dgdd("evaluate", out, "--runs", 1, "--epochs", 1, "--on", "target").output
    assert "domain2 (held out)" in evaluated
    code, text = failure("data", pictures, "--classes", "class0,class7")
    assert code == 2
    assert "no class 'class7'; it has class0, class1, class2" in text


def test_experts_of_some_classes_are_looked_into_on_those(pictures, tmp_path):
    chosen = ("--data", pictures, "--classes", "class0,class2", "--target", "domain2")
    dgdd("pretrain", *chosen, *EXPERTS, "--out", tmp_path)
    assert ExpertPool.load(tmp_path).class_names == ("class0", "class2")
    dgdd("channels", tmp_path, "--data", pictures)
    assert (tmp_path / "channels.json").exists()


def test_export_writes_each_image_once(run, tmp_path):
    dgdd("export", run, "--out", tmp_path / "png")
    distilled = DistilledSet.load(run / "distilled.safetensors")
    for row, image in enumerate(distilled.pixels()):
        (file,) = (tmp_path / "png" / "images").glob(f"domain?/class?/{row:03d}.png")
        assert np.array_equal(np.array(Image.open(file)), image.permute(1, 2, 0).numpy())
    assert (tmp_path / "png" / "contact_sheet.png").exists()
    code, message = failure("export", run, "--out", tmp_path / "png")
    assert code == 2
    assert "not an empty folder" in message


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
        (["distill", "--target", "x", "--method", "dm", "--alpha", "2"], "--alpha and --beta belong to SGS"),
        (["distill", "--target", "x", "--losses", "adm"], "--losses belongs to cadm, but the method"),
        (["distill", "--target", "x", "--method", "cadm", "--losses", "adm,con"], "adm,reg,cons, got 'con'"),
        (["distill", "--target", "x", "--method", "cadm", "--losses", ""], "'--losses': it is empty"),
        (["distill", "--target", "x", "--init", "zeros"], "distill.init must be one of"),
        (["distill", "--resume"], "--out FOLDER"),
        (["distill", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["distill", "--ipc", "many"], "--ipc"),
        (["evaluate", "nowhere.safetensors"], "nowhere.safetensors"),
        (["evaluate", "set", "--recipe", "best"], "--recipe must be one of dm, ncfm"),
        (["pretrain", "--data", "nowhere"], "nowhere"),
        (["pretrain", "--data", "embedded-digits"], "choose the domain to hold out"),
        (["pretrain", "--data", "embedded-digits", "--target", "plain", "--width", "0"], "--width"),
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
    arguments = ["--data", pictures, "--target", "domain2", *TINY, "--iterations", "9", "--image-lr", "1e38"]
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


def test_pretrain_writes_experts_that_know_their_data(pictures, tmp_path):
    arguments = ("--data", pictures, "--target", "domain2", *EXPERTS)
    text = dgdd("pretrain", *arguments, "--reversal", "0.5", "--out", tmp_path).output
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
    arguments += ("--iterations", 2, "--batch-real", 4, "--image-lr", 0.01)
    code, text = failure("distill", *arguments, "--out", tmp_path / "none")
    assert code == 2
    assert "dgdd pretrain" in text
    dgdd("distill", *arguments, "--experts", tmp_path / "experts", "--out", tmp_path / "run")
    dgdd(
        *("distill", "--config", tmp_path / "run" / "config.yaml", "--iterations", 0),
        *("--losses", "reg,cons", "--out", tmp_path / "ablation"),
    )
    ablation = read_run_config(tmp_path / "ablation" / "config.yaml").distill.experts
    assert ablation is not None
    assert (ablation.matching, ablation.regularisation, ablation.consistency) == ("plain", "masked", True)
    distilled = DistilledSet.load(tmp_path / "run" / "distilled.safetensors")
    assert distilled.factor == 2
    assert (distilled.ipc, len(distilled)) == (2, 3 * 2 * 4)
    assert distilled.config["masks"]["share"] == 0.33
    dgdd("export", tmp_path / "run", "--out", tmp_path / "png")
    assert len(list((tmp_path / "png" / "images").glob("*/*/*.png"))) == 24
    text = dgdd("channels", tmp_path / "experts", tmp_path / "run", "--data", pictures).output
    assert "unstable channels" in text
    assert all(name in text for name in ("discriminators", "linear probe", "uniformly"))
    text = dgdd("evaluate", tmp_path / "run", "--runs", "1", "--epochs", "1", "--width", "4").output
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
