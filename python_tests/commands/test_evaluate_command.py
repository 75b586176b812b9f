"""`dgdd evaluate`."""

import dataclasses
import json
import math

import pytest
import torch
from command_line import dgdd, failure
from run_commands import TINY
from toy_data import toy_domains, write_npz

from dgdd_fast.config.run import read_run_config
from dgdd_fast.synthetic.distilled_set import DistilledSet


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
    arguments = ("--recipe", "ncfm", "--on", "target", "--runs", "1", "--epochs", "1")
    arguments += ("--set=evaluate.network.width=4",)
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


def test_evaluate_only_what_is_asked(run, tmp_path):
    out = tmp_path / "target.json"
    arguments = ("--on", "target", "--no-random", "--runs", "1", "--epochs", "1", "--out", out)
    dgdd("evaluate", run / "distilled.safetensors", *arguments, "--set=evaluate.network.norm=batch")
    results = json.loads(out.read_text())["results"]
    assert results["dm+sgs"]["config"]["network"]["norm"] == "batch"
    assert set(results) == {"dm+sgs"}
    assert set(results["dm+sgs"]["accuracies"]) == {"domain2 (held out)"}


def test_soft_labels_are_a_row_that_says_so_unless_they_are_ignored(run, tmp_path):
    soft = tmp_path / "soft"
    method = ("--method", "rded+soft", "--set=distill.herding_epochs=2")
    data = read_run_config(run / "config.yaml").data
    dgdd("distill", "--data", data, "--target", "domain2", *TINY, *method, "--out", soft)
    arguments = ("evaluate", soft, "--on", "target", "--no-random", "--runs", "1", "--epochs", "2")
    text = " ".join(dgdd(*arguments).output.split())
    assert "RDED+soft labels" in text
    assert "on soft labels" in text
    assert "Soft labels are what a network trained on all real training images" in text
    hard = dgdd(*arguments, "--set=evaluate.hard_labels=true").output
    assert "soft labels" not in hard.replace("soft labels/", "")
    results = json.loads((soft / "evaluation.json").read_text())["results"]
    assert {name: found["soft_labels"] for name, found in results.items()} == {
        "rded+soft": True,
        "rded": False,
    }
    code, message = failure("evaluate", soft, "--scores", "--out", tmp_path / "scores.json")
    assert code == 2
    assert "evaluate.hard_labels=true" in message
    page = tmp_path / "page.html"
    dgdd("report", soft, "--out", page)
    assert "RDED+soft labels" in page.read_text()
    assert "Soft labels are what a network" in page.read_text()
    note = " ".join(dgdd("export", soft, "--out", tmp_path / "png").output.split())
    assert "no room for the set's soft labels" in note


def test_sources_without_a_test_part_are_left_out_with_a_note(tmp_path):
    data = toy_domains(per_cell=6)
    folder = tmp_path / "toy"
    folder.mkdir()
    write_npz(dataclasses.replace(data, is_test=torch.zeros(len(data), dtype=torch.bool)), folder)
    dgdd("distill", "--data", folder, "--target", "domain2", *TINY, "--out", tmp_path / "run")
    arguments = ("evaluate", tmp_path / "run", "--no-random", "--runs", 1, "--epochs", 1)
    text = dgdd(*arguments).output
    assert "note: there is no image to test on of source domains" in text
    results = json.loads((tmp_path / "run" / "evaluation.json").read_text())["results"]
    assert set(results["dm+sgs"]["accuracies"]) == {"domain2 (held out)"}
    code, text = failure(*arguments, "--on", "sources", "--out", tmp_path / "none.json")
    assert code == 2
    assert "has no image to test on of source domains: give the data a test part" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--architecture", "resnet18", "--set=evaluate.network.depth=3"),
            "depth",
        ),
        (
            ("--set=evaluate.network.norm=layer",),
            "norm must be one of 'instance', 'batch', 'none', got 'layer'",
        ),
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


def test_scores_are_those_of_the_trainings_that_stand_beside_them(run, tmp_path):
    out = tmp_path / "scores.json"
    quick = ("--on", "target", "--runs", 2, "--epochs", 1, "--set", "evaluate.network.width=4")
    text = dgdd("evaluate", run, "--scores", *quick, "--out", out).output
    assert "label-robust (LRS)" in text
    assert "DM+SGS, no augmentation" in text
    report = json.loads(out.read_text())
    results = report["results"]
    assert set(results) == {"dm+sgs", "random", "whole", "dm+sgs, no augmentation", "random, no augmentation"}
    assert results["dm+sgs, no augmentation"]["config"]["augment"]["strategy"] == "none"
    assert results["dm+sgs"]["config"]["augment"]["strategy"] != "none"
    test = "domain2 (held out)"
    runs = {name: each["accuracies"][test]["runs"] for name, each in results.items()}
    found = report["scores"]["dm+sgs"][test]
    for network in range(2):
        own, chance, whole, plain, plain_chance = (
            runs[name][network] / 100
            for name in ("dm+sgs", "random", "whole", "dm+sgs, no augmentation", "random, no augmentation")
        )
        alpha = {
            "label_robust_score": (own - chance) / 2 - (whole - own) / 2,
            "augmentation_robust_score": (own - chance) / 2 + (plain - plain_chance) / 2,
        }
        for name, value in alpha.items():
            expected = (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))
            assert found[name]["runs"][network] == pytest.approx(expected)
            assert f"{found[name]['mean']:.3f}" in text
    again = dgdd("evaluate", run, *quick, "--out", out).output
    assert "not trained again" in again
    assert json.loads(out.read_text()) == report


def test_scores_need_random_images_to_compare_with(run, pictures, tmp_path):
    code, text = failure("evaluate", run, "--scores", "--no-random")
    assert (code, "leave --no-random out" in text) == (2, True)
    out = tmp_path / "run"
    dgdd("distill", "--data", pictures, "--target", "domain2", "--method", "random", "--ipc", 2, "--out", out)
    code, text = failure("evaluate", out, "--scores")
    assert (code, "has no score of its own" in text) == (2, True)
