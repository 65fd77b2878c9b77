"""Where in a picture a classifier found its answer."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["explained"]


def explained(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and how much each place of the last feature map adds to the highest one.

    Grad-CAM without its averaging of gradients (HiResCAM: R. L. Draelos, L. Carin, arXiv:2011.08891): the map times the
    gradient at it, summed over channels. Where the head is a mean and a linear layer, this is the exact share of each
    place in the logit. Gradients flow through the head alone, so that whatever computes the map, packed bits included,
    need not have any.

    Args:
        model: Has timm's `forward_features`, giving (B, C, h, w), and `forward_head`.
        x: (B, C, H, W) images.

    Returns:
        (B, K) logits, and (B, h, w) shares: 0 where nothing speaks for the class, 1 where most does.

    Raises:
        ValueError: The network has no such map.
    """
    network: Any = model
    with torch.inference_mode(False):
        with torch.no_grad():
            features = network.forward_features(x) if hasattr(network, "forward_head") else None
        if features is None or features.ndim != 4:
            raise ValueError(f"{type(model).__name__} has no feature map (B, C, h, w) to look at")
        with torch.enable_grad():
            features = features.detach().requires_grad_()
            logits = network.forward_head(features)
            (slope,) = torch.autograd.grad(logits.amax(1).sum(), features)
        shares = (features * slope).detach().float().sum(1).clamp(min=0)
        highest = shares.amax((1, 2), keepdim=True)
        return logits.detach(), shares / torch.where(highest > 0, highest, 1)
