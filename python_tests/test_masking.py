"""Which stage is masked, and which channels of an image: independent draws, evenly spread."""

from __future__ import annotations

from pathlib import Path

import torch
from toy_data import toy_domains
from toy_experts import toy_experts

from dgdd_fast.config import (
    MaskConfig,
)
from dgdd_fast.experts import ExpertPool
from dgdd_fast.masking import draw_stage, draw_uniforms, mask


def test_stages_and_activation_are_drawn_evenly_and_independently() -> None:
    config = MaskConfig()
    count = 4000
    drawn = [
        [draw_stage(config, 4, 0, purpose, iteration) for iteration in range(count)]
        for purpose in ("matching", "regularisation")
    ]
    for stages in drawn:
        # 5 standard deviations of a binomial of probability 0.2 (each stage and no masking) are 127
        assert all(abs(stages.count(value) - count / 5) < 127 for value in (1, 2, 3, 4, None))
    both = sum(first is None and second is None for first, second in zip(*drawn, strict=True))
    assert abs(both - count / 25) < 5 * (count * 0.04 * 0.96) ** 0.5


def test_uniform_masks_ask_no_discriminator(tmp_path: Path) -> None:
    """4,000 masks of 2 in 8 channels: a frequency is off by 0.03 once in 10,000."""
    expert = ExpertPool.load(toy_experts(tmp_path, toy_domains(per_cell=8))).new_expert()
    expert.discriminators[0] = torch.nn.Linear(8, expert.discriminators[0].out_features)
    torch.nn.init.ones_(expert.discriminators[0].weight)
    maps = torch.linspace(0, 1, 8).expand(4000, 8)[:, :, None, None].contiguous()
    domain = torch.zeros(4000, dtype=torch.int64)
    uniforms = draw_uniforms(4000, 8, 0, "test")
    masked = {
        score: (mask(maps, expert, 1, domain, uniforms, MaskConfig(0.25, score=score))[1] == 0).float()
        for score in ("gap", "uniform")
    }
    assert all(each.sum(1).eq(2).all() for each in masked.values())
    torch.testing.assert_close(masked["uniform"].mean(0), torch.full((8,), 0.25), rtol=0, atol=0.03)
    assert masked["gap"][:, -1].mean() > masked["gap"][:, 1].mean() + 0.1


def test_two_copies_and_two_iterations_have_different_masks() -> None:
    first = draw_uniforms(50, 8, 0, "regularisation", 3, 0)
    assert torch.equal(first, draw_uniforms(50, 8, 0, "regularisation", 3, 0))
    for other in (("regularisation", 3, 1), ("regularisation", 4, 0), ("matching", 3)):
        assert not torch.equal(first, draw_uniforms(50, 8, 0, *other))
