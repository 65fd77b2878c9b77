"""What a network that learns new classes keeps of an old one, and how strongly: one function an equation.

Our formulation of the method described in the abstract of Chen et al., "Adaptively Integrated Knowledge Distillation
and Prediction Uncertainty for Continual Learning", arXiv:2301.07316. The paper's body could not be read and no code was
published: the abstract says what is adapted to what, the equations here are ours.

B batch, L levels (stages of the network), C channels of a level, d width of the attention, K_old and K_all classes.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Integration",
    "cut_old",
    "distillation_weights",
    "energy_map",
    "integrated_distances",
    "level_distances",
    "logit_distances",
    "new_class_weights",
    "uncertainty",
]

TINY = 1e-12  # what a norm is at least
FAINTEST = 1e-3  # mean certainty below which a batch's weights stop growing


def energy_map(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Where a level is active, whatever its channels and size: mean square over channels, resized, of length 1.

    Args:
        features: (B, C, H, W).
        size: Height and width of the map; adaptive averages where the features have at least both, else bilinear.

    Returns:
        (B, height * width).
    """
    energy = features.square().mean(1, keepdim=True)
    if energy.shape[2] >= size[0] and energy.shape[3] >= size[1]:
        energy = F.adaptive_avg_pool2d(energy, size)
    else:
        energy = F.interpolate(energy, size, mode="bilinear", align_corners=False)
    return F.normalize(energy.flatten(1), eps=TINY)


class Integration(nn.Module):
    """How much each level of the new network listens to each level of the old one, picture by picture.

    The maps of pooled features to queries and keys are learnt with the task and thrown away after it.

    Args:
        channels: Of each level, the same in both networks.
        width: Of queries and keys.
    """

    def __init__(self, channels: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.query = nn.ModuleList(nn.Linear(count, width) for count in channels)
        self.key = nn.ModuleList(nn.Linear(count, width) for count in channels)

    def forward(self, new: Sequence[Tensor], old: Sequence[Tensor]) -> Tensor:
        """(B, L, L) shares: row is a level of the new network; each row sums to 1.

        Args:
            new: L tensors (B, C, H, W); gradients flow back into them.
            old: The same of the old network.
        """
        queries = _projected(self.query, new)
        keys = _projected(self.key, old)
        return (queries @ keys.mT / math.sqrt(queries.shape[-1])).softmax(-1)


def _projected(maps: nn.ModuleList, features: Sequence[Tensor]) -> Tensor:
    pooled = (F.normalize(level.mean((2, 3)), eps=TINY) for level in features)
    return torch.stack([project(level) for project, level in zip(maps, pooled, strict=True)], 1)  # (B, L, d)


def integrated_distances(new: Sequence[Tensor], old: Sequence[Tensor], shares: Tensor) -> Tensor:
    """(B, L) squared distance of each new level's map to its mixture of old ones, in [0, 4].

    The target is always a mixture of real maps: with free maps on both sides the least distance would be one of
    constants.

    Args:
        new: L tensors (B, C, H, W).
        old: The same of the old network.
        shares: (B, L, L) from `Integration`.
    """
    distances = []
    for level, features in enumerate(new):
        size = (features.shape[2], features.shape[3])
        known = torch.stack([energy_map(other, size) for other in old], 1)  # (B, L, hw)
        target = F.normalize((shares[:, level, :, None] * known).sum(1), eps=TINY)
        distances.append((energy_map(features, size) - target).square().sum(1))
    return torch.stack(distances, 1)


def level_distances(new: Sequence[Tensor], old: Sequence[Tensor]) -> Tensor:
    """(B, L) squared distances of the maps of each level to those of the same old level: no integration."""
    levels = len(new)
    alone = torch.eye(levels, dtype=new[0].dtype, device=new[0].device).expand(len(new[0]), levels, levels)
    return integrated_distances(new, old, alone)


def logit_distances(old: Tensor, new: Tensor, temperature: float = 2.0) -> Tensor:
    """(B,) T^2 KL(softmax(old / T) || softmax(new / T)) over the old classes.

    Args:
        old: (B, K_old) logits of the old network.
        new: (B, K_all) logits, old classes first.
        temperature: T.
    """
    theirs = (old / temperature).log_softmax(1)
    ours = (new[:, : old.shape[1]] / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(ours, theirs, log_target=True, reduction="none").sum(1)


def uncertainty(old: Tensor) -> Tensor:
    """(B,) entropy of the old network's answer as a share of the highest, in [0, 1]; 0 where it knows one class.

    Args:
        old: (B, K_old) logits.
    """
    classes = old.shape[1]
    if classes == 1:
        return torch.zeros_like(old[:, 0])
    logs = old.log_softmax(1)
    return -(logs.exp() * logs).sum(1) / math.log(classes)


def new_class_weights(unsure: Tensor, labels: Tensor, old_classes: int) -> Tensor:
    """(B,) weight of each picture's cross-entropy: 0.5 + u for new classes, 1 for old ones.

    Where the old network is sure of a picture of a new class, learning it contradicts what it knows: slower there.

    Args:
        unsure: (B,) from `uncertainty`.
        labels: (B,) classes, old ones below `old_classes`.
        old_classes: K_old.
    """
    return torch.where(labels >= old_classes, 0.5 + unsure, torch.ones_like(unsure))


def distillation_weights(unsure: Tensor) -> Tensor:
    """(B,) weight of each picture's distance to the old network: what that is sure of is kept hardest; mean 1."""
    sure = 1 - unsure
    return sure / sure.mean().clamp(min=FAINTEST)


def cut_old(
    images: Tensor, chosen: Tensor, partner: Tensor, area: Tensor, row: Tensor, column: Tensor
) -> tuple[Tensor, Tensor]:
    """CutMix for pictures of old classes alone: a box of each chosen picture comes from its partner.

    Args:
        images: (B, C, H, W).
        chosen: (B,) true where a picture is changed; new classes never are.
        partner: (B,) the other picture's place in the batch.
        area: (B,) share of the picture that the box covers before it is cut off at the border; at most a half.
        row: (B,) centre of the box, in [0, H).
        column: (B,) centre of the box, in [0, W).

    Returns:
        The mixed pictures, (B, C, H, W), and (B,) the share of each that is still its own; 1 where nothing changed.
    """
    height, width = images.shape[2:]
    top, bottom = _extent(height, area, row)
    left, right = _extent(width, area, column)
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    down = (rows >= top[:, None]) & (rows < bottom[:, None])  # (B, H)
    across = (columns >= left[:, None]) & (columns < right[:, None])  # (B, W)
    inside = (chosen[:, None, None] & down[:, :, None] & across[:, None, :])[:, None]
    mixed = torch.where(inside, images[partner], images)
    taken = inside.sum((1, 2, 3)).to(area.dtype)
    return mixed, 1 - taken / (height * width)


def _extent(side: int, area: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """First place of a box along one side, and the one behind its last."""
    length = (side * area.sqrt() + 0.5).floor().long()
    first = centre - length // 2
    return first.clamp(0, side), (first + length).clamp(0, side)
