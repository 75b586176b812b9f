"""The study of MMD and CADM: stopped, gone on with, and written after each cell."""

import json
import sys

import accuracy_cadm
import pytest
import readme_tables
from data_trees import write_npz

SMALL = (
    "--resolution 16 --target sketch --ipc 1 3 --iterations 2 --image-lrs 1e-3 1e-2 --batch-real 2 --seeds 2 "
    "--experts 1 --expert-epochs 1 --expert-batch 8 --width 4 --test-width 4 --epochs 1"
)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The folder of a small study, whose options are those of the command line."""
    for domain in ("photo", "sketch", "cartoon"):
        write_npz(tmp_path / "data", domain, ["cat", "dog"])
    paths = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]
    paths += ["--out", str(tmp_path / "cadm.json")]
    monkeypatch.setattr(sys, "argv", ["accuracy_cadm.py", *SMALL.split(), *paths])
    return tmp_path


def test_a_stopped_study_goes_on_and_ends_in_a_table(study, monkeypatch):
    evaluate = accuracy_cadm.evaluate
    calls = []

    def stopped_in_the_sixth(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(accuracy_cadm, "evaluate", stopped_in_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        accuracy_cadm.main()
    partial = json.loads((study / "cadm.json").read_text())
    assert set(partial["accuracy"]["1"]) == {"random", "start", "mmd", "cadm"}
    assert set(partial["accuracy"]["3"]) == {"random"}
    accuracy_cadm.main()
    assert len(calls) == 6 + 11

    report = json.loads((study / "cadm.json").read_text())
    assert report["sources"] == ["cartoon", "photo"]
    assert (
        report["accuracy"]["1"]["random"]["target"]["seeds"][0]
        == (partial["accuracy"]["1"]["random"]["target"]["seeds"][0])
    )
    losses = report["pilot"]["losses"]
    assert report["pilot"]["chosen"] == min(map(float, losses), key=lambda rate: losses[f"{rate:g}"])
    assert report["distill"]["image_lr"] == report["pilot"]["chosen"]
    assert str(study) not in json.dumps(report)
    assert set(report["channels"]["3"]["stages"][0]["unstable"]) == {"real", "start", "mmd", "cadm"}
    lines = readme_tables.diagnostics_table([report]).splitlines()
    assert len(lines) == 2 + 7
    assert all(line.startswith("| data | ") and line.count("|") == 7 for line in lines[2:])
    table = readme_tables.expert_table([report])
    assert "| data | sketch | 3 | " in table
    assert "| Random | start | MMD | CADM |" in table
    for cells in report["accuracy"].values():
        del cells["start"]
    assert "| Random | MMD | CADM |" in readme_tables.expert_table([report])
    assert f"image learning rate {report['pilot']['chosen']:g}" in table
