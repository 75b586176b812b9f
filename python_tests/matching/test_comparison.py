"""M3D's kernels of several classes at once, as a GPU takes them, against one class after another."""

from __future__ import annotations

import pytest
import torch

from dgdd_fast.matching import comparison
from dgdd_fast.matching.batches import CellLayout, RealBatch
from dgdd_fast.matching.comparison import KernelComparison

EVEN = [[4, 4, 4]] * 5
UNEVEN = [[4, 2, 4], [4, 4, 4], [0, 3, 4], [4, 2, 4], [4, 4, 4]]
GPU = torch.device("meta")  # any that is not the CPU


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("cells", "groups"), [(EVEN, 1), (UNEVEN, 3)])
@pytest.mark.parametrize("shared", [True, False])
def test_kernels_of_classes_at_once(
    cells: list[list[int]], groups: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = torch.tensor(cells)
    of_rows = torch.arange(sizes.numel()).repeat_interleave(sizes.flatten())
    kernels = KernelComparison(shared)
    kernels.begin(RealBatch(None, of_rows, sizes, CellLayout(sizes)), 0)
    kernels.add(random(len(of_rows), 33, seed=0), of_rows)
    features = random(10, 33, seed=1).requires_grad_()
    labels = torch.arange(5).repeat_interleave(2)
    assert len(kernels._at_once(None, torch.device("cpu"))) == 5
    assert len(kernels._at_once(None, GPU)) == groups

    def found(domain: int | None) -> list[torch.Tensor]:
        losses = kernels.losses(features, labels, domain)
        return [losses.detach(), *torch.autograd.grad(losses.sum(), features)]

    domains = (None, 0, 1, 2)
    expected = [found(domain) for domain in domains]
    one_by_one = kernels._at_once
    monkeypatch.setattr(kernels, "_at_once", lambda domain, _: one_by_one(domain, GPU))
    for domain, parts in zip(domains, expected, strict=True):
        for actual, wanted in zip(found(domain), parts, strict=True):
            torch.testing.assert_close(actual, wanted)
    monkeypatch.setattr(comparison, "MOST_PAIRS", 2 * 12**2)  # of two classes
    assert max(map(len, one_by_one(None, GPU))) <= 2
