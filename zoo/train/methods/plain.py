"""Plain supervised training with cross-entropy."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.train import methods

__all__ = ["Method"]


@dataclass(frozen=True)
class Method(methods.Method):
    """Cross-entropy and nothing else.

    Args:
        smoothing: Label smoothing, in [0, 1).
    """

    smoothing: float = 0.0

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(images).float(), labels, label_smoothing=self.smoothing)
