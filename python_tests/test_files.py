"""Files: whole at every moment, one writer a folder, nothing read that has no end, errors that name them."""

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from command_line import dgdd, failure
from data_trees import write_tree
from PIL import Image
from run_commands import ONE_STEP

from dgdd_fast.files import check_writable, locked, one_at_a_time, read_file, write_atomically


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
    command = ["distill", "--data", data, "--target", "sketch", *ONE_STEP]
    dgdd(*command, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, text = failure(*command, "--out", tmp_path / "new")
        assert (code, text.splitlines()[-1]) == (
            2, f"error: {tmp_path / 'new' / 'config.yaml'}: No space left on device",
        )  # fmt: skip

    def half(image, path):
        path.write_bytes(b"half")
        full()

    monkeypatch.setattr(Image.Image, "save", half)
    code, text = failure("export", out, "--out", tmp_path / "export")
    assert code == 2
    assert text.startswith(f"error: {tmp_path / 'export' / 'images'}/")
    assert text.rstrip().endswith("000.png: No space left on device")
    assert not list((tmp_path / "export").rglob("*.png"))


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file.bin"
    write_atomically(path, b"old")  # makes the folder
    seen = []

    def replace(source: Path, target: Path) -> None:
        seen.append((Path(source).read_bytes(), Path(target).read_bytes()))
        raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(OSError, match="the power went"):
            write_atomically(path, b"new")
    assert seen == [(b"new", b"old")]
    assert path.read_bytes() == b"old"
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert list(path.parent.iterdir()) == [path]  # what the crash left is replaced


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert read_file(tmp_path / "file") == b"content"
    assert read_file(tmp_path / "file", most=7) == b"content"
    with pytest.raises(ValueError, match="7 bytes, far more than a file of its kind"):
        read_file(tmp_path / "file", most=6)
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(ValueError, match=f"this is {kind}, and a file is needed"):
            read_file(path)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    script = "import sys; from pathlib import Path; from dgdd_fast.files import locked\n"
    script += "with locked(Path(sys.argv[1])): pass"

    def other() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, folder], capture_output=True, text=True, check=False
        )

    with locked(folder):
        (folder / "kept").touch()
        assert "another dgdd is at work in" in other().stderr
    assert other().returncode == 0
    assert (folder / "kept").exists()
    with locked(tmp_path / "empty"):
        pass
    assert not (tmp_path / "empty").exists()


def test_a_folder_that_goes_while_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first = tmp_path / "run", ExitStack()
    first.enter_context(locked(folder))
    lock = fcntl.flock

    def at_the_end_of_the_first(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        first.close()  # its folder, which the second has open by now, is empty and goes
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", at_the_end_of_the_first)
    with locked(folder):
        with pytest.raises(ValueError, match="another dgdd is at work in"), locked(folder):
            pass
        assert folder.is_dir()


def test_a_place_that_cannot_be_written_is_known_beforehand(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "report.json")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(IsADirectoryError, match="is a folder; name a file"):
        check_writable(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        check_writable(tmp_path / "file" / "report.json")


def test_a_folder_that_cannot_be_made_is_an_error_at_once() -> None:
    for lock in (locked(Path("/proc/none")), one_at_a_time(Path("/proc/none/file"))):
        with pytest.raises(OSError, match="/proc/none"), lock:
            pass
