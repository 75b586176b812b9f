"""Every command that reads a file, given what is no such file: exit code 2 and one short message that
names it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import failure
from PIL import Image

FILES: dict[str, Callable[[Path], None]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "an empty file": lambda path: path.write_bytes(b""),
    "a picture": lambda path: Image.new("RGB", (4, 4)).save(path, "PNG"),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch executed'\ntR."),
    "200,000 brackets": lambda path: path.write_text("[" * 200_000),
    "a header of 2^64 bytes": lambda path: path.write_bytes(b"\xff" * 8 + b"{}"),
    "a number of 5000 digits": lambda path: path.write_text('{"study": ' + "1" * 5000 + "}"),
    "a list": lambda path: path.write_text("[1, 2]"),
    "a key twice": lambda path: path.write_text('{"data": 1, "data": 2}'),
    "not Unicode": lambda path: path.write_bytes(b"data: \xff\xfe"),
}
# By command: what it is given, and which file of that is hostile.
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "export": (("export", "run"), "run/distilled.safetensors"),
    "evaluate": (("evaluate", "run"), "run/distilled.safetensors"),
    "evaluate a file": (("evaluate", "set", "--data", "embedded-digits"), "set"),
    "distill": (("distill", "--config", "run.yaml", "--out", "out"), "run.yaml"),
    "resume settings": (("distill", "--resume", "--out", "run"), "run/config.yaml"),
    "resume checkpoint": (
        ("distill", "--resume", "--out", "run"),
        "run/checkpoint.safetensors",
    ),
    "experts": (("channels", "experts"), "experts/pool.json"),
    "pretrain": (
        ("pretrain", "--data", "embedded-digits", "--target", "street", "--config", "p.yaml", "--out", "out"),
        "p.yaml",
    ),
    "pretrain like a pool": (
        (
            "pretrain",
            "--data",
            "embedded-digits",
            "--target",
            "street",
            "--config",
            "pool.json",
            "--out",
            "out",
        ),
        "pool.json",
    ),
    "grid": (("grid", "study.yaml", "--out", "out"), "study.yaml"),
    "tune": (("tune", "study.yaml", "--out", "out"), "study.yaml"),
    "tuned": (("grid", "tiny.yaml", "--tuned", "tuned", "--out", "out"), "tuned/tuning.json"),
    "table": (("table", "grid"), "grid/grid.json"),
    "report": (("report", "grid"), "grid/grid.json"),
    "data": (("data", "photo.npz"), "photo.npz"),
    "an image of the data": (("data", "pictures"), "pictures/photo/cat/0.png"),
    "a list of the data": (("data", "pictures"), "pictures/photo_train.txt"),
    "a plugin": (("--plugin", "mine.py", "studies"), "mine.py"),
}
# A folder where a folder is looked into, a picture among pictures and the like are no faults.
NO_FAULTS = {
    ("an image of the data", "a folder"),
    ("an image of the data", "a picture"),
    ("a list of the data", "a folder"),
    ("a list of the data", "an empty file"),
    ("distill", "an empty file"),
    ("pretrain", "an empty file"),
    ("grid", "an empty file"),
    ("tune", "an empty file"),
    ("a plugin", "an empty file"),
    ("a plugin", "a list"),
    ("a plugin", "a key twice"),
    ("a plugin", "a number of 5000 digits"),
    ("resume settings", "an empty file"),
    ("data", "a folder"),
    ("resume checkpoint", "a folder"),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_hostile_file_ends_a_command_in_a_short_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, file: str
) -> None:
    if (command, file) in NO_FAULTS:
        pytest.skip("no fault")
    monkeypatch.chdir(tmp_path)
    arguments, place = COMMANDS[command]
    for name in ("0", "1", "2", "3"):
        for domain in ("photo", "sketch"):
            path = Path("pictures", domain, "cat", f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    if command == "a list of the data":
        for list_of in ("photo_test", "photo_train", "sketch_test", "sketch_train"):
            domain, part = list_of.split("_")
            number = 1 if part == "test" else 2
            Path("pictures", f"{list_of}.txt").write_text(f"{domain}/cat/{number}.png 0\n")
    Path("tiny.yaml").write_text("data: pictures\nresolution: 16\nipc: [1]\nseeds: [0]\n")
    if command == "resume checkpoint":
        Path("run").mkdir()
        config = "{ipc: 1, iterations: 1, network: {width: 8, depth: 1}}"
        Path("run/config.yaml").write_text(f"data: pictures\ntarget: photo\ndistill: {config}\n")
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    FILES[file](path)
    began = time.process_time()
    code, output = failure(*arguments)
    assert code == 2, output
    assert path.name in output
    assert len(output) < 1500, output[:3000]
    assert time.process_time() - began < 20  # of which loading the data is most
    assert not Path("executed").exists()


BROKEN_PLUGINS = {
    "syntax": b"def f(:\n",
    "an error": b"raise KeyError('x')\n",
    "a module that is not there": b"import nowhere\n",
    "an exit": b"raise SystemExit(0)\n",
    "NUL": b"x = 1\0\n",
    "not UTF-8": b"\xe9",
}


@pytest.mark.parametrize("content", BROKEN_PLUGINS.values(), ids=BROKEN_PLUGINS)
def test_a_plugin_that_fails_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    code, output = failure("--plugin", path, "studies")
    assert code == 2, output
    assert "mine.py failed: " in output
    assert len(output) < 800


def test_paths_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (loop, "~nobody-of-this-name/data"):
        for arguments in (("data", path), ("--plugin", path, "studies"), ("export", path), ("table", path)):
            code, output = failure(*arguments)
            assert code == 2, output
            assert str(path) in output


@pytest.mark.parametrize(
    "assignment",
    [
        "distill.ipc=" + "9" * 5000,
        "distill.image_lr=1e999",
        "distill.image_lr=.nan",
        "distill.seed=" + "9" * 40,
        "distill.network.width=1" + "0" * 30,
        "distill.surgery.alpha=-.inf",
        "distill.image_lr=" + "[" * 10_000,
        "distill.init=" + "x" * 100_000,
        "x" * 100_000 + "=1",
        "distill.ipc=0x" + "f" * 4000,
        "distill.iterations=" + "9:" * 3000 + "9",
    ],
    ids=range(11),
)
def test_absurd_settings_are_refused_in_a_short_message(assignment: str) -> None:
    code, output = failure("distill", "--target", "street", "--method", "dm+sgs", "--set", assignment)
    assert code == 2, output
    assert len(output) < 2000, output[:3000]  # the names of all settings


@pytest.mark.parametrize("error", [RecursionError("too deep"), OverflowError("too large"), MemoryError("")])
def test_errors_that_no_command_foresees_end_in_one_message(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("dgdd_fast.experiments.builtin_studies.builtin_names", fail)
    code, output = failure("studies")
    assert code == 1
    assert (str(error) or "not enough memory") in output
    assert len(output.splitlines()) == 1
