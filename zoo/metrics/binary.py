"""The two indicators of the ReSTE paper: how far the estimator is from sign, and how steady gradients are.

Wu et al., "Estimator Meets Equilibrium Perspective", ICCV 2023, arXiv:2308.06689, section 3.1.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from zoo.layers.binary import BinaryConv2d

__all__ = ["estimating_error", "gradient_stability"]


def _latent_weights(model: nn.Module) -> Iterator[Tensor]:
    return (module.weight for module in model.modules() if isinstance(module, BinaryConv2d))


@torch.no_grad()
def estimating_error(model: nn.Module, power: float = 3.0) -> float:
    """Sum over binary layers of the L2 distance between sign(W) and sign(W)|W|^(1/power).

    Args:
        model: Network with `BinaryConv2d` layers.
        power: `o`; the paper uses the power at which the schedule ends.
    """
    return float(sum(torch.linalg.vector_norm(w.sign() * (w.abs() ** (1 / power) - 1)) for w in _latent_weights(model)))


@torch.no_grad()
def gradient_stability(model: nn.Module) -> float:
    """Sum over binary layers of the unbiased variance of |gradient| of the latent weights; smaller is steadier.

    Raises:
        ValueError: A layer has no gradient yet.
    """
    grads = [w.grad for w in _latent_weights(model)]
    if any(grad is None for grad in grads):
        raise ValueError("a binary layer has no gradient; call this behind backward()")
    return float(sum(grad.abs().var() for grad in grads if grad is not None))
