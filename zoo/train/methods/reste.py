"""ReSTE: the estimator's power grows from straight-through to near-sign over the training.

Wu et al., "Estimator Meets Equilibrium Perspective", ICCV 2023, arXiv:2308.06689, sections 3.2 and 3.3.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.binary import BinaryConv2d, reste_power
from zoo.layers.packing import FORMAT, pack
from zoo.metrics.binary import estimating_error, gradient_stability
from zoo.train import methods

__all__ = ["Method"]


@dataclass(frozen=True)
class Method(methods.Method):
    """Cross-entropy through the estimator, and the paper's two indicators in the log.

    Args:
        end: Power that the schedule approaches; 3 in all published results. Unused by plain straight-through.
        latent: Mean size that the latent weights of each binary layer are brought to at the start; 0 leaves them. What
            was trained once has weights so large that their signs are slow to turn, and beyond `zoo.layers.binary.CUT`
            never do.
    """

    end: float = 3.0
    latent: float = 0.0

    def __post_init__(self) -> None:
        if self.end < 1:
            raise ValueError(f"end is {self.end}; the estimator needs a power of at least 1")
        if self.latent < 0:
            raise ValueError(f"latent is {self.latent}; a size is not negative")

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        for module in model.modules():
            if self.latent and isinstance(module, BinaryConv2d):
                module.weight.mul_(self.latent / module.scale)

    def start_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        power = reste_power(epoch, epochs, self.end)
        for module in model.modules():
            if isinstance(module, BinaryConv2d):
                module.power.fill_(power)

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(images).float(), labels)

    def report(self, model: nn.Module) -> dict[str, float]:
        return {
            "estimating_error": estimating_error(model, self.end),
            "gradient_stability": gradient_stability(model),
        }

    def export(self, model: nn.Module) -> tuple[dict[str, Tensor], str]:
        return pack(model, torch.float16), FORMAT
