"""From the folder of a grid to tables with intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import readme_tables
import verdicts
from small_studies import run
from toy_data import toy_domains, write_npz

from dgdd_fast.experiments.study import read_study

STUDY = """
title: toys
data: Toys
targets: [domain0]
methods:
- {method: random, name: "random, mosaics", distill: {factor: 2}}
- dm
- {method: dm, name: "dm, rate 4", distill: {image_lr: 4}}
ipc: [3]
seeds: [0, 1]
distill: {iterations: 1, batch_real: 4, network: {width: 4}}
evaluate: {epochs: 1, runs: 2}
"""


def test_what_a_grid_has_of_a_study_is_taken_whatever_its_last_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    write_npz(toy_domains(), tmp_path / "data")
    (tmp_path / "toy.yaml").write_text(STUDY)
    done = STUDY.replace("Toys", str(tmp_path / "data"))
    for targets, seeds in (("[domain0]", "[0, 1]"), ("[domain1]", "[0]")):
        (tmp_path / "part.yaml").write_text(done.replace("[domain0]", targets).replace("[0, 1]", seeds))
        assert run(read_study(tmp_path / "part.yaml"), tmp_path / "grid").failures == {}
    monkeypatch.setattr(verdicts, "STUDIES", tmp_path)
    monkeypatch.setattr(verdicts, "RESULTS", tmp_path)
    path = verdicts.take("toy", tmp_path / "grid")
    assert str(tmp_path) not in path.read_text()
    (content,) = verdicts.results("t")
    rows = {row["key"]: row["accuracy"] for row in content["blocks"]["3"]}
    assert {name: list(seeds) for name, seeds in rows["dm"].items() if name.startswith("domain")} == {
        "domain0": ["0", "1"],
        "domain1": ["0"],
        "domain2": [],
    }
    text = verdicts.report(content)
    assert "| toys: 3 per class | held out: domain0 | held out: domain1 |" in text
    assert "1 iterations" in text
    assert "the mean of 2 trainings" in text
    (tmp_path / "other.yaml").write_text(STUDY.replace("iterations: 1", "iterations: 2").replace("3]", "2]"))
    with pytest.raises(ValueError, match=r"no evaluation of other\.yaml"):
        verdicts.take("other", tmp_path / "grid")


def made_up(**rows: dict[str, float]) -> str:
    """The report of accuracies on one domain, by row and seed; spaces for underscores in the rows' names."""
    block = [
        {"key": key.replace("_", " "), "label": key.replace("_", " "), "accuracy": {"photo": by_seed}}
        for key, by_seed in rows.items()
    ]
    content = {
        "study": "bench/studies/made_up.yaml",
        "settings": {"distill": {}, "evaluate": {}},
        "title": "Made up",
        "columns": ["photo", "average"],
        "blocks": {"10": block},
        "notes": ["Accuracy in %: made up.", "Bold: none."],
    }
    return verdicts.report(json.loads(json.dumps(content)))


def test_differences_are_by_seed_with_their_interval_or_say_that_there_is_none() -> None:
    dm, sgs = {"0": 80.0, "1": 82.0, "2": 84.0}, {"0": 82.0, "1": 85.0, "2": 88.0}
    text = made_up(dm=dm, **{"dm+sgs": sgs, "dm,_rate_4": {"0": 83.0, "1": 84.0, "2": 91.0}})
    assert "| DM | 82.0 ± 2.0 (3) |" in text
    assert "| DM, rate 4 | 86.0 ± 4.4 (3) |" in text
    # 3 -+ 4.303 * 1 / sqrt(3)
    assert "DM+SGS minus DM, both at the default rate: +3.0 (+0.5 to +5.5, 3 seeds)." in text
    assert "whichever of its rates does best there (dm, rate 4): -1.0 (" in text
    assert "which does not tell them apart" in text
    assert "Accuracy in %: made up." in text
    assert "Bold" not in text
    alone = made_up(dm={"0": 80.0}, **{"dm+sgs": sgs})
    assert "both at the default rate: +2.0 with one seed, so no interval." in alone
    assert "minus" not in made_up(dm={}, **{"dm+sgs": sgs})


def test_every_comparison_is_of_rows_that_some_study_has() -> None:
    keys = {
        entry.key
        for path in verdicts.STUDIES.glob("*.yaml")
        if path.stem.startswith(("verdict_", "recipes_"))
        for entry in read_study(path).methods
    }
    assert keys
    for comparison in verdicts.COMPARISONS:
        assert {comparison.row, *comparison.others} <= keys | {"random"}, comparison.says


def test_a_grid_is_named_with_its_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["readme_tables.py", "grids/digits"])
    with pytest.raises(SystemExit, match="expected STUDY=FOLDER"):
        readme_tables.main()
