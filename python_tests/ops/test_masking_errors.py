"""Every message of the masking operators: the op, the argument, what was expected, what came."""

import math
import re

import pytest
import torch

from dgdd_fast import ops

FEATURES = torch.zeros(4, 5, 6, 7)
WEIGHT = torch.zeros(3, 5)
INDEX = torch.zeros(4, dtype=torch.int64)
UNIFORMS = torch.full((4, 5), 0.5)
FLOATING = "float32, float64, bfloat16 or float16"

SCORE_ERRORS = [
    ({"features": FEATURES.long()}, f"features must be {FLOATING}, got int64"),
    ({"features": FEATURES[0, 0, 0]}, "features must be [N, C, *], got [7]"),
    ({"weight": WEIGHT.double()}, "weight must be float32 like features, got float64"),
    (
        {"features": FEATURES.half(), "weight": WEIGHT.bfloat16()},
        "weight must be float16 like features, or float32, got bfloat16",
    ),
    ({"weight": WEIGHT[0]}, "weight must be [D, C], got [5]"),
    ({"weight": WEIGHT[:, :4]}, "weight must be [D, C] = [3, 5], got [3, 4]"),
    ({"domain_index": INDEX.int()}, "domain_index must be int64, got int32"),
    ({"domain_index": INDEX[:3]}, "domain_index must be [N] = [4], got [3]"),
    ({"domain_index": torch.tensor([0, 1, 3, 2])}, "domain_index must be in [0, 3), got 3 at position 2"),
    ({"domain_index": torch.tensor([0, -1, 1, 2])}, "domain_index must be in [0, 3), got -1 at position 1"),
    ({"weight": WEIGHT[:0]}, "domain_index must be in [0, 0), got 0 at position 0"),
]
SELECT_ERRORS = [
    ({"uniforms": UNIFORMS.double()}, "uniforms must be float32 like {like}, got float64"),
    ({"uniforms": UNIFORMS[:, :4]}, "uniforms must be [N, C] = [4, 5], got [4, 4]"),
    ({"num_masked": -1}, "num_masked must be in [0, C] = [0, 5], got -1"),
    ({"num_masked": 6}, "num_masked must be in [0, C] = [0, 5], got 6"),
]


@pytest.mark.parametrize(("changed", "message"), SCORE_ERRORS, ids=lambda value: str(value)[:60])
def test_scores(changed: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"features": FEATURES, "weight": WEIGHT, "domain_index": INDEX, **changed}
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::channel_scores: {message}")):
        ops.channel_scores(**arguments)
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::mask_channels: {message}")):
        ops.mask_channels(**arguments, uniforms=UNIFORMS, num_masked=1)


@pytest.mark.parametrize(("changed", "message"), SELECT_ERRORS, ids=lambda value: str(value)[:60])
def test_selection(changed: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"uniforms": UNIFORMS, "num_masked": 1, **changed}
    expected = f"dgdd::weighted_channel_mask: {message.format(like='scores')}"
    with pytest.raises(RuntimeError, match=re.escape(expected)):
        ops.weighted_channel_mask(UNIFORMS, **arguments)
    expected = f"dgdd::mask_channels: {message.format(like='features')}"
    with pytest.raises(RuntimeError, match=re.escape(expected)):
        ops.mask_channels(FEATURES, WEIGHT, INDEX, **arguments)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (UNIFORMS.int(), f"scores must be {FLOATING}, got int32"),
        (UNIFORMS[0], "scores must be [N, C], got [5]"),
        (UNIFORMS.half(), None),
        (UNIFORMS.double(), "uniforms must be float64 like scores, got float32"),
    ],
    ids=str,
)
def test_scores_to_choose_by(scores: torch.Tensor, message: str | None) -> None:
    if message is None:
        assert ops.weighted_channel_mask(scores, UNIFORMS, 2).dtype == scores.dtype
        return
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::weighted_channel_mask: {message}")):
        ops.weighted_channel_mask(scores, UNIFORMS, 2)


def test_nothing_left_to_rescale() -> None:
    message = "num_masked must be less than C = 5 with rescale=True, which divides by what is left, got 5"
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::mask_channels: {message}")):
        ops.mask_channels(FEATURES, WEIGHT, INDEX, UNIFORMS, 5)
    masked, mask = ops.mask_channels(FEATURES + 1, WEIGHT, INDEX, UNIFORMS, 5, rescale=False)
    assert masked.eq(0).all()
    assert mask.eq(0).all()


@pytest.mark.parametrize(
    ("mask", "scale", "message"),
    [
        (UNIFORMS.double(), 1.0, "mask must be float32 like features, got float64"),
        (UNIFORMS[:, :4], 1.0, "mask must be [N, C] = [4, 5], got [4, 4]"),
        (UNIFORMS, math.nan, "scale must be finite, got nan"),
    ],
    ids=str,
)
def test_applying_a_mask(mask: torch.Tensor, scale: float, message: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(f"dgdd::apply_channel_mask: {message}")):
        torch.ops.dgdd.apply_channel_mask.default(FEATURES, mask, scale)


@pytest.mark.needs_gpu
def test_tensors_on_two_devices(cuda: torch.device) -> None:
    with pytest.raises(RuntimeError, match="weight must be on cuda:0 like features, got cpu"):
        ops.channel_scores(FEATURES.to(cuda), WEIGHT, INDEX.to(cuda))
    with pytest.raises(RuntimeError, match="uniforms must be on cuda:0 like scores, got cpu"):
        ops.weighted_channel_mask(UNIFORMS.to(cuda), UNIFORMS, 1)


def test_no_message_carries_a_path_of_the_build() -> None:
    with pytest.raises(RuntimeError) as caught:
        ops.channel_scores(FEATURES, WEIGHT, INDEX[:3])
    assert "/" not in str(caught.value)
