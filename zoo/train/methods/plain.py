"""Plain supervised training with cross-entropy."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Method"]


@dataclass(frozen=True)
class Method:
    """Cross-entropy and nothing else.

    Args:
        smoothing: Label smoothing, in [0, 1).
    """

    smoothing: float = 0.0

    def start(self, model: nn.Module) -> None:
        """First weights stay."""

    def start_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        """Nothing moves."""

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(images).float(), labels, label_smoothing=self.smoothing)

    def report(self, model: nn.Module) -> dict[str, float]:
        return {}

    def export(self, model: nn.Module) -> tuple[dict[str, Tensor], str]:
        return {key: value.contiguous() for key, value in model.state_dict().items()}, "float"
