"""A damaged file is refused by an error that names it, or gives what was saved; it never crashes, hangs or
goes unseen. Settings, lists and images have no checksum: what is taken of them is at least of their type."""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import outcomes
from PIL import Image
from small_runs import toy_set
from toy_data import toy_domains
from toy_experts import toy_experts

from dgdd_fast.config import (
    DistillConfig,
    EvaluateConfig,
    NetworkConfig,
    PretrainConfig,
    SurgeryConfig,
    to_dict,
)
from dgdd_fast.config.run import RunConfig, read_run_config
from dgdd_fast.data import DataError, DomainDataset
from dgdd_fast.data.images import read_image
from dgdd_fast.data.npz import load_npz
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.data.splits import SplitLists, read_lists
from dgdd_fast.experiments.grid import read_index
from dgdd_fast.experiments.job import read_evaluation
from dgdd_fast.experiments.study import Study, read_study
from dgdd_fast.experiments.tuned_settings import read_tuned_settings
from dgdd_fast.experts import ExpertPool
from dgdd_fast.experts.expert_training import ExpertTraining, checkpoint_file
from dgdd_fast.experts.pretrain import resolve_pretraining
from dgdd_fast.json_text import write_json
from dgdd_fast.synthetic.checkpoint import Checkpoint
from dgdd_fast.synthetic.distilled_set import DistilledSet

NAMES = tuple(item.name for item in dataclasses.fields(DistilledSet))
ARRAYS = ("images", "labels", "domains", "is_test", "class_names")


@pytest.fixture(params=[1000, pytest.param(20_000, marks=pytest.mark.slow)])
def count(request: pytest.FixtureRequest) -> int:
    """How many damaged copies are tried."""
    return int(request.param)


def same(first: object, second: object) -> bool:
    """Whether two objects hold the same, tensors compared bit for bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    return first == second


def report(kind: str, counted: Counter[str]) -> None:
    print(f"{kind}: {counted['refused']} refused, {counted['taken']} taken as saved or as another valid one")


def test_damaged_sets(tmp_path: Path, count: int) -> None:
    path = tmp_path / "set.safetensors"
    toy_set(toy_domains(side=8), per_class=2).save(path)
    saved = DistilledSet.load(path)
    whole = {name: getattr(saved, name) for name in NAMES}
    counted = outcomes(
        path,
        lambda: DistilledSet.load(path),
        lambda taken: same({name: getattr(taken, name) for name in NAMES}, whole),
        count,
    )
    report("sets", counted)
    assert counted["refused"] > 0.9 * count


def test_damaged_checkpoints(tmp_path: Path, count: int) -> None:
    path = tmp_path / "checkpoint.safetensors"
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    state = {"momentum": images / 2, "length_ratio": torch.ones(2, dtype=torch.float64)}
    settings = to_dict(DistillConfig(surgery=SurgeryConfig()))
    Checkpoint(2, images, state, torch.ones(2, 1), settings, "fingerprint", 1).save(path)
    whole = vars(Checkpoint.load(path))
    counted = outcomes(path, lambda: Checkpoint.load(path), lambda taken: same(vars(taken), whole), count)
    report("checkpoints", counted)
    assert counted["refused"] > 0.9 * count


def test_damaged_experts(tmp_path: Path, count: int) -> None:
    data = toy_domains(side=16)
    toy_experts(tmp_path, data, experts=1)
    path = tmp_path / "expert_00.safetensors"

    def weights() -> list[torch.Tensor]:
        pool = ExpertPool.load(tmp_path)
        expert = pool.new_expert()
        pool.fill_(expert, 0, 0.5)
        return [parameter.clone() for parameter in expert.parameters()]

    saved = weights()
    counted = outcomes(
        path,
        weights,
        lambda taken: all(map(torch.equal, taken, saved)),
        count // 40,
    )
    report("experts", counted)


def test_damaged_pools(tmp_path: Path, count: int) -> None:
    toy_experts(tmp_path, toy_domains(), experts=2)
    path = tmp_path / "pool.json"
    saved = ExpertPool.read(tmp_path)
    counted = outcomes(path, lambda: ExpertPool.read(tmp_path), lambda taken: taken == saved, count)
    report("pools of experts", counted)


def test_damaged_states_of_pretraining(tmp_path: Path, count: int) -> None:
    data = toy_domains(per_cell=2)
    network = NetworkConfig(architecture="resnet18", width=2)
    config = PretrainConfig(experts=1, epochs=1, batch_size=64, network=network, checkpoint_every=1)
    path = checkpoint_file(tmp_path, 0)
    real = RealImages(data, *data.channel_statistics(), torch.device("cpu"))
    training = ExpertTraining(real, resolve_pretraining(config, data), 0)
    training.step()
    training.save(tmp_path)
    saved = {name: tensor.clone() for name, tensor in training._tensors().items()}

    def load() -> dict[str, torch.Tensor]:
        for tensor in training._tensors().values():
            tensor.zero_()
        training.resume(tmp_path)
        return training._tensors()

    counted = outcomes(path, load, lambda taken: same(taken, saved), count // 20)
    report("experts in training", counted)


SETTINGS = """\
data: pictures
target: sketch
domains: [photo, sketch, clip]
distill: {objective: dm, ipc: 2, image_lr: 0.5, surgery: {alpha: 1.5}, network: {width: 8}}
"""
STUDY = """\
title: a study
methods: [dm, {method: dm+sgs, distill: {surgery: {alpha: 2}}}]
seeds: [0, 1]
sweeps: {distill.image_lr: [0.1, 1.0]}
"""


def test_damaged_settings(tmp_path: Path, count: int) -> None:
    """YAML that people write: there is no checksum, so another value may be taken."""
    for name, text, load, kind in (
        ("config.yaml", SETTINGS, read_run_config, RunConfig),
        ("study.yaml", STUDY, read_study, Study),
    ):
        path = tmp_path / name
        path.write_text(text)
        counted = outcomes(
            path, partial(load, path), lambda taken, kind=kind: isinstance(taken, kind), count // 2
        )
        report(name, counted)


JSON = ("grid.json", "evaluation.json", "tuning.json")


def test_damaged_results(tmp_path: Path, count: int) -> None:
    """Evaluations, indexes and tunings; the message of an evaluation is the same whatever is wrong."""
    entry = {"row": "dm", "evaluation": "", "ipc": 1, "column": "a", "seed": 0, "tests": ["a"]}
    entry |= {"pooled": True, "file": "jobs/x/a.json", "reference": "jobs/y/a.json", "set_folder": "jobs/x"}
    data = {"name": "toy", "resolution": [8, 8], "classes": ["x"], "domains": ["a", "b"]}
    rows = [{"key": "dm", "label": "DM", "entry": "dm", "sweep": None}]
    index = {"study": to_dict(Study()), "data": data, "rows": rows, "columns": ["a"]}
    write_json(tmp_path / "grid.json", {**index, "evaluations": [""], "entries": [entry]})
    evaluation = {
        "accuracies": {"a": {"runs": [12.5]}},
        "images": {"a": 4},
        "config": to_dict(EvaluateConfig(runs=1)),
    }
    write_json(tmp_path / "evaluation.json", {**evaluation, "description": "text", "seconds": 1.5})
    chosen = {"settings": {"distill.image_lr": 0.5}, "accuracy": 50.0, "trials": []}
    columns = {"a": {"sources": {"b": "fingerprint"}, "rows": {"dm": {"1": chosen}}}}
    write_json(
        tmp_path / "tuning.json", {"protocol": "leave-one-out", "resolution": [8, 8], "columns": columns}
    )
    readers = (read_index, lambda folder: read_evaluation(folder / "evaluation.json"), read_tuned_settings)
    for name, read in zip(JSON, readers, strict=True):
        saved = read(tmp_path)
        counted = outcomes(
            tmp_path / name,
            partial(read, tmp_path),
            lambda taken, saved=saved: taken == saved,
            count // 3,
        )
        report(name, counted)


FORMATS = {"png": {}, "jpg": {"quality": 90}, "bmp": {}, "gif": {}, "webp": {}, "ppm": {}, "tif": {}}


def test_damaged_images(tmp_path: Path, count: int) -> None:
    pixels = toy_domains(per_cell=1, side=24).images[0].permute(1, 2, 0).numpy()
    for ending, options in FORMATS.items():
        path = tmp_path / f"image.{ending}"
        Image.fromarray(pixels).save(path, **options)
        saved = read_image(path, str(path), 16)

        def whole(taken: np.ndarray, saved: np.ndarray = saved, ending: str = ending) -> bool:
            # A PNG has checksums of its own; of the others a damaged one may be another image.
            alike = taken.dtype == np.uint8 and taken.shape == saved.shape
            return alike and (ending != "png" or np.array_equal(taken, saved))

        counted = outcomes(
            path, lambda path=path: read_image(path, str(path), 16), whole, count // len(FORMATS), DataError
        )
        report(ending, counted)


def test_damaged_arrays(tmp_path: Path, count: int) -> None:
    data = toy_domains(per_cell=2, domains=1, side=6)
    arrays = {
        f"{what}_{split}": values
        for split, rows in (("train", data.train()), ("test", data.test()))
        for what, values in (("x", rows.images[:].permute(0, 2, 3, 1).numpy()), ("y", rows.labels.numpy()))
    }
    for save in (np.savez, np.savez_compressed):
        path = tmp_path / f"{save.__name__}.npz"
        save(path, classes=np.array(data.class_names), **arrays)
        saved = load_npz(path)

        def whole(taken: DomainDataset, saved: DomainDataset = saved) -> bool:
            return all(same(getattr(taken, name), getattr(saved, name)) for name in ARRAYS)

        counted = outcomes(path, lambda path=path: load_npz(path), whole, count // 2, DataError)
        report(path.name, counted)


def test_damaged_lists(tmp_path: Path, count: int) -> None:
    train, test = tmp_path / "photo_train.txt", tmp_path / "photo_test.txt"
    train.write_text(
        "".join(f"photo/{name}/{n}.jpg {label}\n" for n in range(9) for label, name in enumerate("ab"))
    )
    test.write_text(
        "".join(f"photo/{name}/t{n}.jpg {label}\n" for n in range(9) for label, name in enumerate("ab"))
    )
    counted = outcomes(
        train,
        lambda: read_lists(train, test, "photo", ["a", "b"]),
        lambda taken: isinstance(taken, SplitLists),
        count // 4,
        DataError,
    )
    report("lists", counted)
