"""Writing files: whole or not at all, and an error that names the file."""

import errno
import os

import pytest
from command_line import dgdd, failure
from data_trees import write_tree
from PIL import Image

from dgdd_fast.files import write_atomically


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"], "half a file would take what room is left"


def test_commands_name_the_file_that_a_full_disk_has_no_room_for(tmp_path, monkeypatch):
    cells = [f"{domain}/{label}" for domain in ("photo", "sketch", "clip") for label in ("cat", "dog")]
    data, out = write_tree(tmp_path / "data", cells), tmp_path / "run"
    tiny = ["--ipc", "1", "--iterations", "1", "--width", "4", "--batch-real", "2", "--threads", "1"]
    command = ["distill", "--data", data, "--target", "sketch", *tiny]
    dgdd(*command, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, text = failure(*command, "--out", tmp_path / "new")
        assert (code, text.splitlines()[-1]) == (
            2, f"error: {tmp_path / 'new' / 'config.yaml'}: No space left on device",
        )  # fmt: skip
    monkeypatch.setattr(Image.Image, "save", full)
    code, text = failure("export", out, "--out", tmp_path / "export")
    assert code == 2
    assert text.startswith(f"error: {tmp_path / 'export' / 'images'}/")
    assert text.rstrip().endswith("000.png: No space left on device")
