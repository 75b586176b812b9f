"""From the folder of a grid to tables with intervals."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import readme_tables
import verdicts
from small_studies import run
from toy_data import toy_domains, write_npz

from dgdd_fast.experiments.grid import Workers
from dgdd_fast.experiments.study import read_study
from dgdd_fast.experiments.tune import tune

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
distill: {iterations: 10, batch_real: 2, network: {width: 4}}
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
    assert "10 iterations" in text
    assert {row: list(seeds) for row, seeds in content["losses"]["domain0"].items()} == {
        "dm": ["0", "1"],
        "dm, rate 4": ["0", "1"],
    }
    assert all(len(parts) == 10 for parts in content["losses"]["domain0"]["dm"].values())
    assert "DM's loss, mean in each tenth of the iterations, 2 seeds: " in text
    assert "the mean of 2 trainings" in text
    (tmp_path / "other.yaml").write_text(
        STUDY.replace("iterations: 10", "iterations: 20").replace("3]", "2]")
    )
    with pytest.raises(ValueError, match=r"no evaluation of other\.yaml"):
        verdicts.take("other", tmp_path / "grid")


def test_a_tuned_grid_is_taken_with_what_its_sources_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    write_npz(toy_domains(), tmp_path / "data")
    (tmp_path / "toy.yaml").write_text(
        STUDY + "tune: {trials: 2, settings: {distill.image_lr: {relative: true}}}"
    )
    study = read_study(tmp_path / "toy.yaml")
    study = dataclasses.replace(study, data=str(tmp_path / "data"), seeds=(0,))
    tune(study, tmp_path / "tuning", Workers(), lambda _: None)
    assert run(dataclasses.replace(study, tuned=str(tmp_path / "tuning")), tmp_path / "grid").failures == {}
    monkeypatch.setattr(verdicts, "STUDIES", tmp_path)
    monkeypatch.setattr(verdicts, "RESULTS", tmp_path)
    content = json.loads(verdicts.take("toy", tmp_path / "grid").read_text())
    assert list(content["chosen"]) == ["domain0"]  # the study's target; of others nothing is known
    assert "the sources, one left out at a time, choose dm (distill.image_lr " in verdicts.report(content)


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


def study_of(title: str, column: str, **rows: dict[int, float]) -> dict[str, Any]:
    """What was taken of a made-up study of one domain."""
    return {
        "study": "bench/studies/made_up.yaml",
        "settings": {
            "data": title,
            "resolution": 32,
            "distill": {"iterations": 3000},
            "evaluate": {"runs": 5},
        },
        "title": title,
        "columns": [column, "over Random"],
        "blocks": {
            "10": [
                {"key": key, "label": key, "accuracy": {column: {str(seed): v for seed, v in values.items()}}}
                for key, values in rows.items()
            ]
        },
        "notes": ["Soft labels are what they are."],
        "losses": {column: {"dm": {"0": [20.0, 15.0, 12.0, 10.0], "1": [22.0, 15.0, 12.0, 9.8]}}},
        "chosen": {
            column: {
                "dm": {"10": {"settings": {"distill.image_lr": 4.0}, "accuracy": 71.0}},
                "dm, mosaics": {"10": {"settings": {"distill.image_lr": 2.0}, "accuracy": 80.25}},
            }
        },
    }


def test_the_readme_has_complete_seeds_from_three_on_and_says_what_they_tell_apart() -> None:
    dm, sgs = {0: 80.0, 1: 82.0, 2: 84.0}, {0: 82.0, 1: 85.0, 2: 88.0}
    digits = study_of("Digits", "mnist", dm={**dm, 3: 10.0}, **{"dm+sgs": sgs})
    pacs = study_of("PACS", "photo", dm=sgs, **{"dm+sgs": {0: 82.5, 1: 84.0, 2: 88.5}})
    few = study_of("Office", "webcam", dm={0: 1.0, 1: 2.0}, **{"dm+sgs": sgs})
    other = study_of("Other", "street", dm=dm)
    text = verdicts.summary([digits, pacs, few, other])
    assert "| held out | Digits: mnist | PACS: photo |" in text
    assert "| DM | 82.0 ± 2.0 | 85.0 ± 3.0 |" in text
    assert "| DM+SGS | 85.0 ± 3.0 |" in text
    assert "**Digits, mnist**, differences over 3 paired seeds. Ahead: DM+SGS minus DM, both at" in text
    assert "both at the default rate +3.0 (+0.5 to +5.5)" in text
    assert "**PACS, photo**, differences over 3 paired seeds. Not told apart: DM+SGS minus DM" in text
    assert "webcam" not in text
    assert "| held out | Other: street |" in text
    assert "mean in the first and the last two tenths of the iterations, 2 seeds: 21.00, 12.00, 9.90" in text
    assert "-17.5 % from the last tenth but one to the last" in text
    assert "3,000 iterations (the papers: 20,000), image learning rates chosen on the source domains" in text
    assert "the mean of 5 trainings. Soft labels are what they are." in text
    assert verdicts.summary([few]) == ""


def test_the_report_says_what_the_sources_chose() -> None:
    content = study_of("Digits", "mnist", dm={0: 80.0}, **{"dm, mosaics": {0: 85.0}})
    text = verdicts.report(content)
    assert "choose dm, mosaics (distill.image_lr 2): dm 71.0, dm, mosaics 80.2." in text


def test_the_demonstration_has_its_table_and_differences() -> None:
    def accuracies(*runs: float) -> dict[str, Any]:
        mean, std = statistics.fmean(runs), statistics.stdev(runs)
        return {"accuracies": {"street (held out)": {"runs": list(runs), "mean": mean, "std": std}}}

    config = {"seeds": [0, 1, 2], "distill": {"ipc": 6, "iterations": 200}}
    results = {
        "random": accuracies(40, 42, 44),
        "dm": accuracies(60, 61, 65),
        "dm, mosaics": accuracies(70, 71, 73),
    }
    text = verdicts.demo({"config": config, "results": results})
    assert "| DM, mosaics | 71.3 ± 1.5 |" in text
    assert "* DM minus Random: +20.0 (" in text
    assert "* DM, mosaics minus DM: +9.3 (" in text
    assert "Random, mosaics" not in text


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
