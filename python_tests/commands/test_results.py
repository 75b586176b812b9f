"""What `dgdd evaluate` keeps: results as they come, whatever becomes of the output, settings or data."""

import dataclasses
import io
import json
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from command_line import dgdd, failure
from PIL import Image, ImageOps
from processes import SECONDS, start
from run_commands import NARROW, TINY
from small_runs import SMALL
from toy_data import toy_domains

from dgdd_fast import evaluation
from dgdd_fast.commands import output
from dgdd_fast.commands.results import ResultsFile
from dgdd_fast.config import with_method
from dgdd_fast.data import load_dataset
from dgdd_fast.data.record import ImageRecord
from dgdd_fast.distillation import distill
from dgdd_fast.interruption import Interrupted
from dgdd_fast.synthetic.distilled_set import DistilledSet
from dgdd_fast.training import resolve_training

QUICK = ("--epochs", 1, "--no-random")


def save(images, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images.permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def pictures(tmp_path):
    """An image folder of three domains, 3 classes, 16 px."""
    data = toy_domains(per_cell=8)
    for row in range(len(data)):
        domain, label = data.domain_names[data.domains[row]], data.class_names[data.labels[row]]
        save(data.images[row], tmp_path / "pictures" / domain / label / f"{row}.png")
    return tmp_path / "pictures"


@pytest.fixture
def run(pictures, tmp_path):
    dgdd("distill", "--data", pictures, "--target", "domain2", *TINY, "--out", tmp_path / "run")
    return tmp_path / "run"


def results(run):
    return json.loads((run / "evaluation.json").read_text())["results"]


# --- results as they come ---


def test_an_interrupted_evaluation_goes_on_where_it_was(run, monkeypatch):
    train, trained = evaluation.train_networks, []

    def interrupted(*arguments, **options):
        if len(trained) == 3:
            raise Interrupted(number=signal.SIGTERM)
        trained.append(arguments)
        return train(*arguments, **options)

    monkeypatch.setattr(evaluation, "train_networks", interrupted)
    code, text = failure("evaluate", run, "--runs", 2, "--epochs", 1)
    assert (code, "interrupted" in text) == (143, True)
    kept = results(run)
    assert [len(kept[name]["accuracies"]["source domains"]["runs"]) for name in kept] == [2, 1]
    monkeypatch.setattr(evaluation, "train_networks", lambda *a, **o: trained.append(a) or train(*a, **o))
    text = dgdd("evaluate", run, "--runs", 2, "--epochs", 1).output
    assert len(trained) == 4
    assert "dm+sgs stands in" in text
    whole = run.parent / "whole.json"
    dgdd("evaluate", run, "--runs", 2, "--epochs", 1, "--out", whole)
    assert json.loads(whole.read_text())["results"] == results(run)


def test_results_of_other_settings_are_not_replaced_unasked(run):
    dgdd("evaluate", run, *QUICK, "--runs", 1)
    before = (run / "evaluation.json").read_bytes()
    code, text = failure("evaluate", run, "--epochs", 2, "--no-random", "--runs", 1)
    assert code == 2
    assert "dm+sgs with epochs = 1, not 2" in text
    assert "--overwrite" in text
    assert (run / "evaluation.json").read_bytes() == before
    dgdd("evaluate", run, "--epochs", 2, "--no-random", "--runs", 1, "--overwrite")
    assert results(run)["dm+sgs"]["config"]["epochs"] == 2
    dgdd("evaluate", run, "--epochs", 2, "--runs", 1)  # what is new joins what is there
    assert set(results(run)) == {"dm+sgs", "random"}


@pytest.mark.parametrize("content", ["", "{}", "images", '{"results": {"dm+sgs": {}}}'])
def test_a_file_of_something_else_is_not_replaced(run, content):
    (run / "other.json").write_text(content)
    code, text = failure("evaluate", run, *QUICK, "--runs", 1, "--out", run / "other.json")
    assert code == 2
    assert "something else, or results of a version before" in text
    assert (run / "other.json").read_text() == content


def test_results_of_another_set_are_not_replaced(run):
    dgdd("evaluate", run, *QUICK, "--runs", 1)
    dgdd("distill", "--resume", "--out", run, "--iterations", 3)
    code, text = failure("evaluate", run, *QUICK, "--runs", 1)
    assert (code, "results of another set" in text) == (2, True)


def test_networks_trained_on_other_real_images_are_not_joined(run, pictures):
    dgdd("evaluate", run, *QUICK, "--whole", "--runs", 1)
    learnt = load_dataset(pictures).leave_out("domain2").sources_train.item_names[0]
    (pictures / learnt).unlink()
    code, text = failure("evaluate", run, *QUICK, "--whole", "--runs", 2)
    assert (code, "results of other real images to train on" in text) == (2, True)
    assert len(results(run)["whole"]["accuracies"]["source domains"]["runs"]) == 1
    report = json.loads((run / "evaluation.json").read_text())
    del report["sources"]  # as earlier versions wrote it
    (run / "evaluation.json").write_text(json.dumps(report))
    dgdd("evaluate", run, *QUICK, "--runs", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--architecture", "convnet", "--architecture", "vgg11"), "VGG-11 halves an image five times"),
        (("--set=evaluate.network.depth=9",), "depth"),
        (("--generalize", "mixstyle", "--set=evaluate.network.norm=layer"), "norm must be"),
        (("--out", "/proc/none/evaluation.json"), "/proc/none"),
        (("--out", "."), "is a folder"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_epoch(run, arguments, message, monkeypatch):
    monkeypatch.setattr(evaluation, "train_networks", lambda *_, **__: pytest.fail("it trains"))
    code, text = failure("evaluate", run, *QUICK, *arguments)
    assert (code, message in text) == (2, True), text


def test_a_full_disk_loses_the_file_but_not_the_table(run, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dgdd_fast.commands.results.write_atomically", full)
    code, text = failure("evaluate", run, *QUICK, "--runs", 1)
    assert code == 2
    assert "DM+SGS" in text
    assert "could not be written (No space left on device)" in text


def evaluation_of(accuracies, epochs=1):
    config = evaluation.EvaluateConfig(runs=len(accuracies), epochs=epochs)
    return evaluation.Evaluation({"all": accuracies}, resolve_training(config, (16, 16), True))


@pytest.fixture
def results_file(tmp_path):
    """A results file as a process opens it, again and again."""
    data, path = toy_domains(per_cell=2), tmp_path / "set.safetensors"
    distilled = distill(data, with_method(SMALL, "random"))
    distilled.save(path)
    return lambda: ResultsFile(tmp_path / "results.json", path, distilled, {"all": data}, data, False)


def test_two_evaluations_at_the_same_time_lose_no_result(results_file):
    names = [[f"{process} {number}" for number in range(20)] for process in range(2)]

    def keep(mine):
        file = results_file()
        for name in mine:
            file.keep(name, evaluation_of([1.0]))
        file.check()

    with ThreadPoolExecutor() as pool:
        list(pool.map(keep, names))
    path = results_file().path
    assert set(json.loads(path.read_text())["results"]) == {*names[0], *names[1]}
    assert sorted(file.name for file in path.parent.iterdir()) == ["results.json", "set.safetensors"]


def test_of_two_evaluations_of_one_network_the_further_one_stands(results_file):
    ahead, behind, other = results_file(), results_file(), results_file()
    ahead.keep("dm", evaluation_of([1.0, 2.0]))
    behind.keep("dm", evaluation_of([1.0]))
    behind.check()
    assert results_file().done("dm", evaluation_of([0.0]).config).accuracies == {"all": [1.0, 2.0]}
    other.keep("dm", evaluation_of([5.0], epochs=2))
    with pytest.raises(OSError, match=r"epochs = 1, not 2.*note what is above"):
        other.check()
    assert results_file().done("dm", evaluation_of([0.0]).config).accuracies == {"all": [1.0, 2.0]}


# --- output that cannot be printed ---


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_stream_that_broke_goes_nowhere(tmp_path):
    with (tmp_path / "file").open("w") as file:
        broken = Broken()
        broken.fileno = file.fileno
        stream = output.LastingStream(broken)
        assert stream.write("text") == 4
        assert isinstance(stream.lost, BrokenPipeError)
        file.write("more")
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_an_encoding_without_the_characters_gets_others(encoding, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    code = (
        "from dgdd_fast.commands.output import lasting_output\n"
        "with lasting_output(): print('1 ± 2, größer, 猫, \\udcf6')"
    )
    process = start_script(code, tmp_path)
    text, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert "\\u732b, \\udcf6" in text
    assert ("1 +- 2" in text) == (encoding == "ascii")


def start_script(code, folder):
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=-1, text=True, errors="replace")


@pytest.mark.slow
def test_a_reader_that_leaves_ends_no_evaluation(run, tmp_path):
    with start("evaluate", run, *QUICK, "--runs", 2, folder=tmp_path) as process:
        process.stdout.close()
        assert process.wait(SECONDS) == 0
        assert len(results(run)["dm+sgs"]["accuracies"]["source domains"]["runs"]) == 2


def test_a_full_output_is_told(run, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with output.lasting_output():
            sys.stdout.write("text")
            assert output.lost_output().strerror == "No space left on device"


# --- data that changed ---


def test_what_was_distilled_from_is_never_tested_on(run, pictures):
    before = load_dataset(pictures).leave_out("domain2")
    learnt = ImageRecord.of(before.sources_train)
    noise = torch.randint(
        0, 255, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    for number, image in enumerate(noise):
        save(image, pictures / f"domain{number % 2}" / f"class{number // 2}" / "00.png")
    moved = load_dataset(pictures).leave_out("domain2").sources_test
    assert learnt.knows(moved.images).any()  # the split was drawn anew
    text = dgdd("evaluate", run, *QUICK, "--runs", 1).output
    assert "note: pictures has changed" in text
    assert "images that were learnt from are in its test part now" in text
    tests = json.loads((run / "evaluation.json").read_text())["tests"]
    assert tests["source domains"]["images"] == len(before.sources_test) + 6


def test_images_that_are_gone_are_told(run, pictures):
    gone = load_dataset(pictures).leave_out("domain2").sources_train.item_names[:2]
    for name in gone:
        (pictures / name).unlink()
    assert "2 images that were learnt from are gone" in dgdd("evaluate", run, *QUICK, "--runs", 1).output


def test_an_image_in_another_class_is_told(run, pictures):
    name = load_dataset(pictures).leave_out("domain2").sources_train.only_classes(["class0"]).item_names[0]
    shutil.move(pictures / name, pictures / name.replace("class0", "class1").replace(".png", "-moved.png"))
    assert "has changed" in dgdd("evaluate", run, *QUICK, "--runs", 1).output


def test_a_source_image_among_the_target_s_is_left_out(run, pictures):
    name = load_dataset(pictures).leave_out("domain2").sources_train.item_names[0]
    shutil.copy(pictures / name, pictures / "domain2" / "class0" / "copy.png")
    text = dgdd("evaluate", run, *QUICK, "--runs", 1).output
    assert "1 of 25 images of domain2 (held out) are left out" in text


def test_other_data_of_the_same_names_are_refused(run, pictures, tmp_path):
    for file in pictures.rglob("*.png"):
        other = tmp_path / "other" / file.relative_to(pictures)
        other.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.invert(Image.open(file)).save(other)
    code, text = failure("evaluate", run, *QUICK, "--data", tmp_path / "other")
    assert code == 2
    assert "of the 36 images that were learnt from, 0 are in other now" in " ".join(text.split())


def test_a_set_of_a_version_before_is_used_with_a_note_where_the_data_changed(run, pictures):
    path = run / "distilled.safetensors"
    distilled = DistilledSet.load(path)
    provenance = {name: value for name, value in distilled.provenance.items() if name != "learnt_from"}
    dataclasses.replace(distilled, provenance=provenance).save(path)
    text = dgdd("evaluate", run, *QUICK, "--runs", 1).output
    assert "a set of an earlier version" not in text
    assert set(results(run)["dm+sgs"]["accuracies"]) == {"domain2 (held out)", "source domains"}
    next(iter(pictures.glob("domain0/class0/*.png"))).unlink()
    out = run / "changed.json"
    text = dgdd("evaluate", run, *QUICK, "--runs", 1, "--out", out).output
    assert "a set of an earlier version does not tell its images" in text
    changed = json.loads(out.read_text())["results"]["dm+sgs"]["accuracies"]
    assert set(changed) == {"domain2 (held out)"}


def test_experts_are_not_looked_into_on_what_they_were_trained_on(pictures, tmp_path):
    small = ("--experts", 1, "--epochs", 1, *NARROW)
    dgdd("pretrain", "--data", pictures, "--target", "domain2", *small, "--out", tmp_path / "experts")
    dgdd("channels", tmp_path / "experts", "--data", pictures)
    before = (tmp_path / "experts" / "channels.json").read_bytes()
    next(iter(pictures.glob("domain0/class0/*.png"))).unlink()
    code, text = failure("channels", tmp_path / "experts", "--data", pictures)
    assert (code, "were trained on other images" in " ".join(text.split())) == (2, True)
    assert (tmp_path / "experts" / "channels.json").read_bytes() == before
    code, text = failure(
        *("distill", "--data", pictures, "--target", "domain2", *TINY[:-2], "--method", "mmd"),
        *("--experts", tmp_path / "experts", "--out", tmp_path / "none"),
    )
    assert code == 2
    assert not (tmp_path / "none").exists()


def test_a_report_tells_that_the_data_changed(pictures, tmp_path):
    (tmp_path / "study.yaml").write_text(
        f"{{data: {pictures}, targets: [domain2], methods: [dm+sgs], ipc: [3], seeds: [0], "
        "distill: {iterations: 1, batch_real: 4, network: {width: 2}}, "
        "evaluate: {runs: 1, epochs: 1, network: {width: 2}}}"
    )
    dgdd("grid", tmp_path / "study.yaml", "--out", tmp_path / "grid")
    dgdd("report", tmp_path / "grid")
    page = tmp_path / "grid" / "report.html"
    assert "has changed" not in page.read_text()
    next(iter(pictures.glob("domain0/class0/*.png"))).unlink()
    dgdd("report", tmp_path / "grid")
    assert "pictures has changed" in page.read_text()


def test_images_that_left_the_range_of_images_are_noted(run):
    path = run / "distilled.safetensors"
    assert "standard deviations" not in dgdd("evaluate", run, *QUICK, "--runs", 1).output
    distilled = DistilledSet.load(path)
    images = distilled.images.clone()
    images[2:4, 0, 3, 3] = -10.5
    dataclasses.replace(distilled, images=images).save(path)
    out = run / "other.json"
    text = dgdd("evaluate", run, *QUICK, "--runs", 1, "--out", out).output
    assert "note: 2 of 9 images have values beyond 10 standard deviations" in text


def test_python_warns_of_test_images_that_were_distilled_from(run, pictures):
    distilled = DistilledSet.load(run / "distilled.safetensors")
    sources = load_dataset(pictures).only_domains(distilled.domain_names)
    config = evaluation.EvaluateConfig(runs=1, epochs=1)
    with pytest.warns(UserWarning, match="36 of the 48 images of the test set 'all' are among those"):
        evaluation.evaluate(distilled, {"all": sources}, config)
