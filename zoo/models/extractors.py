"""Extractors of features that come with the package, for what is learned on top of a frozen network."""

from typing import Any

from torch import nn

__all__ = ["lite0_extractor"]


def lite0_extractor(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite0 without its classifier: (B, 1280) features. The network is timm's."""
    from timm.models.efficientnet import tf_efficientnet_lite0

    return tf_efficientnet_lite0(pretrained, **{"num_classes": 0, **kwargs})
