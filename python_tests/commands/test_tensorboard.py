"""`--log tensorboard`: what is logged, and what is said where it cannot be."""

import json
import sys

import pytest
from command_line import dgdd, failure
from run_commands import NARROW, TINY

from dgdd_fast.distillation import Progress

LOGGED = ("--log", "tensorboard")


def test_without_tensorboard_the_extra_is_named_and_nothing_is_written(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    out = tmp_path / "run"
    options = ("--data", pictures, "--target", "domain2", *TINY, "--out", out)
    code, text = failure("distill", *options, *LOGGED)
    assert (code, "pip install 'dgdd-fast[logging]'" in text, out.exists()) == (2, True, False)
    code, text = failure("distill", *options, "--log", "paper")
    assert (code, "--log must be tensorboard" in text, out.exists()) == (2, True, False)
    study = tmp_path / "study.yaml"
    study.write_text(f"data: {pictures}\n")
    code, text = failure("grid", study, "--out", out, *LOGGED)
    assert (code, "pip install 'dgdd-fast[logging]'" in text, out.exists()) == (2, True, False)


def test_scalars_come_every_few_iterations_images_now_and_then_and_both_at_the_end(tmp_path, monkeypatch):
    from small_runs import toy_set
    from toy_data import toy_domains

    from dgdd_fast.experiments import tensorboard

    class Writer:
        def __init__(self, folder, purge_step):
            calls.append(("begun", folder, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def add_image(self, name, pixels, step, dataformats):
            calls.append((name, pixels.shape[-1], step))

        def flush(self):
            pass

        def close(self):
            calls.append(("closed",))

    calls = []
    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    images = toy_set(toy_domains(), per_class=3)
    with tensorboard.TensorBoardLog(tmp_path) as log:
        for step in range(498, 504):
            log.add(Progress(step, 503, 2.0, {"a": 1.5, "b": 0.5}, 0.25, lambda: images))
    assert calls[0] == ("begun", str(tmp_path / "tensorboard"), 498)
    assert calls[-1] == ("closed",)
    assert [call for call in calls if call[0] in ("loss/a", "images")] == [
        ("loss/a", 1.5, 500), ("images", 3, 500), ("loss/a", 1.5, 503), ("images", 3, 503),
    ]  # fmt: skip


def test_a_run_is_logged_for_tensorboard_to_read(pictures, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    dgdd("distill", "--data", pictures, "--target", "domain2", *TINY, "--out", out, *LOGGED)
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    loss = (out / "losses.csv").read_text().splitlines()[-1].split(",")
    (event,) = events.Scalars("loss")
    assert (event.step, event.value) == (int(loss[0]), pytest.approx(float(loss[1])))
    assert [image.step for image in events.Images("images")] == [int(loss[0])]


def test_experts_are_logged_epoch_by_epoch(pictures, tmp_path, monkeypatch):
    calls = []

    class Writer:
        def __init__(self, folder, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def flush(self):
            pass

        close = flush

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    out = tmp_path / "experts"
    options = ("--experts", 2, "--epochs", 2, "--architecture", "convnet", *NARROW)
    options += ("--domain", "domain0", "--domain", "domain1", "--domain", "domain2", *LOGGED)
    text = dgdd("pretrain", "--data", pictures, "--target", "domain2", *options, "--out", out).output
    assert "domains domain0, domain1; held out: domain2" in text
    assert calls[0] == (str(out / "tensorboard"), 1)
    log = json.loads((out / "pool.json").read_text())["log"]
    losses = [call for call in calls if call[0].endswith("/class loss")]
    assert losses == [
        (f"expert {1 + expert}/class loss", log[expert][epoch]["class_loss"], 2 * expert + epoch + 1)
        for expert in (0, 1)
        for epoch in (0, 1)
    ]
