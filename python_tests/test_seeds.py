"""Seeds: a draw for every name, the same on every machine and whatever was drawn before."""

from __future__ import annotations

import itertools

import pytest
import torch

from dgdd_fast.seeds import derive_seed, generator


def test_a_seed_is_the_same_everywhere() -> None:
    """Sets and experts of earlier versions were drawn with these."""
    assert derive_seed(0, "network", 3) == 3657970593125486927
    assert derive_seed(-7) == 8567762416373971027


def test_every_name_has_a_draw_of_its_own() -> None:
    names: list[tuple[str | int, ...]] = [
        (),
        ("a",),
        ("b",),
        ("a", 1),
        ("a", 2),
        ("a1",),
        (1, "a"),
        ("a", "1", ""),
    ]
    seeds = {derive_seed(seed, *name) for seed, name in itertools.product((0, 1, -1, 2**62), names)}
    assert len(seeds) == 4 * len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_draw_knows_no_other() -> None:
    expected = torch.rand(5, generator=generator(1, "images"))
    state = torch.get_rng_state()
    torch.rand(3, generator=generator(1, "network"))
    assert torch.equal(torch.rand(5, generator=generator(1, "images")), expected)
    assert torch.equal(torch.get_rng_state(), state)  # that of the user stays as it is


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63)])
def test_the_largest_seeds_serve(seed: int) -> None:
    assert torch.rand(1, generator=generator(seed, "x")).shape == (1,)
