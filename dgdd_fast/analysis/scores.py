"""DD-Ranking's scores: what of an accuracy is the images', and what the labels' or the augmentation's.

Li et al., *DD-Ranking: Rethinking the Evaluation of Dataset Distillation* (arXiv 2505.13300). Accuracies here
are in percent, scores in [0, 1], higher is better: 0.27 where the images are worth as much as random ones and
random ones as much as all.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WEIGHT = 0.5  # of the improvement over random in the one score, of augmented trainings in the other


@dataclass(frozen=True)
class Scores:
    """Both scores of a set on one test set, a value for each network trained.

    Attributes:
        label_robust: LRS, `label_robust_score`.
        augmentation_robust: ARS, `augmentation_robust_score`.
    """

    label_robust: tuple[float, ...]
    augmentation_robust: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the standard deviation of a single run is None."""
        return {
            name: {
                "runs": list(values),
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
            }
            for name, values in (
                ("label_robust_score", self.label_robust),
                ("augmentation_robust_score", self.augmentation_robust),
            )
        }


def label_robust_score(
    accuracy: float, random: float, hard: float, whole: float, weight: float = WEIGHT
) -> float:
    """LRS: the improvement over random images, less what is missing to all real images under hard labels.

    ``alpha = weight * (accuracy - random) - (1 - weight) * (whole - hard)``, of accuracies as shares, mapped
    to [0, 1] by `_mapped`.

    Args:
        accuracy, random: of networks trained on the set, and on as many random real images, in the same way.
        hard, whole: on the set and on all real images, both with hard labels. A set with hard labels has
            `hard` equal to `accuracy`.
    """
    return _mapped(weight * (accuracy - random) / 100 - (1 - weight) * (whole - hard) / 100)


def augmentation_robust_score(
    accuracy: float, random: float, plain: float, plain_random: float, weight: float = WEIGHT
) -> float:
    """ARS: the improvement over random images with augmentation, and that without.

    ``weight * (accuracy - random) + (1 - weight) * (plain - plain_random)``, mapped as in LRS; `plain` and
    `plain_random` are without augmentation.
    """
    return _mapped((weight * (accuracy - random) + (1 - weight) * (plain - plain_random)) / 100)


def scores_of(
    accuracy: Sequence[float],
    random: Sequence[float],
    whole: Sequence[float],
    plain: Sequence[float],
    plain_random: Sequence[float],
) -> Scores:
    """The scores of a set with hard labels, network by network: the n-th of each training belong together."""
    return Scores(
        tuple(
            label_robust_score(own, chance, own, all_)
            for own, chance, all_ in zip(accuracy, random, whole, strict=True)
        ),
        tuple(
            augmentation_robust_score(*four)
            for four in zip(accuracy, random, plain, plain_random, strict=True)
        ),
    )


def _mapped(alpha: float) -> float:
    """[-1, 1] to [0, 1]: ``(e^alpha - e^-1) / (e - e^-1)``."""
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
