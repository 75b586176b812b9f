"""Invariant risk minimisation: a classifier that no domain would rather have scaled (Arjovsky et al.,
2019)."""

from __future__ import annotations

import torch
from torch import Tensor


def invariance_penalty(logits: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
    """A scalar: the squared slope of a domain's cross entropy in a common factor of its logits, at the factor
    1, averaged over the domains.

    The square is estimated without bias by the product of the slopes on the even and on the odd images of the
    domain. A domain with a single image has none and is left out.

    Args:
        logits: [B, K]
        targets: int64 [B], or [B, K] of shares.
        domains: int64 [B]
    """
    if targets.dim() == 1:
        targets = torch.nn.functional.one_hot(targets, logits.shape[1]).to(logits.dtype)
    # d/ds of logsumexp(s z) - s t.z, at s = 1
    slopes = ((logits.softmax(1) - targets) * logits).sum(1)
    penalties = []
    for domain in domains.unique().tolist():  # type: ignore[no-untyped-call]
        own = slopes[domains == domain]
        if len(own) > 1:
            penalties.append(own[::2].mean() * own[1::2].mean())
    return torch.stack(penalties).mean() if penalties else slopes.new_zeros(())
