"""Every command that reads data ends in one message and exit code 2 where they cannot be right, and loses
nothing."""

import os
import struct
import zlib

import numpy as np
import pytest
from command_line import dgdd, failure
from data_trees import write_image, write_npz, write_tree
from PIL import Image
from run_commands import NARROW, ONE_STEP

CELLS = [f"{domain}/{label}" for domain in ("photo", "sketch", "clip") for label in ("cat", "dog")]
EXPERTS = ("--experts", 1, "--epochs", 1, *NARROW, "--threads", 1)
STUDY = """
data: {data}
targets: [sketch]
methods: [dm]
ipc: [1]
seeds: [0]
distill: {{iterations: 1, batch_real: 2, network: {{width: 4}}}}
evaluate: {{runs: 1, epochs: 1, network: {{width: 4}}}}
tune: {{trials: 1, settings: {{distill.image_lr: {{low: 1, high: 2}}}}}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with good data, a run, experts and a grid of them."""
    folder = tmp_path_factory.mktemp("made")
    write_tree(folder / "data", CELLS, images=4, side=16)
    (folder / "study.yaml").write_text(STUDY.format(data=folder / "data"))
    dgdd("distill", "--data", folder / "data", "--target", "sketch", *ONE_STEP, "--out", folder / "run")
    dgdd("pretrain", "--data", folder / "data", "--target", "sketch", *EXPERTS, "--out", folder / "experts")
    dgdd("grid", folder / "study.yaml", "--out", folder / "grid")
    return folder


COMMANDS = {
    "data": lambda made, data, out: ["data", data],
    "distill": lambda made, data, out: [
        "distill", "--data", data, "--target", "sketch", *ONE_STEP, "--out", out],
    "pretrain": lambda made, data, out: [
        "pretrain", "--data", data, "--target", "sketch", *EXPERTS, "--out", out],
    "evaluate": lambda made, data, out: [
        "evaluate", made / "run", "--data", data, "--epochs", "1", "--runs", "1", "--out", out / "e.json"],
    "channels": lambda made, data, out: [
        "channels", made / "experts", "--data", data, "--out", out / "c.json"],
    "grid": lambda made, data, out: ["grid", made / "study.yaml", "--data", data, "--out", out],
    "tune": lambda made, data, out: ["tune", made / "study.yaml", "--data", data, "--out", out],
    "report": lambda made, data, out: ["report", made / "grid", "--data", data, "--out", out / "r.html"],
}  # fmt: skip


def label_ten(root):
    up = {"y_train": np.repeat([1, 2, 3], 4), "y_test": np.repeat([1, 2, 3], 2)}
    write_npz(root, "photo", ["0", "1", "2"])
    write_npz(root, "sketch", ["0", "1", "2"], **up)


def objects(root):
    write_npz(root, "photo", ["cat", "dog"], classes=np.array(["cat", "dog"], dtype=object))


def deep(root):
    pixels = np.random.default_rng(0).integers(0, 4096, (8, 8)).astype(np.uint16)
    Image.fromarray(pixels).save(root / "photo/cat/deep.png")


def truncated(root):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "photo/cat/0.png")
    os.truncate(root / "photo/cat/0.png", 150)


FAULTS = {
    "gone": (None, "does not exist"),
    "empty": (lambda root: None, "holds no images"),
    "a file": (lambda root: None, "name the folder"),
    "labels 1..K": (label_ten, r"sketch.npz: its labels are 1..3"),
    "objects": (objects, "photo.npz: classes is an array of Python objects"),
    "mixed": (lambda root: write_npz(write_tree(root, CELLS), "oil", ["cat", "dog"]), "holds .npz files"),
    "twelve bits": (lambda root: deep(write_tree(root, CELLS)), "as if they held 12 bits"),
    "truncated": (lambda root: truncated(write_tree(root, CELLS)),
                  "photo/cat/0.png is truncated or damaged"),
    "zero bytes": (lambda root: os.truncate(write_image(write_tree(root, CELLS), "photo/cat/0.png"), 0),
                   "photo/cat/0.png is empty (0 bytes)"),
    "a text": (lambda root: (write_tree(root, CELLS) / "photo/cat/0.png").write_text("404"),
               "photo/cat/0.png is named like an image but is none"),
    "a broken link": (lambda root: (write_tree(root, CELLS) / "photo/owl").symlink_to("/nowhere/owl"),
                      "photo/owl: a link that leads nowhere"),
    "case": (lambda root: write_tree(root, [*CELLS, "photo/Cat"]), "which differ in case only"),
    "a class without images": (lambda root: (write_tree(root, CELLS) / "photo/owl").mkdir(),
                               "the class 'owl' has no image in any domain"),
}  # fmt: skip


def assert_refused(made, tmp_path, command, fault):
    prepare, message = FAULTS[fault]
    root = tmp_path / "bad"
    if prepare is not None:
        root.mkdir()
        prepare(root)
    if fault == "a file":
        root.rmdir()
        root.write_text("about")
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    code, text = failure(*COMMANDS[command](made, root, tmp_path / "new"))
    assert code == 2, text
    assert message in text
    assert text.count("error:") == 1
    said = [line for line in text.splitlines() if not line.startswith("computing on ")]
    assert len(said) == 1
    for path, content in before.items():
        assert path.read_bytes() == content
    assert not list((tmp_path / "new").glob("*")), "nothing is begun"


@pytest.mark.parametrize("fault", FAULTS)
def test_data_refuses_every_fault_in_one_message(made, tmp_path, fault):
    assert_refused(made, tmp_path, "data", fault)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "data"])
@pytest.mark.parametrize("fault", ["gone", "labels 1..K", "truncated"])
def test_every_command_refuses_faults_in_one_message(made, tmp_path, command, fault):
    assert_refused(made, tmp_path, command, fault)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_leaves_out(made, tmp_path, command):
    root = write_tree(tmp_path / "data", CELLS, images=4, side=16)
    write_image(root, "@eaDir/photo/x.png")
    text = dgdd(*COMMANDS[command](made, root, tmp_path / "new")).output
    assert "leftovers of operating systems that look like images are left out: @eaDir" in text


def test_all_bad_files_are_listed_on_demand(tmp_path):
    root = write_tree(tmp_path / "data", CELLS, images=10)
    bad = sorted(root.glob("*/*/[0-7].png"))
    for path in bad:
        path.write_bytes(b"")
    code, text = failure("data", root)
    assert code == 2
    assert "and 43 more files: dgdd data FOLDER --problems FILE lists them all" in text
    code, text = failure("data", root, "--problems", tmp_path / "problems.txt")
    assert code == 2
    assert f"48 files cannot be used; they are listed in {tmp_path / 'problems.txt'}" in text
    lines = (tmp_path / "problems.txt").read_text().splitlines()
    assert sorted(line.split(" is empty")[0] for line in lines) == [str(path) for path in bad]


def test_a_name_that_is_not_there_is_met_with_the_nearest(made):
    code, text = failure("data", made / "dat")
    assert (code, "does not exist (did you mean data?)" in text) == (2, True)
    code, text = failure("data", "embeded-digits")
    assert (code, "(did you mean embedded-digits?)" in text) == (2, True)
    code, text = failure("data", made / "data", "--classes", "cats,dog")
    assert (code, "has no class 'cats'; it has cat, dog (did you mean cat?)" in text) == (2, True)
    code, text = failure("distill", "--data", made / "data", "--target", "sketches", *ONE_STEP)
    assert (code, "(did you mean sketch?)" in text) == (2, True)


@pytest.mark.parametrize("resolution", ["0", "-1", "100000", "1.5"])
def test_resolutions_that_cannot_be_are_refused_before_allocation(made, resolution):
    for command in ("data", "distill", "pretrain"):
        given = COMMANDS[command](made, made / "data", made / "new")
        code, text = failure(*given, "--resolution", resolution)
        assert code == 2
        assert "GiB of memory" in text or "resolution" in text


def test_a_picture_far_too_large_is_refused(tmp_path):
    root = write_tree(tmp_path, CELLS)
    content = b"\x89PNG\r\n\x1a\n"  # a picture's beginning is enough to know its size
    for kind, body in ((b"IHDR", struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)), (b"IDAT", b"x")):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    (root / "photo/cat/0.png").write_bytes(content)
    code, text = failure("data", root)
    assert (code, "photo/cat/0.png unpacks to far more pixels than an image should" in text) == (2, True)


def test_more_images_than_there_are_is_told(made, tmp_path):
    given = ("--data", made / "data", "--target", "sketch", *ONE_STEP, "--ipc", 9)
    text = dgdd("distill", *given, "--out", tmp_path / "run").output
    assert (
        "more images per class than there are real ones, which repeat: cat (clip), cat (photo), dog" in text
    )
    text = dgdd("evaluate", tmp_path / "run", "--epochs", "1", "--runs", "1").output
    assert "real ones, which repeat: cat (clip)" in text


def test_a_class_that_only_the_target_has_is_named(made, tmp_path):
    root = write_tree(tmp_path / "data", [*CELLS, "sketch/owl"], side=16)
    for command in ("distill", "pretrain"):
        code, text = failure(*COMMANDS[command](made, root, tmp_path / "new"))
        assert code == 2
        assert "owl has no image to learn from in clip, photo" in text
