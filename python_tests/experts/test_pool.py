"""The files of a pool of experts: what comes back, what goes on, what is refused."""

import dataclasses
import json

import pytest
import torch
from small_experts import TINY, equal, weights
from toy_data import toy_domains

from dgdd_fast.experts import ExpertPool, ExpertPoolError
from dgdd_fast.experts.expert_training import checkpoint_file
from dgdd_fast.experts.pretrain import pretrain, resolve_pretraining
from dgdd_fast.networks import initialise
from dgdd_fast.seeds import generator


def test_a_pool_comes_back_from_its_folder(data, folder):
    assert {path.name for path in folder.iterdir()} == {
        "pool.json", "expert_00.safetensors", "expert_01.safetensors",
    }  # fmt: skip
    pool = ExpertPool.load(folder)
    assert len(pool) == 2
    assert pool.config == resolve_pretraining(TINY, data)
    assert pool.config.network.width == 4
    assert (pool.class_names, pool.domain_names) == (data.class_names, data.domain_names)
    assert (pool.resolution, pool.fingerprint) == ((16, 16), data.fingerprint())
    mean, std = data.channel_statistics()
    assert (pool.mean, pool.std) == (tuple(mean.tolist()), tuple(std.tolist()))
    assert [len(epochs) for epochs in pool.log] == [3, 3]
    assert len(pool.log[1][2]["domain_accuracy"]) == 4
    expert = pool.new_expert()
    assert not expert.training
    assert not any(parameter.requires_grad for parameter in expert.parameters())
    assert expert(torch.zeros(2, 3, 16, 16))[0].shape == (2, 3)


def test_experts_lie_between_their_initial_and_trained_weights(folder):
    pool = ExpertPool.load(folder)
    fresh = pool.new_expert()
    initialise(fresh.network, generator(0, "expert", 1, "network"))
    initialise(fresh.discriminators, generator(0, "expert", 1, "discriminators"))
    initial, trained = weights(pool, 1, 0.0), weights(pool, 1, 1.0)
    assert equal(initial, fresh.parameters())
    assert not any(one.equal(other) for one, other in zip(initial, trained, strict=True))
    for actual, start, end in zip(weights(pool, 1, 0.3), initial, trained, strict=True):
        torch.testing.assert_close(actual, 0.7 * start + 0.3 * end)
    assert not equal(trained, weights(pool, 0, 1.0))
    assert equal(trained, weights(pool, 1, 1.0))  # the pool's own weights were left alone
    with pytest.raises(IndexError, match="experts 0 to 1, got 2"):
        pool.fill_(fresh, 2, 0.5)


def test_a_pool_can_be_enlarged(data, folder, tmp_path):
    checkpoint = checkpoint_file(tmp_path, 0)
    left_over = []

    def keep(state):
        if checkpoint.exists():
            left_over.append(checkpoint.read_bytes())

    pretrain(data, dataclasses.replace(TINY, experts=1), tmp_path, progress=keep)
    first = (tmp_path / "expert_00.safetensors").stat().st_mtime_ns
    checkpoint.write_bytes(left_over[-1])  # as after a crash between the expert's file and the clearing up
    pool = pretrain(data, TINY, tmp_path, resume=True)
    assert (tmp_path / "expert_00.safetensors").stat().st_mtime_ns == first
    assert equal(weights(pool, 1, 1.0), weights(ExpertPool.load(folder), 1, 1.0))
    assert pool.config.experts == 2
    with pytest.raises(ExpertPoolError, match="already holds 2 experts, more than 1"):
        pretrain(data, dataclasses.replace(TINY, experts=1), tmp_path, resume=True)
    (tmp_path / "expert_00.safetensors").unlink()
    with pytest.raises(ExpertPoolError, match=r"expert_00\.safetensors is missing; copy the folder again"):
        pretrain(data, TINY, tmp_path, resume=True)


def test_a_pool_in_the_way_or_of_other_settings_or_data_is_refused(data, folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"pool\.json exists: go on with it .*--resume"):
        pretrain(data, TINY, folder)
    with pytest.raises(ExpertPoolError, match=r"experts with learning_rate = 0\.01, now 0\.5"):
        pretrain(data, dataclasses.replace(TINY, learning_rate=0.5), folder, resume=True)
    with pytest.raises(ExpertPoolError, match="other images of the same classes and domains"):
        pretrain(toy_domains(seed=5), TINY, folder, resume=True)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "expert_00.safetensors").write_bytes(before["expert_00.safetensors"])
    with pytest.raises(ExpertPoolError, match=r"holds experts, but no pool\.json"):
        pretrain(data, TINY, tmp_path)


def test_a_pool_knows_its_data(data, folder):
    pool = ExpertPool.load(folder)
    pool.check(data)
    for other, message in (
        (data.only_domains(["domain0", "domain1"]), "with domains domain0, domain1, domain2, the data have"),
        (toy_domains(classes=2), "with classes class0, class1, class2, the data have class0, class1;"),
        (toy_domains(side=12), "with resolution 16, 16, the data have 12, 12"),
        (data.train(), "of toy, 27 images that were learnt from are gone"),
        (toy_domains(seed=5), r"108 images of its training part were not learnt from \(item0, .* are gone"),
        (
            data.select(torch.arange(len(data)).flip(0)),
            "labels, domains or the order of the images are others",
        ),
    ):
        with pytest.raises(ExpertPoolError, match=message):
            pool.check(other)


@pytest.mark.parametrize(("older", "kept"), [({}, "joint"), ({"refit_epochs": 3}, "refitted")])
def test_experts_from_before_a_setting_are_what_they_were_then(older, kept, data, folder, tmp_path):
    """Without a word about refitting their discriminators are those of the training: so are the next ones."""
    content = json.loads((folder / "pool.json").read_text())
    del content["sha256"], content["config"]["discriminators"]
    content["config"] |= older
    (tmp_path / "pool.json").write_text(json.dumps(content))
    assert ExpertPool.read(tmp_path).config.discriminators == kept
    if kept == "joint":
        with pytest.raises(ExpertPoolError, match="experts with discriminators = 'joint', now 'refitted'"):
            pretrain(data, TINY, tmp_path, resume=True)


def test_a_pool_of_a_version_before_does_not_tell_which_images_are_others(data, folder, tmp_path):
    content = json.loads((folder / "pool.json").read_text())
    del content["sha256"], content["learnt_from"]
    (tmp_path / "pool.json").write_text(json.dumps({**content, "format": "dgdd-fast experts 2"}))
    pool = ExpertPool.read(tmp_path)
    pool.check(data)
    with pytest.raises(ExpertPoolError, match="which ones, pools of earlier versions do not tell"):
        pool.check(data.train())


@pytest.mark.parametrize("damage", ["no pool", "text", "foreign", "missing", "truncated", "swapped"])
def test_damage_is_named(damage, folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    pool_file, expert_file = tmp_path / "pool.json", tmp_path / "expert_01.safetensors"
    content = json.loads(pool_file.read_text())
    if damage == "no pool":
        pool_file.unlink()
    elif damage == "text":
        pool_file.write_text("{")
    elif damage == "foreign":
        pool_file.write_text(json.dumps({**content, "format": "something else"}))
    elif damage == "missing":
        expert_file.unlink()
    elif damage == "truncated":
        expert_file.write_bytes(expert_file.read_bytes()[:-50])
    else:
        content["config"]["network"]["width"] = 8
        pool_file.write_text(json.dumps(content))
    with pytest.raises((ExpertPoolError, FileNotFoundError), match=r"pool\.json|expert_01\.safetensors"):
        weights(ExpertPool.load(tmp_path), 1, 1.0)


def test_a_damaged_checkpoint_is_named(data, tmp_path):
    pretrain(data, dataclasses.replace(TINY, experts=1), tmp_path)
    checkpoint_file(tmp_path, 1).write_text("not a checkpoint")
    with pytest.raises(ExpertPoolError, match=r"checkpoint_01\.safetensors is damaged or no checkpoint"):
        pretrain(data, TINY, tmp_path, resume=True)
