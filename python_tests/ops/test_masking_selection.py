"""Which channels weighted_channel_mask chooses: the law, the exact count, ties, and numbers at their ends."""

import math
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_cases import DTYPES
from scipy.stats import chi2
from torch import Tensor

from dgdd_fast import ops
from dgdd_fast.ops import reference

ROWS = 40_000
FALSE_ALARM = 1e-6  # of one chi-square test; there are eight


def uniforms(rows: int, channels: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, channels, generator=generator, dtype=torch.float64).to(dtype)


def probabilities(weights: list[float], num_masked: int) -> dict[tuple[int, ...], float]:
    """Of each set that can come out, by enumeration of all orders of successive draws."""
    result = dict.fromkeys(combinations(range(len(weights)), num_masked), 0.0)
    for order in permutations(range(len(weights)), num_masked):
        left, probability = sum(weights), 1.0
        for channel in order:
            probability *= weights[channel] / left if left > 0 else 0.0
            left -= weights[channel]
        result[tuple(sorted(order))] += probability
    assert math.isclose(sum(result.values()), 1)
    return result


def chi_square(mask: Tensor, expected: dict[tuple[int, ...], float]) -> tuple[float, int]:
    """The statistic over the sets of masked channels, and its degrees of freedom."""
    counts = dict.fromkeys(expected, 0)
    for row in (mask == 0).tolist():
        counts[tuple(channel for channel, masked in enumerate(row) if masked)] += 1
    possible = {chosen for chosen, probability in expected.items() if probability > 0}
    assert all(count == 0 for chosen, count in counts.items() if chosen not in possible)
    statistic = sum(
        (counts[chosen] - len(mask) * expected[chosen]) ** 2 / (len(mask) * expected[chosen])
        for chosen in possible
    )
    return statistic, len(possible) - 1


@pytest.mark.needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_masked", [1, 2, 3, 4])
def test_the_law_of_successive_draws(num_masked: int, dtype: torch.dtype, device: torch.device) -> None:
    weights = [0.0, 1.0, 0.125, 0.5, 0.75]
    scores = torch.tensor(weights, dtype=dtype).expand(ROWS, 5).to(device)
    mask = ops.weighted_channel_mask(scores, uniforms(ROWS, 5).to(device), num_masked).cpu()
    statistic, freedom = chi_square(mask, probabilities(weights, num_masked))
    assert freedom == 0 or statistic < chi2.isf(FALSE_ALARM, freedom)
    if num_masked < 4:  # the test is sharp: it refuses weights that are off by a tenth, and a uniform choice
        other = probabilities([0.0, 1.0, 0.125, 0.55, 0.75], num_masked)
        assert chi_square(mask, other)[0] > chi2.isf(FALSE_ALARM, freedom)
        uniform = probabilities([0.0, 1.0, 1.0, 1.0, 1.0], num_masked)
        assert chi_square(mask, uniform)[0] > chi2.isf(FALSE_ALARM, freedom)


@pytest.mark.long_emulated
def test_the_law_does_not_depend_on_scale_and_offset_of_the_scores(device: torch.device) -> None:
    scores = torch.tensor([-3.0, 2.0, 0.5, -1.0, 7.0])
    drawn = uniforms(500, 5).to(device)
    expected = ops.weighted_channel_mask(scores.expand(500, 5).to(device), drawn, 2)
    for changed in (scores * 8, scores * 2.0**-140, scores * 2.0**120, scores + 1024):
        mask = ops.weighted_channel_mask(changed.expand(500, 5).to(device), drawn, 2)
        assert torch.equal(mask, expected)


@pytest.mark.needs_gpu
def test_constant_scores_are_a_uniform_choice(device: torch.device) -> None:
    for constant in (0.0, -2.5, math.inf, -math.inf):
        scores = torch.full((ROWS, 4), constant).to(device)
        mask = ops.weighted_channel_mask(scores, uniforms(ROWS, 4).to(device), 2).cpu()
        statistic, freedom = chi_square(mask, probabilities([1.0] * 4, 2))
        assert statistic < chi2.isf(FALSE_ALARM, freedom)


@pytest.mark.needs_gpu
def test_scores_that_are_weights_already(device: torch.device) -> None:
    """Without normalisation the smallest weight counts for what it is, and negative ones for nothing."""
    weights = [0.5, 1.0, -3.0, 2.0]
    scores = torch.tensor(weights).expand(ROWS, 4).to(device)
    mask = ops.weighted_channel_mask(scores, uniforms(ROWS, 4).to(device), 2, normalize=False).cpu()
    statistic, freedom = chi_square(mask, probabilities([0.5, 1.0, 0.0, 2.0], 2))
    assert freedom == 2
    assert statistic < chi2.isf(FALSE_ALARM, freedom)


SPECIAL = {
    "negative": [-1.0, -2.0, -0.5, -8.0, -3.0, -1.5],
    "zero": [0.0] * 6,
    "signed zeros": [0.0, -0.0, 0.0, -0.0, 0.0, -0.0],
    "constant": [3.0] * 6,
    "huge": [3e38, -3e38, 1e38, 2e38, -1e38, 0.0],
    "tiny": [1e-45, 3e-45, 0.0, 1e-44, -1e-45, 2e-44],
    "huge and tiny": [3e38, 1e-45, 0.0, 1.0, 2e-45, -1e-45],
    "infinite": [math.inf, 1.0, 2.0, math.inf, 0.0, -1.0],
    "minus infinite": [-math.inf, 1.0, 2.0, -math.inf, 0.0, -1.0],
    "both infinities": [-math.inf, 1.0, 2.0, math.inf, 0.0, math.inf],
    "all infinite": [math.inf] * 6,
    "all minus infinite": [-math.inf] * 6,
    "only infinities": [math.inf, -math.inf, -math.inf, math.inf, math.inf, -math.inf],
    "close": [1.0, 1.0 + 2**-23, 1.0 - 2**-24, 1.0, 1.0 + 2**-22, 1.0],
}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", SPECIAL)
def test_exactly_so_many_channels_of_every_row(name: str, normalize: bool, device: torch.device) -> None:
    scores = torch.tensor(SPECIAL[name]).expand(100, 6).to(device)
    drawn = uniforms(100, 6).to(device)
    for num_masked in range(7):
        mask = ops.weighted_channel_mask(scores, drawn, num_masked, normalize)
        assert (mask == 0).sum(1).eq(num_masked).all()
        assert (mask == 1).sum(1).eq(6 - num_masked).all()
        assert torch.equal(mask, reference.weighted_channel_mask(scores, drawn, num_masked, normalize))


@pytest.mark.long_emulated
def test_what_infinities_mean(device: torch.device) -> None:
    drawn = uniforms(200, 5).to(device)

    def masked(scores: list[float], num_masked: int, normalize: bool = True) -> Tensor:
        rows = torch.tensor(scores).expand(200, 5).to(device)
        return ops.weighted_channel_mask(rows, drawn, num_masked, normalize) == 0

    inf = math.inf
    for normalize in (True, False):
        assert masked([1.0, inf, 2.0, inf, 0.5], 2, normalize)[:, [1, 3]].all()
        # Beyond the infinite ones the finite ones follow their own weights.
        beyond = masked([1.0, inf, 2.0, 0.0, 0.5], 3, normalize)
        drawn[:, 1] = 1.0
        assert torch.equal(beyond, masked([1.0, 9e9, 2.0, 0.0, 0.5], 3, normalize))
        drawn = uniforms(200, 5).to(device)
    # Minus infinity lifts the finite ones to equal weights, and is masked last.
    lifted = masked([1.0, -inf, 2.0, 7.0, 0.5], 2)
    assert not lifted[:, 1].any()
    assert torch.equal(lifted, masked([1.0, 0.0, 1.0, 1.0, 1.0], 2))
    assert masked([1.0, -inf, 2.0, 7.0, 0.5], 4)[:, [0, 2, 3, 4]].all()
    assert torch.equal(masked([1.0, -inf, 2.0, 7.0, 0.5], 2, False), masked([1.0, 0.0, 2.0, 7.0, 0.5], 2))


def test_weight_zero_only_when_the_positive_weights_run_out(device: torch.device) -> None:
    scores = torch.tensor([0.0, 1e-30, -1.0, 5.0, 0.0]).expand(300, 5).to(device)
    drawn = uniforms(300, 5).to(device)
    for num_masked in range(6):
        masked = ops.weighted_channel_mask(scores, drawn, num_masked, normalize=False) == 0
        assert masked[:, [1, 3]].sum(1).eq(min(num_masked, 2)).all()
    # Then by their uniforms: the largest first, as -log(r) orders them.
    third = (ops.weighted_channel_mask(scores, drawn, 3, normalize=False) == 0)[:, [0, 2, 4]]
    assert torch.equal(third.int().argmax(1), drawn[:, [0, 2, 4]].argmax(1))


def test_equal_keys_go_by_the_channel(device: torch.device) -> None:
    scores = torch.tensor([[1.0, 1, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0], [2, 2, 1, 1, 2, 2]]).to(device)
    drawn = torch.full((3, 6), 0.25).to(device)
    mask = ops.weighted_channel_mask(scores, drawn, 3)
    assert mask.cpu().tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 1]]
    # 400 equal keys among 1000, not at the start.
    row = torch.ones(1, 1000).to(device)
    many = torch.full((1, 1000), 0.5).to(device)
    many[:, 3::5] = 0.75
    many[:, 4::5] = 0.25
    mask = ops.weighted_channel_mask(row, many, 450)[0]
    equal = (many[0] == 0.5).nonzero()[:, 0]
    assert mask[3::5].eq(0).all()
    assert mask[4::5].eq(1).all()
    assert mask[equal].cpu().tolist() == [0] * 250 + [1] * 350


@pytest.mark.parametrize("bad", [math.nan, -0.5, 1.5, math.inf, -math.inf], ids=str)
def test_a_bad_number_makes_its_row_nan_and_no_other(bad: float, device: torch.device) -> None:
    scores = uniforms(6, 70, seed=1).to(device)
    drawn = uniforms(6, 70).to(device)
    expected = ops.weighted_channel_mask(scores, drawn, 20)
    for tensor in (scores, drawn) if math.isnan(bad) else (drawn,):
        for channel in (0, 40, 69):
            kept = tensor[2, channel].clone()
            tensor[2, channel] = bad
            for num_masked in (0, 20, 70):
                mask = ops.weighted_channel_mask(scores, drawn, num_masked)
                assert mask[2].isnan().all()
                assert not mask[[0, 1, 3, 4, 5]].isnan().any()
                assert torch.equal(
                    mask.nan_to_num(7.0),
                    reference.weighted_channel_mask(scores, drawn, num_masked).nan_to_num(7.0),
                )
            others = [0, 1, 3, 4, 5]
            assert torch.equal(ops.weighted_channel_mask(scores, drawn, 20)[others], expected[others])
            tensor[2, channel] = kept


def test_uniforms_at_the_ends(device: torch.device) -> None:
    """0 and 1 are the nearest numbers inside: last and first among their weight, and nothing is NaN."""
    scores = torch.ones(1, 4).to(device)
    drawn = torch.tensor([[0.0, 0.5, 1.0, 1e-45]]).to(device)
    masks = [ops.weighted_channel_mask(scores, drawn, count)[0].cpu().tolist() for count in range(5)]
    assert masks == [[1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    # A channel of weight 0 stays behind one of positive weight whose uniform is 0.
    mask = ops.weighted_channel_mask(torch.tensor([[0.0, 1.0]]).to(device), drawn[:, [2, 0]], 1)
    assert mask.cpu().tolist() == [[1, 0]]


@pytest.mark.long_emulated
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 31, 32, 33, 64, 100, 512, 1030])
def test_the_same_channels_as_the_specification(
    channels: int, dtype: torch.dtype, device: torch.device
) -> None:
    scores = torch.randn(20, channels, generator=torch.Generator().manual_seed(5)).to(dtype).to(device)
    drawn = uniforms(20, channels, dtype=dtype).to(device)
    for num_masked in sorted({0, 1, channels // 3, channels - 1, channels}):
        for normalize in (True, False):
            mask = ops.weighted_channel_mask(scores, drawn, num_masked, normalize)
            assert mask.dtype == dtype
            assert torch.equal(mask, reference.weighted_channel_mask(scores, drawn, num_masked, normalize))


NUMBERS = st.one_of(
    st.floats(allow_nan=False, width=64),
    st.sampled_from([0.0, 1.0, -1.0, 5e-324, 1.7e308, -1.7e308, math.inf, -math.inf, 2.0**-1000]),
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(rows=st.lists(st.tuples(NUMBERS, st.floats(0, 1)), min_size=1, max_size=40), data=st.data())
def test_any_float64_scores(rows: list[tuple[float, float]], data: st.DataObject) -> None:
    num_masked = data.draw(st.integers(0, len(rows)))
    normalize = data.draw(st.booleans())
    scores, drawn = torch.tensor(rows, dtype=torch.float64).t()[:, None].unbind()
    mask = ops.weighted_channel_mask(scores, drawn, num_masked, normalize)
    assert (mask == 0).sum() == num_masked
    assert torch.equal(mask, reference.weighted_channel_mask(scores, drawn, num_masked, normalize))


@pytest.mark.needs_gpu
def test_a_hundred_thousand_adjacent_uniforms_keep_their_order(device: torch.device) -> None:
    """With equal weights the larger uniform is masked first, down to neighbours in float32."""
    for start in (2.0**-126, 1e-20, 2.0**-12, math.sqrt(0.5), 1 - 2e-3):
        first = torch.tensor(start, dtype=torch.float32).view(torch.int32).item()
        drawn = (first + torch.arange(20_000, dtype=torch.int32)).view(torch.float32)[None].to(device)
        mask = ops.weighted_channel_mask(torch.ones_like(drawn), drawn, 7_777)[0]
        assert mask[: 20_000 - 7_777].eq(1).all()
        assert mask[20_000 - 7_777 :].eq(0).all()
