"""The features behind the card of two-stage training; any classifier can be trained so.

Our formulation of the method described in the abstract of Zeng et al., "Learning Discriminative Representation via
Metric Learning for Imbalanced Medical Image Classification", arXiv:2207.06975. The training is
`zoo.train.methods.metric_imbalance`.
"""

from typing import Any

from torch import nn

from zoo.models.extractors import lite0_extractor

__all__ = ["metric_imbalance_lite0"]


def metric_imbalance_lite0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite0 without its classifier: (B, 1280) features, the first stage's."""
    return lite0_extractor(pretrained, **kwargs)
