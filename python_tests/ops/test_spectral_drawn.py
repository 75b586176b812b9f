"""The compiled spectral operators against the specification in float64, on shapes that hypothesis draws."""

import pytest
import torch
from spectral_cases import DTYPES, Surgery, check_step, check_surgery

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@settings(deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    domains=st.integers(1, 6),
    samples=st.integers(1, 4),
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    base=st.booleans(),
    valid=st.booleans(),
    weighted_deviation=st.booleans(),
)
def test_drawn_shapes(
    domains: int,
    samples: int,
    channels: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    base: bool,
    valid: bool,
    weighted_deviation: bool,
) -> None:
    case = Surgery.drawn(
        domains, samples, channels, (height, width), dtype, "cpu", base, valid, weighted_deviation
    )
    check_surgery(case)
    check_step(case)
