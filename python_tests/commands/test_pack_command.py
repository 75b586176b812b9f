"""`dgdd pack`, and the cache, as a person uses them."""

import io
import re

import numpy as np
import pytest
from command_line import dgdd, failure
from data_trees import write_tree
from PIL import Image
from rich.console import Console
from run_commands import NARROW, ONE_STEP

from dgdd_fast.commands import reading, terminal
from dgdd_fast.data import load_dataset
from dgdd_fast.data.cache import VARIABLE
from dgdd_fast.synthetic.distilled_set import DistilledSet

CELLS = [f"{domain}/{label}" for domain in ("photo", "sketch", "clip") for label in ("cat", "dog")]
EXPERTS = ("--experts", 1, "--epochs", 1, *NARROW, "--threads", 1)


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    for cell in CELLS:
        (tmp_path / "pictures" / cell).mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / cell / f"{number}.jpg")
    return tmp_path / "pictures"


def test_every_command_takes_a_packed_folder(pictures, tmp_path):
    packed = tmp_path / "packed"
    result = dgdd("pack", pictures, "--resolution", 16, "--out", packed)
    assert re.search(r"written: \S*packed, 30 images of 16 x 16 px, \d", result.output)
    assert "30 images of 16 x 16 px, 2 classes, 3 domains" in dgdd("data", packed).output
    pairs = []
    for name, data in (("direct", [pictures, "--resolution", 16]), ("packed", [packed])):
        out = tmp_path / name
        dgdd("distill", "--data", *data, "--target", "sketch", *ONE_STEP, "--out", out / "run")
        dgdd("pretrain", "--data", *data, "--target", "sketch", *EXPERTS, "--out", out / "experts")
        pairs.append(DistilledSet.load(out / "run" / "distilled.safetensors"))
    direct, of_packed = pairs
    assert (direct.images == of_packed.images).all()
    for part in ("fingerprint", "learnt_from", "dataset"):
        assert direct.provenance[part] == of_packed.provenance[part]
    # a run of the pictures is tested on the packed ones, and goes on with them
    evaluated = dgdd("evaluate", tmp_path / "direct/run", "--data", packed, "--epochs", 1, "--runs", 1)
    assert "changed" not in evaluated.output
    dgdd("pretrain", "--data", packed, "--target", "sketch", *EXPERTS, "--out", tmp_path / "direct/experts",
         "--resume", "--experts", 2)  # fmt: skip


def test_what_cannot_be_packed_is_one_message(pictures, tmp_path):
    packed = tmp_path / "packed"
    code, output = failure("pack", tmp_path / "nowhere", "--out", packed)
    assert (code, packed.exists()) == (2, False)
    assert "does not exist" in output
    dgdd("pack", pictures, "--resolution", 8, "--out", packed)
    code, output = failure("pack", pictures, "--resolution", 16, "--out", packed)
    assert code == 2
    assert "holds images of another resolution: 8, not 16; choose another folder" in output
    code, output = failure("distill", "--data", packed, "--target", "sketch", "--resolution", 16, *ONE_STEP)
    assert code == 2
    assert "packed at 8 x 8 px, not at 16" in output
    content = (packed / "images.bin").read_bytes()
    (packed / "images.bin").write_bytes(content[:-5])
    code, output = failure("data", packed)
    assert code == 2
    assert "images.bin is truncated" in output
    dgdd("pack", "embedded-digits", "--out", tmp_path / "digits")
    assert load_dataset(tmp_path / "digits").fingerprint() == load_dataset("embedded-digits").fingerprint()


def test_reading_many_files_shows_the_time_left_and_where_they_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", 0.0)
    write_tree(tmp_path / "pictures", CELLS, images=90)
    first = dgdd("data", tmp_path / "pictures").output
    assert re.search(r"reading images \d+/540 +\d+ s left\n", first)
    assert "reading images 540/540\n" in first
    assert f"decoded images are kept in {tmp_path / 'cache'}" in first
    again = dgdd("data", tmp_path / "pictures").output
    assert "reading images" not in again
    assert "are kept in" not in again
    cleared = dgdd("data", "--clear-cache").output
    assert re.search(r"[\d.]+ kB of decoded images are deleted in \S*cache", cleared)
    assert list((tmp_path / "cache").iterdir()) == []
    assert failure("data")[0] == 2


def test_reading_few_files_says_nothing(tmp_path, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=screen))
    with reading.reading("reading images") as show:
        show(0, 500)
        show(500, 500)
    assert screen.getvalue() == ""
