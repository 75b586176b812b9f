"""How well the domain is predicted from features by a linear classifier fitted to them: an expert's own
discriminators may be worse, as its network was trained against them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..extras import extra

with extra("report", "telling what features know of the domains"):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler


def halves(domains: Tensor) -> tuple[Tensor, Tensor]:
    """The rows to fit a probe on and those to test it on, every other image of each domain, for the domains
    int64 [N].

    Raises ValueError where there are no two domains with two images each.
    """
    counts = torch.bincount(domains)
    if len(counts) < 2 or counts.min() < 2:
        raise ValueError(
            "telling domains apart takes two domains or more, and two images of each, to learn from one and "
            f"be tested on the other; got {counts.tolist()} images of them"
        )
    rows = [(domains == domain).nonzero().flatten() for domain in range(len(counts))]
    fit, test = (torch.cat([each[first::2] for each in rows]) for first in (0, 1))
    return fit, test


def probe_accuracies(features: Tensor, views: Sequence[Tensor], domains: Tensor) -> list[float]:
    """The percentage of images whose domain a probe predicts correctly in each of `views`, [N, C] like
    `features`.

    The probe is a logistic regression with a unit L2 penalty on `features`, each standardised, of one half of
    the images; it is tested on the other half.

    Args:
        domains: int64 [N]; see `halves` for what is needed.
    """
    fit, test = halves(domains)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(features[fit].double().numpy(), domains[fit].numpy())
    wanted = domains[test].numpy()
    return [100 * float(probe.score(view[test].double().numpy(), wanted)) for view in views]
