"""Precision: torch's flags in a run and after it, bfloat16 where it is asked for, and who remembers it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import dgdd, failure
from run_commands import TINY
from toy_data import toy_domains, write_npz

from dgdd_fast import precision as precision_module
from dgdd_fast.config import (
    DistillConfig,
    EvaluateConfig,
    NetworkConfig,
    Precision,
    PretrainConfig,
    from_dict,
)
from dgdd_fast.config.run import read_run_config
from dgdd_fast.distillation import CHECKPOINT_NAME, distill
from dgdd_fast.evaluation import evaluate
from dgdd_fast.experiments.study import MethodEntry, Study, has_setting, rows_of, with_precision
from dgdd_fast.experts import ExpertPool, ExpertPoolError
from dgdd_fast.experts.pretrain import pretrain
from dgdd_fast.networks import ConvNet
from dgdd_fast.precision import arithmetic, autocast, resolved_precision
from dgdd_fast.synthetic.checkpoint import Checkpoint, CheckpointError
from dgdd_fast.synthetic.distilled_set import DistilledSet
from dgdd_fast.training import accuracy, resolve_training, train_network

BACKENDS: Any = torch.backends
DATA = toy_domains(per_cell=4)
NETWORK = NetworkConfig(width=8, depth=2)
DISTILL = DistillConfig(ipc=3, iterations=2, batch_real=4, network=NETWORK)
PRETRAIN = PretrainConfig(experts=1, epochs=1, network=NetworkConfig(architecture="resnet18", width=4))
EVALUATE = EvaluateConfig(runs=1, epochs=1, network=NETWORK)
PRECISIONS = ("float32", "tf32", "bfloat16")

# What a caller may have done to torch's flags: nothing, the older flags, the newer, the newest for all parts.
CALLERS: dict[str, list[tuple[Any, str, Any]]] = {
    "nothing": [],
    "older": [
        (BACKENDS.cuda.matmul, "allow_tf32", True),
        (BACKENDS.cudnn, "allow_tf32", False),
        (BACKENDS.cudnn, "benchmark", True),
    ],
    "newer": [
        (BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
        (BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
        (BACKENDS.mkldnn.matmul, "fp32_precision", "bf16"),
    ],
    "all parts": [(BACKENDS, "fp32_precision", "tf32")],
}


def flags() -> dict[str, Any]:
    """What decides the arithmetic; None for an older flag that contradicts the newer."""

    def older(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except RuntimeError:
            return None

    return {
        "products": BACKENDS.cuda.matmul.fp32_precision,
        "convolutions": BACKENDS.cudnn.conv.fp32_precision,
        "recurrent": BACKENDS.cudnn.rnn.fp32_precision,
        "products on the CPU": BACKENDS.mkldnn.matmul.fp32_precision,
        "convolutions on the CPU": BACKENDS.mkldnn.conv.fp32_precision,
        "older products": older(torch.get_float32_matmul_precision),
        "older convolutions": older(lambda: BACKENDS.cudnn.allow_tf32),
        "deterministic": BACKENDS.cudnn.deterministic,
        "benchmark": BACKENDS.cudnn.benchmark,
        "autocast": torch.is_autocast_enabled("cpu"),
    }


def flags_of(precision: str) -> dict[str, Any]:
    """What the flags are to be in a run."""
    tf32 = precision == "tf32"
    on_cuda = dict.fromkeys(("products", "convolutions", "recurrent"), "tf32" if tf32 else "ieee")
    on_cpu = dict.fromkeys(("products on the CPU", "convolutions on the CPU"), "ieee")
    older = {"older products": "high" if tf32 else "highest", "older convolutions": tf32}
    return on_cuda | on_cpu | older | {"deterministic": True, "benchmark": False, "autocast": False}


def readable(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value is not None}


def distilled(precision: Any, tell: Callable[..., None], folder: Path) -> DistilledSet:
    config = dataclasses.replace(DISTILL, precision=precision)
    return distill(DATA, config, run_folder=folder, progress=tell)


def pretrained(precision: Any, tell: Callable[..., None], folder: Path) -> ExpertPool:
    return pretrain(DATA, dataclasses.replace(PRETRAIN, precision=precision), folder, progress=tell)


def evaluated(precision: Any, tell: Callable[..., None], folder: Path) -> Any:
    return evaluate(DATA, {"same": DATA}, dataclasses.replace(EVALUATE, precision=precision), progress=tell)


RUNS = pytest.mark.parametrize("run", [distilled, pretrained, evaluated])


@RUNS
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_computes_as_it_says(run: Callable[..., Any], precision: str, tmp_path: Path) -> None:
    before, seen = flags(), []
    with torch.autocast("cpu"):  # the caller's, which is none of the run's business
        run(precision, lambda *_: seen.append(flags()), tmp_path)
    assert seen
    assert all(found == flags_of(precision) for found in seen)
    assert flags() == before


@RUNS
def test_a_run_that_fails_puts_the_flags_back(run: Callable[..., Any], tmp_path: Path) -> None:
    def stop(*_: Any) -> None:
        raise RuntimeError("enough")

    before = flags()
    with pytest.raises(RuntimeError, match="enough"):
        run("tf32", stop, tmp_path)
    assert flags() == before


@pytest.fixture
def as_torch_starts() -> Iterator[None]:
    """The flags of a new process, for a test that sets some of them."""
    yield
    BACKENDS.fp32_precision = BACKENDS.cudnn.fp32_precision = "none"
    BACKENDS.cuda.matmul.allow_tf32, BACKENDS.cudnn.allow_tf32 = False, True
    for part in (BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv):
        part.fp32_precision = "none"
    BACKENDS.cudnn.benchmark = BACKENDS.cudnn.deterministic = False


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.usefixtures("as_torch_starts")
def test_whatever_flags_the_caller_has_set_they_are_there_again(precision: Precision, caller: str) -> None:
    for target, name, value in CALLERS[caller]:
        setattr(target, name, value)
    before, common = flags(), BACKENDS.fp32_precision
    BACKENDS.fp32_precision = "ieee"
    later = flags()  # some parts follow what is set for all of them
    BACKENDS.fp32_precision = common
    with arithmetic(precision, "cpu"):
        assert readable(flags()).items() <= flags_of(precision).items()
        with arithmetic("tf32", "cpu"), arithmetic("float32", "cpu"):
            assert readable(flags()).items() <= flags_of("float32").items()
        assert readable(flags()).items() <= flags_of(precision).items()
    assert flags() == before
    BACKENDS.fp32_precision = "ieee"
    assert flags() == later


def test_tests_that_compare_devices_do_so_without_tf32(device: torch.device) -> None:
    assert flags() == flags_of("float32")


def test_a_precision_that_there_is_not_is_named(tmp_path: Path) -> None:
    message = "precision must be one of 'auto', 'float32', 'tf32', 'bfloat16', got 'half'"
    for run in (distilled, pretrained, evaluated):
        with pytest.raises(ValueError, match=message):
            run("half", lambda *_: None, tmp_path / run.__name__)
    wrong: Any = "half"
    with pytest.raises(ValueError, match="one of 'float32', 'tf32', 'bfloat16', got 'half'"):
        autocast(wrong, "cpu")
    with pytest.raises(ValueError, match=message):
        rows_of(with_precision(Study(), "half"))
    for command in ("distill", "pretrain"):
        code, text = failure(command, "--data", "nowhere", "--precision", "half", "--out", tmp_path / "none")
        assert code == 2
        assert message in text


@pytest.mark.parametrize("generalize", ["none", "mixstyle", "fact", "advfreq"])
def test_half_precision_trains_nearly_the_same(generalize: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes: set[torch.dtype] = set()
    forward = ConvNet.forward

    def watched(self: ConvNet, images: torch.Tensor) -> torch.Tensor:
        logits = forward(self, images)
        if not logits.is_meta:
            dtypes.add(logits.dtype)
        return logits

    def trained(precision: Precision, epochs: int) -> torch.Tensor:
        dtypes.clear()
        config = dataclasses.replace(EVALUATE, precision=precision, epochs=epochs, generalize=generalize)
        config = resolve_training(config, DATA.resolution, flip_safe=True)
        mean, std = DATA.channel_statistics()
        network = train_network(DATA.images, DATA.labels, 3, config, mean=mean, std=std)
        assert dtypes == ({torch.bfloat16} if precision == "bfloat16" else {torch.float32})
        assert 0 <= accuracy(network, DATA, mean, std, precision) <= 100
        assert dtypes == ({torch.bfloat16} if precision == "bfloat16" else {torch.float32})
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    monkeypatch.setattr(ConvNet, "forward", watched)
    start, exact, half = trained("float32", 1), trained("float32", 3), trained("bfloat16", 3)
    assert 0 < (half - exact).norm() / (exact - start).norm() < 0.3
    if generalize == "none":
        assert torch.equal(trained("tf32", 3), exact)  # on a CPU


def test_sets_checkpoints_experts_and_evaluations_remember_it(tmp_path: Path) -> None:
    write_npz(DATA, tmp_path)
    source = ("--data", tmp_path, "--target", "domain2")
    tiny = (*TINY, "--method", "dm")
    out, experts = tmp_path / "run", tmp_path / "experts"
    text = dgdd("distill", *source, *tiny, "--precision", "bfloat16", "--out", out).output
    assert "; bfloat16" in text
    assert read_run_config(out / "config.yaml").distill.precision == "bfloat16"
    assert Checkpoint.load(out / CHECKPOINT_NAME).config["precision"] == "bfloat16"
    assert DistilledSet.load(out / "distilled.safetensors").config["precision"] == "bfloat16"
    code, text = failure("distill", "--resume", "--out", out, "--iterations", 3, "--precision", "float32")
    assert code == 2
    assert "belongs to a run with precision = 'bfloat16', now 'float32'" in text
    dgdd("distill", "--resume", "--out", out, "--iterations", 3)

    training = ("--experts", 1, "--epochs", 1, "--set=pretrain.network.width=4", "--out", experts)
    assert "; tf32" in dgdd("pretrain", *source, *training, "--precision", "tf32").output
    assert ExpertPool.load(experts).config.precision == "tf32"
    code, text = failure("pretrain", *source, *training, "--resume")
    assert code == 2
    assert "precision = 'tf32', now 'float32'" in text

    text = dgdd("evaluate", out, "--runs", 1, "--epochs", 1, "--precision", "tf32", "--no-random").output
    assert ", in tf32" in text
    result = json.loads((out / "evaluation.json").read_text())["results"]["dm"]
    assert result["config"]["precision"] == "tf32"


def test_what_was_written_before_there_was_a_choice_is_float32(tmp_path: Path) -> None:
    first = distilled("float32", lambda *_: None, tmp_path)
    path = tmp_path / CHECKPOINT_NAME
    checkpoint = Checkpoint.load(path)
    del checkpoint.config["precision"], first.config["precision"]
    checkpoint.save(path)
    longer = dataclasses.replace(DISTILL, iterations=3)
    with pytest.raises(CheckpointError, match="precision = 'float32', now 'tf32'"):
        distill(DATA, dataclasses.replace(longer, precision="tf32"), run_folder=tmp_path, resume=True)
    distill(DATA, longer, run_folder=tmp_path, resume=True)
    first.save(tmp_path / "old.safetensors")
    kept = DistilledSet.load(tmp_path / "old.safetensors")
    assert from_dict(DistillConfig, kept.config).precision == "float32"

    pool = pretrained("float32", lambda *_: None, tmp_path / "experts")
    content = json.loads((pool.folder / "pool.json").read_text())
    del content["config"]["precision"], content["sha256"]  # nor was there a checksum
    (pool.folder / "pool.json").write_text(json.dumps(content))
    with pytest.raises(ExpertPoolError, match="precision = 'float32', now 'bfloat16'"):
        pretrain(DATA, dataclasses.replace(PRETRAIN, precision="bfloat16"), pool.folder, resume=True)
    assert len(pretrain(DATA, PRETRAIN, pool.folder, resume=True)) == 1


def test_a_study_has_one_precision_unless_a_row_has_its_own() -> None:
    methods = (
        MethodEntry("dm"),
        MethodEntry("mmd"),
        MethodEntry("herding", distill={"precision": "float32"}),
    )
    rows = {row.key: row for row in rows_of(with_precision(Study(methods=methods), "tf32"))}
    assert {row.evaluations[""].precision for row in rows.values()} == {"tf32"}
    found = [row.distill.precision for row in rows.values() if row.distill]
    assert found == ["tf32", "tf32", "tf32", "float32"]
    assert rows["mmd"].pretrain is not None
    assert rows["mmd"].pretrain.precision == "tf32"
    assert has_setting(rows["herding"], "distill.precision")


def test_doctor_says_which_precision_a_run_has() -> None:
    assert "float32, unless a run is given tf32 or bfloat16" in dgdd("doctor").output


@pytest.mark.parametrize("precision", PRECISIONS)
def test_passes_take_the_weights_that_there_are(precision: Precision) -> None:
    """Not those of an earlier pass, though torch's autocast keeps what it rounded until its outermost block
    ends."""
    weight = torch.ones(2, 2, requires_grad=True)
    seen = []
    with arithmetic(precision, "cpu"):
        for value in (1.0, 2.0):
            with torch.no_grad():
                weight.fill_(value)
            with autocast(precision, "cpu"):
                seen.append(torch.nn.functional.linear(torch.ones(1, 2), weight)[0, 0].item())
    assert seen == [2.0, 4.0]


def test_networks_learn_in_bfloat16_what_they_learn_in_float32() -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        config = dataclasses.replace(EVALUATE, epochs=30, precision=precision)
        found.append(evaluate(DATA, {"same": DATA}, config).accuracies["same"][0])
    assert min(found) > 80, found


@pytest.mark.parametrize(
    ("amx", "devices", "wanted"),
    [
        (False, ["cpu"], "float32"),
        (True, ["cpu"], "bfloat16"),
        (True, ["cuda:0"], "float32"),  # until a GPU has been measured
    ],
)
def test_auto_is_what_the_machine_multiplies_fastest(amx, devices, wanted, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(precision_module, "automatic_devices", lambda: devices)
    assert resolved_precision("auto") == wanted
    assert [resolved_precision(name) for name in PRECISIONS] == list(PRECISIONS)


@pytest.mark.filterwarnings("ignore:.*among those that the set was distilled from")
def test_artefacts_record_what_auto_became(tmp_path: Path, monkeypatch) -> None:
    """And a run with auto goes on as one with the precision that it became."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(precision_module, "automatic_devices", lambda: ["cpu"])
    auto = dataclasses.replace(DISTILL, precision="auto")
    distilled = distill(DATA, auto, run_folder=tmp_path / "run")
    named = distill(DATA, dataclasses.replace(DISTILL, precision="bfloat16"))
    assert distilled.config["precision"] == "bfloat16"
    assert distilled.images.equal(named.images)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(CheckpointError, match="precision"):  # moved to another machine
        distill(DATA, dataclasses.replace(auto, iterations=3), run_folder=tmp_path / "run", resume=True)
    evaluation = evaluate(distilled, {"all": DATA}, dataclasses.replace(EVALUATE, precision="auto"))
    assert evaluation.config.precision == "float32"
    experts = pretrain(DATA, dataclasses.replace(PRETRAIN, precision="auto"), tmp_path / "experts")
    assert experts.config.precision == "float32"
