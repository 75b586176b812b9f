"""`dgdd import` and `dgdd export`: sets of other tools come in, are evaluated, and go out again."""

import json

import pytest
import torch
from command_line import dgdd, failure
from foreign_files import foreign_images, write_list_of_sets, write_pair, write_two_files

from dgdd_fast.data import load_dataset
from dgdd_fast.synthetic.distilled_set import DistilledSet

QUICK = ("--runs", 1, "--epochs", 1, "--set", "evaluate.network.width=4")
LIKE_CIFAR = ("--normalised-like", "cifar10")


@pytest.fixture
def foreign(tmp_path):
    """A file of DM with two sets of 3 classes, 16 px."""
    sets = [foreign_images(side=16, seed=seed) for seed in (0, 1)]
    return write_list_of_sets(tmp_path / "res_DM.pt", sets)


def test_an_imported_set_is_evaluated_with_random_beside_it(foreign, pictures, tmp_path):
    out = tmp_path / "run"
    told = ("--data", pictures, "--target", "domain2", "--normalised-like", f"data:{pictures}")
    text = dgdd("import", foreign, *told, "--out", out).output
    assert "dm: 3 classes x 2 images of 16 x 16 px; label 0 is class0, label 2 is class2" in text
    assert "the file holds 2 sets; this is number 1" in text
    distilled = DistilledSet.load(out / "distilled.safetensors")
    assert torch.equal(distilled.images, foreign_images(side=16, seed=1)[0])
    learnt = load_dataset(pictures).leave_out("domain2").sources_train
    assert distilled.mean == tuple(learnt.channel_statistics()[0].tolist())
    imported = distilled.provenance["imported"]
    assert (imported["file"], imported["format"], imported["experiment"]) == ("res_DM.pt", "dm", 1)
    assert distilled.provenance["sources"] == ["domain0", "domain1"]

    text = dgdd("evaluate", out, *QUICK).output
    assert "does not tell which images it was distilled from" in text
    assert "Imported" in text
    results = json.loads((out / "evaluation.json").read_text())["results"]
    assert set(results) == {"imported", "random"}
    assert set(results["random"]["accuracies"]) == {"domain2 (held out)"}


def test_a_set_that_does_not_say_what_was_held_out_takes_it_at_its_evaluation(foreign, pictures, tmp_path):
    out = tmp_path / "run"
    dgdd("import", foreign, "--classes", "class0,class1,class2", *LIKE_CIFAR, "--out", out)
    dgdd("evaluate", out, "--data", pictures, "--target", "domain1", "--on", "target", *QUICK)
    results = json.loads((out / "evaluation.json").read_text())["results"]
    assert set(results["imported"]["accuracies"]) == {"domain1 (held out)"}
    code, text = failure("evaluate", out, "--target", "domain1", *QUICK)
    assert (code, "name the data: --data" in text) == (2, True)


def test_a_target_of_ones_own_set_is_what_it_says(run):
    code, text = failure("evaluate", run, "--target", "domain0", *QUICK)
    assert code == 2
    assert "domain2 was held out, not domain0" in text


def test_mosaics_are_evaluated_with_mosaics_of_real_images(pictures, tmp_path):
    images, labels = foreign_images(side=16)
    path, out = write_pair(tmp_path / "data.pt", images.sigmoid(), labels), tmp_path / "run"
    told = ("--data", pictures, "--target", "domain2", *LIKE_CIFAR, "--format", "ncfm", "--factor", 2)
    dgdd("import", path, *told, "--out", out)
    dgdd("evaluate", out, *QUICK)
    results = json.loads((out / "evaluation.json").read_text())["results"]
    assert set(results) == {"imported", "random", "random+mosaics"}


def test_labels_in_another_order_are_brought_to_that_of_the_data(foreign, pictures, tmp_path):
    out = tmp_path / "run"
    classes = ("--classes", "class2,class0,class1")
    dgdd("import", foreign, "--data", pictures, *classes, *LIKE_CIFAR, "--experiment", 0, "--out", out)
    distilled = DistilledSet.load(out / "distilled.safetensors")
    assert distilled.class_names == ("class0", "class1", "class2")
    assert torch.equal(distilled.images, foreign_images(side=16)[0][[2, 3, 4, 5, 0, 1]])


def test_the_learning_rate_that_a_set_comes_with_is_told(pictures, tmp_path):
    path = write_two_files(tmp_path / "mtt", *foreign_images(side=16), rate=0.02)
    told = ("--data", pictures, "--mean", "0.5", "--std", "0.2,0.25,0.3", "--out", tmp_path / "run")
    text = dgdd("import", path.parent, *told).output
    assert "--set evaluate.learning_rate=0.02" in text
    distilled = DistilledSet.load(tmp_path / "run/distilled.safetensors")
    assert (distilled.mean, distilled.std) == ((0.5, 0.5, 0.5), (0.2, 0.25, 0.3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "does not name its 3 classes: give --data"),
        (("--classes", "a,b,c"), "normalised with: give --normalised-like (cifar10, imagenet, embedded"),
        (("--classes", "a,b,c", "--mean", "0.5"), "give --mean and --std, both"),
        (("--classes", "a,b,c", "--mean", "x", "--std", "1"), "--mean must be three numbers"),
        (("--classes", "a,b,c", "--mean", "nan", "--std", "1"), "are of pixels in [0, 1], got nan and 1"),
        (("--classes", "a,b,c", "--mean", "0", "--std", "0"), "are of pixels in [0, 1], got 0 and 0"),
        (("--classes", "a,b,c", "--mean", "123.7", "--std", "58"), "divide those of pixels in 0..255 by 255"),
        (("--classes", "a,b,c", "--normalised-like", "mnist"), "--normalised-like must be one of"),
        (("--classes", "a,b", *LIKE_CIFAR), "outside 0 .. 1"),
        (("--classes", "a,b,b", *LIKE_CIFAR), "b"),
        (("--classes", "a,b,c", *LIKE_CIFAR, "--factor", 3), "3 x 3"),
        (("--classes", "a,b,c", *LIKE_CIFAR, "--factor", 10**9), "1000000000 equal tiles"),
        (("--classes", "a,b,c", *LIKE_CIFAR, "--target", "x"), "name them too (--data)"),
        (("--scale", "0..1"), "--scale must be normalised or pixels"),
        (("--format", "kip"), "the format must be auto"),
        (("--experiment", 7), "choose --experiment 0 .. 1"),
    ],
)
def test_what_the_file_lacks_is_asked_for(foreign, tmp_path, arguments, message):
    out = tmp_path / "run"
    code, text = failure("import", foreign, *arguments, "--out", out)
    assert code == 2
    assert message in text
    assert not out.exists()


def test_mosaics_ask_for_their_factor_and_a_taken_folder_is_kept(run, tmp_path):
    path = write_pair(tmp_path / "data.pt", *foreign_images())
    code, text = failure("import", path, "--out", tmp_path / "new")
    assert (code, "give --factor" in text) == (2, True)
    code, text = failure("import", path, "--out", run)
    assert (code, "holds a run already" in text) == (2, True)
    code, text = failure("import", tmp_path / "none.pt", "--out", tmp_path / "new")
    assert (code, "none.pt" in text) == (2, True)


def test_a_set_that_is_not_there_is_no_other(tmp_path):
    path = write_pair(tmp_path / "data.pt", *foreign_images())
    code, text = failure("import", path, "--experiment", 1, "--out", tmp_path / "run")
    assert (code, "there is one set in it" in text) == (2, True)


@pytest.mark.parametrize(
    ("change", "scale", "message"),
    [
        (torch.tanh, "pixels", "outside of [0, 1]: where that is more than rounding"),
        (lambda images: 255 * images.sigmoid(), "normalised", "6 of 6 images have values beyond 10 standard"),
        (torch.sigmoid, "pixels", None),
        (lambda images: images, "normalised", None),
    ],
)
def test_values_of_an_unusual_range_are_noted(tmp_path, change, scale, message):
    images, labels = foreign_images()
    path = write_list_of_sets(tmp_path / "res.pt", [(change(images), labels)])
    told = ("--classes", "a,b,c", *LIKE_CIFAR, "--scale", scale)
    text = dgdd("import", path, *told, "--out", tmp_path / "run").output
    assert ("note: " in text) == (message is not None)
    assert message is None or message in text


@pytest.mark.parametrize(("layout", "name"), [("dm", "distilled.pt"), ("numpy", "distilled.npz")])
def test_what_was_exported_needs_nothing_to_be_imported(run, tmp_path, layout, name):
    file = tmp_path / name
    dgdd("export", run, "--format", layout, "--out", file)
    dgdd("import", file, "--out", tmp_path / "again")
    saved = [folder / "distilled.safetensors" for folder in (run, tmp_path / "again")]
    assert saved[0].read_bytes() == saved[1].read_bytes()
    code, text = failure("export", run, "--format", layout, "--out", file)
    assert (code, "exists" in text) == (2, True)
    wrong = ("--classes", "a,b,c", "--scale", "pixels")
    code, text = failure("import", file, *wrong, "--out", tmp_path / "other")
    assert (code, "says all of itself: leave --classes, --scale out" in text) == (2, True)
    assert not (tmp_path / "other").exists()


def test_a_hugging_face_folder_is_written_once(run, tmp_path):
    text = dgdd("export", run, "--format", "huggingface", "--out", tmp_path / "hf").output
    assert "licence to you" in text
    assert len(list((tmp_path / "hf/train").glob("*.png"))) == 9
    code, text = failure("export", run, "--format", "huggingface", "--out", tmp_path / "hf")
    assert (code, "not an empty folder" in text) == (2, True)
    code, text = failure("export", run, "--format", "tiff")
    assert (code, "--format must be one of" in text) == (2, True)
