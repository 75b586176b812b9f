"""An objective of one's own in one file: the cosine of the angle between mean features.

    dgdd --plugin examples/own_objective.py distill --target street --method cosine+sgs --iterations 500

From Python: `dgdd_fast.load_plugins(["examples/own_objective.py"])`, or put this into your program. Studies
and tables then take the method by its name too.
"""

import torch.nn.functional as F
from torch import Tensor

from dgdd_fast import MethodSpec, register_objective
from dgdd_fast.matching.comparison import SampleComparison
from dgdd_fast.matching.feature_matching import FeatureMatching
from dgdd_fast.matching.losses.mean import group_means


class CosineComparison(SampleComparison):
    """1 - cos of the angle between the mean features of a class's synthetic and real images."""

    linear = False  # in the real means, so that the union needs a gradient of its own

    def losses(self, features: Tensor, labels: Tensor, domain: int | None = None) -> Tensor:
        """The loss of each class, [K]; `features` [N, F] are those of the synthetic images."""
        real, classes = self.real(domain)
        count = len(self.sizes)
        synthetic_means = group_means(features, labels, count)
        losses = 1 - F.cosine_similarity(synthetic_means, group_means(real, classes, count), dim=1)
        return losses * self.there(domain)  # none where a class has no real image


register_objective(
    MethodSpec("cosine", label="Cosine", image_lr=10.0),
    lambda real, config, domain_index: FeatureMatching(real, config, comparison=CosineComparison()),
)
