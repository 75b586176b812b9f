"""The picture of how stable an expert's channels are over the domains (CADM, Figures 1b and 3b)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..analysis.channels import Stability
from ..extras import extra

with extra("report", "drawing channels"):
    from matplotlib.figure import Figure

SHOWN_CHANNELS = 32


def channel_figure(found: Mapping[str, Stability], domain_names: tuple[str, ...]) -> Figure:
    """Above, the deviation of each channel's score over the domains, the largest first, for every method;
    below, the scores of the first channels by domain. All in the first expert.

    Args:
        found: by method, at least one; of the same experts and stage.
        domain_names: of the experts.
    """
    scores = {label: stability.scores[0] for label, stability in found.items()}
    shown = min(SHOWN_CHANNELS, next(iter(scores.values())).shape[1])
    figure = Figure(figsize=(10, 3.2 + 1.9 * len(scores)), dpi=100, layout="constrained")
    grid = figure.add_gridspec(1 + len(scores), 1, height_ratios=[1.6] + [1] * len(scores))
    above = figure.add_subplot(grid[0])
    for label, stability in found.items():
        above.plot(stability.deviation[0].sort(descending=True).values.numpy(), label=label)
    above.set_xlabel("channels, the least stable first")
    above.set_ylabel("deviation of the score\nover the domains")
    above.legend(fontsize=9)
    above.grid(alpha=0.3)
    limits = torch.stack([table[:, :shown] for table in scores.values()])
    low, high = min(0.0, float(limits.min())), max(0.0, float(limits.max()))
    for place, (label, table) in enumerate(scores.items()):
        axes = figure.add_subplot(grid[place + 1])
        for domain, name in enumerate(domain_names):
            width = 0.8 / len(domain_names)
            positions = torch.arange(shown) + (domain - (len(domain_names) - 1) / 2) * width
            axes.bar(positions.numpy(), table[domain, :shown].numpy(), width, label=name)
        if high > low:
            axes.set_ylim(1.05 * low, 1.05 * high)
        axes.set_title(f"{label}: scores of the first {shown} channels of the last stage", fontsize=10)
        axes.set_ylabel("score")
        if place == 0:
            axes.legend(fontsize=8, ncols=len(domain_names))
    return figure
