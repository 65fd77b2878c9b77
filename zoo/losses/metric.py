"""Metric losses by name, from pytorch-metric-learning where it has them (MIT, Musgrave et al., arXiv:2008.09164).

All compare embeddings at length 1. What its defaults would surprise with is set here: triplets are mined batch-hard
with margin 0.3, multi-similarity mines too. Triplet and contrastive losses are means over terms that are not zero.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.extras import need
from zoo.losses.imbalance import centre_triplet, class_means, unit_centres

if TYPE_CHECKING:
    from pytorch_metric_learning.losses import BaseMetricLossFunction
    from pytorch_metric_learning.miners import BaseMiner

__all__ = ["METRIC_LOSSES", "CentreTriplet", "MetricLoss", "balanced_triplet", "new_metric_loss"]

MARGIN = 0.3  # of the triplets
MOMENTUM = 0.9  # of the class centres within an epoch


class MetricLoss(nn.Module):
    """A loss of pytorch-metric-learning behind the miner that goes with it.

    Args:
        loss: Of embeddings, labels and what the miner found.
        miner: None gives the loss all there is.
    """

    def __init__(self, loss: "BaseMetricLossFunction", miner: "BaseMiner | None" = None) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Loss of (B, D) embeddings with (B,) labels; 0, with a gradient of 0, where nothing can be compared."""
        return self.loss(embeddings, labels, self.miner(embeddings, labels) if self.miner else None)


class BalancedTriplet(nn.Module):
    """`balanced_triplet` with its margin; chance is torch's own, which the training seeds before each step."""

    def __init__(self, margin: float = MARGIN) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """As `balanced_triplet`."""
        return balanced_triplet(embeddings, labels, self.margin)


class CentreTriplet(nn.Module):
    """`centre_triplet` with centres that follow the embeddings: exactly once an epoch, by each batch in between.

    After the second stage described in the abstract of PCCT, arXiv:2207.04793.

    Args:
        classes: K.
        width: D.
        margin: By how much the own centre is to be nearer.
    """

    centres: Tensor

    def __init__(self, classes: int, width: int, margin: float = MARGIN) -> None:
        super().__init__()
        self.margin = margin
        self.register_buffer("centres", torch.zeros(classes, width))

    def refresh(self, embeddings: Tensor, labels: Tensor) -> None:
        """Take the centres of all training pictures, (N, D) and (N,)."""
        self.centres.copy_(unit_centres(embeddings.float(), labels, len(self.centres)))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Loss against the centres as they stand; those of the batch's classes then move a tenth of the way."""
        loss = centre_triplet(embeddings, labels, self.centres.clone(), self.margin)
        with torch.no_grad():
            batch = class_means(F.normalize(embeddings, dim=1), labels, len(self.centres))
            moved = F.normalize(MOMENTUM * self.centres + (1 - MOMENTUM) * batch, dim=1)
            is_there = labels.bincount(minlength=len(self.centres)) > 0
            self.centres.copy_(torch.where(is_there[:, None], moved, self.centres))
        return loss


def balanced_triplet(
    embeddings: Tensor, labels: Tensor, margin: float = MARGIN, generator: torch.Generator | None = None
) -> Tensor:
    """Triplet loss with as many anchors of each class, a random positive and a random negative for each.

    After the first stage described in PCCT's abstract, arXiv:2207.04793: triplets are drawn equally for each class.

    Args:
        embeddings: (B, D), brought to length 1 here.
        labels: (B,); classes with a single picture give no anchors.
        margin: By how much the negative is to be further away.
        generator: Source of chance; torch's own if none.

    Returns:
        Mean of max(0, d(anchor, positive) - d(anchor, negative) + margin); 0 where there is no triplet.
    """
    e = F.normalize(embeddings, dim=1)
    classes, counts = torch.unique(labels, return_counts=True)
    able = classes[counts > 1]
    if len(able) == 0 or len(classes) < 2:
        return embeddings.sum() * 0
    each = int(counts.max())

    def drawn(is_candidate: Tensor) -> Tensor:
        return torch.multinomial(is_candidate.float(), 1, generator=generator)[:, 0]

    anchor_class = able.repeat_interleave(each)
    anchor = drawn(labels == anchor_class[:, None])
    positive = drawn((labels == anchor_class[:, None]) & (torch.arange(len(e), device=e.device) != anchor[:, None]))
    negative = drawn(labels != anchor_class[:, None])
    near, far = ((e[anchor] - e[other]).norm(dim=1) for other in (positive, negative))
    return (near - far + margin).clamp(min=0).mean()


def _of_the_library(name: str, classes: int, width: int, margin: float) -> nn.Module:
    from pytorch_metric_learning import losses, miners

    triplets = losses.TripletMarginLoss(margin=margin)
    match name:
        case "triplet":
            return MetricLoss(triplets, miners.BatchHardMiner())
        case "triplet_semihard":
            return MetricLoss(triplets, miners.TripletMarginMiner(margin=margin, type_of_triplets="semihard"))
        case "triplet_all":
            return MetricLoss(triplets)
        case "triplet_smooth":
            return MetricLoss(losses.TripletMarginLoss(margin=margin, smooth_loss=True))
        case "contrastive":
            return MetricLoss(losses.ContrastiveLoss(pos_margin=0, neg_margin=1))
        case "multi_similarity":
            return MetricLoss(
                losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5), miners.MultiSimilarityMiner(epsilon=0.1)
            )
        case "circle":
            return MetricLoss(losses.CircleLoss(m=0.4, gamma=80))
        case "supcon":
            return MetricLoss(losses.SupConLoss(temperature=0.1))
        case "proxy_anchor":
            return MetricLoss(losses.ProxyAnchorLoss(classes, width))
    raise ValueError(f"no metric loss {name!r}; one of {', '.join(METRIC_LOSSES)}")


METRIC_LOSSES = (
    "triplet",
    "triplet_semihard",
    "triplet_all",
    "triplet_smooth",
    "triplet_balanced",
    "centre_triplet",
    "contrastive",
    "multi_similarity",
    "circle",
    "supcon",
    "proxy_anchor",
)


def new_metric_loss(name: str, classes: int, width: int, margin: float = MARGIN) -> nn.Module:
    """A module of (B, D) embeddings and (B,) labels; those with proxies have parameters of their own.

    Args:
        name: One of `METRIC_LOSSES`.
        classes: K.
        width: D.
        margin: Of triplets.

    Raises:
        UsageError: pytorch-metric-learning is missing.
        ValueError: No such loss.
    """
    if name == "triplet_balanced":
        return BalancedTriplet(margin)
    if name == "centre_triplet":
        return CentreTriplet(classes, width, margin)
    need("metric", f"the loss {name}")
    return _of_the_library(name, classes, width, margin)
