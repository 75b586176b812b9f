"""The folder of a run: what is there is never taken for free, spoiled by bad options, or replaced unasked."""

import json
import os

import pytest
from command_line import dgdd, failure
from run_commands import NARROW, TINY
from toy_data import toy_domains, write_npz

from dgdd_fast import evaluation
from dgdd_fast.config.run import CHECKPOINT_NAME, CONFIG_NAME, SET_NAME
from dgdd_fast.files import locked
from dgdd_fast.synthetic.distilled_set import DistilledSet

EXPERTS = ("--experts", 1, "--epochs", 1, *NARROW)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_npz(toy_domains(per_cell=8), folder)
    return folder


@pytest.fixture
def run(data, tmp_path):
    dgdd("distill", "--data", data, "--target", "domain2", *TINY, "--out", tmp_path / "run")
    return tmp_path / "run"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


BAD = [
    ("--set=distill.image_lr=-1",),
    ("--set=distill.network.depth=9",),
    ("--set=distill.network.depth=0",),
    ("--ipc", 4),
    ("--seed", 7),
    ("--target", "domain1"),
    ("--target", "domain9"),
    ("--data", "nowhere"),
    ("--data", "embedded-digits"),
    ("--domain", "domain0"),
    ("--classes", "class0,class1"),
    ("--resolution", 8),
    ("--method", "cadm"),
    ("--method", "nothing"),
    ("--set=distill.surgery.alpha=nan",),
    ("--precision", "bfloat16"),
    ("--iterations", 1),
    ("--set=distill.factor=3",),
    ("--device", "cuda:9"),
    ("--set", "distill.nothing=1"),
    ("--set", "distill.checkpoint_every=0"),
    ("--pseudo-domains", 99),
]


@pytest.mark.parametrize("options", BAD, ids=lambda options: " ".join(map(str, options)))
def test_bad_options_leave_a_resumed_run_as_it_was(run, options):
    before = content(run)
    code, _ = failure("distill", "--resume", "--out", run, *options)
    assert code == 2
    assert content(run) == before


def test_a_run_goes_on_after_bad_options(run):
    failure("distill", "--resume", "--out", run, "--set=distill.image_lr=-1")
    dgdd("distill", "--resume", "--out", run, "--iterations", 3)
    assert DistilledSet.load(run / SET_NAME).provenance["iterations"] == 3


@pytest.mark.parametrize(
    "name",
    [
        CONFIG_NAME,
        CHECKPOINT_NAME,
        SET_NAME,
        "contact_sheet.png",
        "losses.csv",
        "evaluation.json",
        "results.json",
        "pool.json",
    ],
)
@pytest.mark.parametrize("command", ["distill", "pretrain", "demo"])
def test_a_folder_with_any_file_of_a_run_is_taken(command, name, data, tmp_path):
    (tmp_path / name).write_text("kept")
    options = {
        "distill": ("--data", data, "--target", "domain2", *TINY),
        "pretrain": ("--data", data, "--target", "domain2", *EXPERTS),
        "demo": (),
    }
    code, text = failure(command, *options[command], "--out", tmp_path)
    assert code == 2
    assert f"{tmp_path} holds a run already ({name})" in text
    assert content(tmp_path) == {name: b"kept"}


def test_a_finished_set_without_its_checkpoint_is_not_distilled_again(run):
    (run / CHECKPOINT_NAME).unlink()
    before = content(run)
    code, text = failure("distill", "--resume", "--out", run)
    assert (code, "no checkpoint.safetensors to go on from" in text) == (2, True)
    assert content(run) == before


def test_what_is_refused_leaves_no_folder_behind(data, tmp_path):
    out = tmp_path / "new"
    arguments = ("distill", "--data", data, "--target", "domain2", *TINY, "--out", out)
    assert failure(*arguments, "--set=distill.network.depth=9")[0] == 2
    assert not out.exists()


@pytest.mark.parametrize("command", ["distill", "pretrain"])
def test_two_processes_do_not_work_in_one_folder(command, data, tmp_path):
    options = TINY if command == "distill" else EXPERTS
    with locked(tmp_path / "out"):
        arguments = ("--data", data, "--target", "domain2", *options, "--out", tmp_path / "out")
        code, text = failure(command, *arguments)
        assert (code, "another dgdd is at work in" in text) == (2, True)
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("distill", "--target", "x", "--method", ""), "--method"),
        (("distill", "--target", ""), "--target"),
        (("distill", "--target", "x", "--data", ""), "--data"),
        (("distill", "--target", "x", "--out", ""), "--out"),
        (("distill", "--target", "x", "--out", " "), "--out"),
        (("distill", "--target", "x", "--set", ""), "--set"),
        (("distill", "--target", "x", "--domain", "a", "--domain", ""), "--domain"),
        (("distill", "--target", "x", "--classes", ""), "--classes"),
        (("distill", "--target", "x", "--config", ""), "--config"),
        (("distill", "--target", "x", "--experts", ""), "--experts"),
        (("distill", "--target", "x", "--ipc", ""), "--ipc"),
        (("distill", "--target", "x", "--device", ""), "--device"),
        (("pretrain", "--data", ""), "--data"),
        (("evaluate", ""), "SET"),
        (("evaluate", "x", "--architecture", ""), "--architecture"),
        (("evaluate", "x", "--out", ""), "--out"),
        (("export", ""), "SET"),
        (("grid", ""), "STUDY"),
        (("grid", "x", "--tuned", ""), "--tuned"),
        (("tune", "x", "--ray", ""), "--ray"),
        (("table", ""), "FOLDER"),
        (("table", "x", "--format", ""), "--format"),
        (("report", "x", "--data", ""), "--data"),
        (("channels", "x", ""), "SET"),
        (("data", ""), "source"),
        (("demo", "--out", ""), "--out"),
        (("--plugin", "", "doctor"), "--plugin"),
    ],
)
def test_what_is_given_empty_is_refused_by_name(arguments, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text = failure(*arguments)
    assert code == 2
    assert f"'{name}': it is empty" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["distill.surgery=", "distill.seed= "])
def test_a_setting_without_a_value_is_refused(text):
    code, message = failure("distill", "--target", "x", "--set", text)
    assert code == 2
    assert "has no value: give one, or write null for none" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("distill", "--ipc", 2, "--set", "distill.ipc=3"), "distill.ipc is given twice, as 2 and as 3"),
        (("distill", "--target", "a", "--set", "target=b"), "target is given twice, as 'a' and as 'b'"),
        (
            ("distill", "--set", "distill.momentum=0.9", "--set", "distill.momentum=0.8"),
            "distill.momentum is given twice, as 0.9 and as 0.8",
        ),
        (
            ("pretrain", "--data", "x", "--experts", 2, "--set", "pretrain.experts=3"),
            "pretrain.experts is given twice",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments, message):
    code, text = failure(*arguments)
    assert (code, message in text) == (2, True), text


def test_an_evaluation_with_contradicting_options_is_refused(run):
    code, text = failure("evaluate", run, "--runs", 2, "--set", "evaluate.runs=3")
    assert (code, "evaluate.runs is given twice, as 2 and as 3" in text) == (2, True)


def test_data_without_a_name_are_refused_in_a_file_too(tmp_path):
    (tmp_path / "run.yaml").write_text("data: ''\ntarget: x\n")
    code, text = failure("distill", "--config", tmp_path / "run.yaml")
    assert (code, "the data have no name" in text) == (2, True)


def test_files_named_by_out_are_not_replaced_unasked(data, tmp_path):
    grid = tmp_path / "grid"
    (tmp_path / "study.yaml").write_text(
        f"{{data: {data}, targets: [domain2], methods: [random], ipc: [1], seeds: [0], "
        "evaluate: {runs: 1, epochs: 1, network: {width: 2}}}"
    )
    dgdd("grid", tmp_path / "study.yaml", "--out", grid)
    index = (grid / "grid.json").read_bytes()
    for command in (("table", grid), ("report", grid)):
        code, text = failure(*command, "--out", grid / "grid.json")
        assert (code, "exists: choose another --out, or give --overwrite" in text) == (2, True)
        assert (grid / "grid.json").read_bytes() == index
    for _ in range(2):
        dgdd("table", grid, "--out", tmp_path / "table.md", "--format", "markdown", "--overwrite")
        dgdd("report", grid)  # its own file shows what is there by then
    code, text = failure("table", grid, "--out", tmp_path)
    assert code == 2


def test_two_evaluations_at_a_time_keep_each_other_s_results(run, monkeypatch):
    train, other = evaluation.train_networks, []

    def meanwhile(*arguments, **options):
        if not other:
            other.append(True)
            dgdd("evaluate", run, "--epochs", 1, "--runs", 1, "--no-random", "--whole")
        return train(*arguments, **options)

    monkeypatch.setattr(evaluation, "train_networks", meanwhile)
    dgdd("evaluate", run, "--epochs", 1, "--runs", 1)
    assert set(json.loads((run / "evaluation.json").read_text())["results"]) == {"dm+sgs", "random", "whole"}


def test_a_folder_without_permission_is_refused_before_the_work(run, tmp_path, monkeypatch):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    code, text = failure("evaluate", run, "--out", closed / "evaluation.json")
    assert (code, "Permission denied" in text) == (2, True)
