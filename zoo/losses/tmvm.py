"""What text-to-video retrieval is trained by: pairs told apart in both directions, prototypes kept apart.

B pairs of a text and a clip, K prototypes, E dimensions, N tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["contrast", "prototype_variance"]


def contrast(similarity: Tensor, scale: Tensor | float, *, reduction: str = "sum") -> Tensor:
    """Cross-entropy of each text's clip among all clips, and of each clip's text among all texts.

    M. Bain et al., "Frozen in Time", arXiv:2104.00650, equations 1 to 3, whose code adds the two directions.

    Args:
        similarity: (B, B), text i and clip i belong together.
        scale: What similarities are multiplied with, the inverse of the temperature.
        reduction: "sum" of the two directions, or their "mean" as CLIP has it.
    """
    logits = similarity.float() * scale
    own = torch.arange(len(logits), device=logits.device)
    both = F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)
    return both / 2 if reduction == "mean" else both


def prototype_variance(values: Tensor, gamma: float = 0.5, eps: float = 1e-4) -> Tensor:
    """A hinge on the spread of the K prototypes of each clip: how far below `gamma` it is.

    The paper's formula is not public; this one is ours, after A. Bardes et al., "VICReg", arXiv:2105.04906, equation 1.

    Args:
        values: (B, K, E), K from 2: unit prototypes times sqrt(E), since the variance of unit vectors cannot be more
            than about 1 / E in a dimension; or masks times N, as (B, K, N).
        gamma: Standard deviation that is enough.
        eps: Added to the variance, for the root's slope at 0.
    """
    spread = (values.float().var(1) + eps).sqrt()
    return (gamma - spread).relu().mean()
