"""The benchmark of discriminators: what it measures of features, and how it sums up the seeds."""

from __future__ import annotations

import discriminators
import pytest
import readme_tables
import torch
from toy_data import toy_domains

from dgdd_fast.seeds import generator

DATA = toy_domains(per_cell=40)


def features(draws: int, noise: float) -> torch.Tensor:
    """Of every image 16 numbers around its class plus half its domain, the draws apart by `noise`."""
    random = generator(0, "features")
    middle = (DATA.labels + 0.5 * DATA.domains)[:, None].expand(-1, 16)
    images = middle + torch.randn(len(DATA), 16, generator=random)
    return images + noise * torch.randn(draws, len(DATA), 16, generator=random)


def test_the_difference_of_domains_is_without_what_chance_adds() -> None:
    """Domains lie at -0.5, 0, 0.5: squared 1/6 a number; 40 images add 16 * 1.25 * 2/3 / 40 to that."""
    means = discriminators._Means(features(4, 1.0), DATA)
    assert means.difference == pytest.approx(16 / 6, rel=0.15)
    assert means.noise == pytest.approx(16, rel=0.05)
    assert means.classes.shape == (3, 16)
    torch.testing.assert_close(
        means.classes.mean(1), torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64), rtol=0, atol=0.1
    )
    alike = discriminators._Means(features(2, 0.5) - 0.5 * DATA.domains[:, None], DATA)
    assert abs(alike.difference) < 0.1  # 0.3 with what chance adds


def test_seeds_are_summed_up_wherever_the_numbers_lie() -> None:
    found = discriminators.summary([{"a": {"b": [1.0, 2.0]}, "c": 3.0}, {"a": {"b": [3.0, 2.0]}, "c": 5.0}])
    assert found["a"]["b"] == {"mean": [2.0, 2.0], "std": [2**0.5, 0.0]}
    assert found["c"] == {"mean": 4.0, "std": 2**0.5}
    assert readme_tables._stages(found["a"]["b"], ".1f") == ["2.0 ± 1.4", "2.0 ± 0.0"]
    assert readme_tables._stages(discriminators.summary([[1.0]]), ".1f") == ["1.0"]


def test_few_images_of_each_cell_are_taken() -> None:
    few = discriminators.some(DATA, 5)
    assert few.counts().tolist() == [[5] * 3] * 3
    assert discriminators.some(DATA, 1000).fingerprint() == DATA.fingerprint()
