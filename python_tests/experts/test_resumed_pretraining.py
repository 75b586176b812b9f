"""Pretraining that was stopped or crashed: what is kept, and that the pool ends bit for bit alike."""

import dataclasses
import signal

import pytest
import torch
from pretraining_cases import with_stripes
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_experts import NETWORK, TINY, equal, weights

from dgdd_fast.config import AugmentConfig, PretrainConfig, from_dict, to_dict
from dgdd_fast.data import normalise
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.experts import ExpertPool, ExpertPoolError, discriminators
from dgdd_fast.experts.expert_training import checkpoint_file
from dgdd_fast.experts.pretrain import PretrainingInterrupted, pretrain
from dgdd_fast.seeds import generator


def test_refitting_changes_the_discriminators_alone_and_survives_an_interruption(data, tmp_path, monkeypatch):
    data = with_stripes(data)
    joint = PretrainConfig(
        experts=1, epochs=6, batch_size=12, learning_rate=0.02, reversal_weight=3.0, cutmix_probability=0.0,
        network=dataclasses.replace(NETWORK, width=8), augment=AugmentConfig(strategy="none"),
        discriminators="joint",
    )  # fmt: skip
    refitted = dataclasses.replace(joint, discriminators="refitted")
    before = pretrain(data, joint, tmp_path / "before")
    after = pretrain(data, refitted, tmp_path / "after")
    count = sum(1 for _ in before.new_expert().network.parameters())
    first, second = (weights(pool, 0, 1.0) for pool in (before, after))
    assert equal(first[:count], second[:count])
    assert not any(one.equal(other) for one, other in zip(first[count:], second[count:], strict=True))
    told = after.log[0][-1].pop("refitted_domain_accuracy")
    assert after.log == before.log
    assert min(told) > 80 > max(before.log[0][-1]["domain_accuracy"])

    images = normalise(data.images, after.mean, after.std)  # which were not augmented
    expert = after.new_expert()
    after.fill_(expert, 0, 1.0)
    right = (expert(images)[1].argmax(2) == data.domains).float().mean(1)
    assert told == pytest.approx((100 * right).tolist(), abs=1)  # an image on the border
    for features, discriminator in zip(pooled(expert, images), expert.discriminators, strict=True):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-8))
        wanted = probe.fit(features.double().numpy(), data.domains.numpy()).predict_proba(features.numpy())
        found = torch.softmax(discriminator(features), 1)
        torch.testing.assert_close(found.double(), torch.from_numpy(wanted), rtol=0, atol=1e-2)

    honest = torch.optim.SGD.step
    steps = 0

    def step(self, *arguments):
        nonlocal steps
        steps += 1
        if steps == 54:  # the last
            signal.raise_signal(signal.SIGINT)
        return honest(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(PretrainingInterrupted, match="6 of 6 epochs"):
        pretrain(data, refitted, tmp_path / "resumed")
    pretrain(data, refitted, tmp_path / "resumed", resume=True)
    name = "expert_00.safetensors"
    assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


def test_refitting_sees_images_as_they_are_augmented_and_behind_a_cutout(data, folder, monkeypatch):
    pool = ExpertPool.load(folder)
    real = RealImages(with_stripes(data), pool.mean, pool.std, torch.device("cpu"))
    seen = []
    honest = discriminators.draw_batch

    def draw(augmentation, *arguments):
        seen.append(augmentation.strategy)
        return honest(augmentation, *arguments)

    monkeypatch.setattr(discriminators, "draw_batch", draw)
    expert = pool.new_expert()
    pool.fill_(expert, 0, 1.0)
    told = discriminators.refit_discriminators_(expert, real, pool.config, generator(0))
    assert seen == ["color_crop"] * 3 + ["color_crop_cutout"] * 3  # 108 images in batches of 40
    assert min(told) > 50  # chance is 33
    again = pool.new_expert()
    pool.fill_(again, 0, 1.0)
    discriminators.refit_discriminators_(again, real, pool.config, generator(0))
    assert equal(expert.parameters(), again.parameters())


def test_of_very_many_images_some_are_drawn_to_refit_on(data, folder, monkeypatch):
    pool = ExpertPool.load(folder)
    real = RealImages(with_stripes(data), pool.mean, pool.std, torch.device("cpu"))
    honest, seen = RealImages.take, []

    def take(self, rows):
        seen.extend(rows.tolist())
        return honest(self, rows)

    monkeypatch.setattr(RealImages, "take", take)
    monkeypatch.setattr(discriminators, "_MOST", 60)
    expert = pool.new_expert()
    pool.fill_(expert, 0, 1.0)
    told = discriminators.refit_discriminators_(expert, real, pool.config, generator(0))
    assert seen == seen[:60] * 3
    assert len(set(seen)) == 60
    assert len(set(real.domains[seen].tolist())) == 3
    assert min(told) > 50


def pooled(expert, images):
    """The average-pooled features of the stages."""
    return [expert.network.forward_to(images, stage).mean((2, 3)) for stage in range(1, 5)]


@pytest.mark.parametrize(("epochs", "now"), [(0, "joint"), (5, "refitted")])
def test_settings_with_epochs_of_refitting_are_read(epochs, now):
    values = {name: value for name, value in to_dict(TINY).items() if name != "discriminators"}
    config = from_dict(PretrainConfig, values | {"refit_epochs": epochs})
    assert config == dataclasses.replace(TINY, discriminators=now)
    with pytest.raises(ValueError, match="refit_epochs must be int and not negative, got -1"):
        from_dict(PretrainConfig, {"refit_epochs": -1})


@pytest.mark.parametrize("stop_at", [1, 2, 4, 5, 6])
def test_ctrl_c_keeps_what_is_done_and_the_resumed_pool_is_bit_for_bit_alike(
    data, folder, tmp_path, stop_at, monkeypatch
):
    """Steps 1 to 9 are of the first expert, three an epoch."""
    honest = torch.optim.SGD.step
    steps = 0

    def step(self, *arguments):
        nonlocal steps
        steps += 1
        if steps == stop_at or steps == stop_at + 9:
            signal.raise_signal(signal.SIGINT)
        return honest(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    for index in range(2):
        with pytest.raises(PretrainingInterrupted, match=r"of 3 epochs of expert . of 2; .*--resume"):
            pretrain(data, TINY, tmp_path, resume=True)
        assert checkpoint_file(tmp_path, index).exists()
        with pytest.raises(ExpertPoolError, match=r"of 2 experts: finish it first .*--resume"):
            ExpertPool.load(tmp_path)
    resumed = pretrain(data, TINY, tmp_path, resume=True)
    assert steps == 18  # no step was taken twice
    whole = ExpertPool.load(folder)
    assert resumed.log == whole.log
    for index in range(2):
        name = f"expert_{index:02d}.safetensors"
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert not any(tmp_path.glob("checkpoint*"))


def test_a_crash_goes_back_to_the_last_checkpoint_only(data, folder, tmp_path):
    seen = []

    def crash(state):
        seen.append((state.expert, state.epoch))
        if state == (1, 2, 3, 3, state.measures):
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        pretrain(data, TINY, tmp_path, progress=crash)
    assert seen == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    seen.clear()
    pool = pretrain(
        data, TINY, tmp_path, resume=True, progress=lambda state: seen.append((state.expert, state.epoch))
    )
    assert seen == [(1, 3)]
    assert equal(weights(pool, 1, 1.0), weights(ExpertPool.load(folder), 1, 1.0))


def test_the_checkpoint_of_an_earlier_version_is_gone_on_from(data, folder, tmp_path):
    def crash(state):
        if (state.expert, state.epoch) == (1, 3):
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        pretrain(data, TINY, tmp_path, progress=crash)
    checkpoint_file(tmp_path, 1).rename(tmp_path / "checkpoint.safetensors")
    seen = []
    pretrain(
        data, TINY, tmp_path, resume=True, progress=lambda state: seen.append((state.expert, state.epoch))
    )
    assert seen == [(1, 3)]
    names = ["expert_00.safetensors", "expert_01.safetensors", "pool.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
