"""Losses and heads for classes of very different size: one function an equation.

Sources: class-balanced weights, Cui et al., arXiv:1901.05555; focal loss, Lin et al., arXiv:1708.02002; balanced
softmax, Ren et al., arXiv:2007.10740; LDAM and deferred re-weighting, Cao et al., arXiv:1906.07413; logit adjustment,
Menon et al., arXiv:2007.07314; heads that are rebalanced behind the training, Kang et al., arXiv:1910.09217; the share
of BBN's two branches, Zhou et al., arXiv:1912.02413; the triplet of class centres, from the abstract of
arXiv:2207.04793.

B batch, K classes, D width of the features. `counts` are the (K,) training pictures of each class, all at least 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "adjusted_logits",
    "balanced_softmax",
    "bbn_share",
    "centre_head",
    "centre_triplet",
    "class_balanced_weights",
    "class_means",
    "deferred_weights",
    "focal_loss",
    "inverse_frequency_weights",
    "ldam_loss",
    "ldam_margins",
    "scaled_head",
    "tau_normalised",
    "unit_centres",
    "weighted_cross_entropy",
]

DEFERRED = 0.8  # share of the training before weights set in; 160 of 200 epochs in the LDAM paper


def inverse_frequency_weights(counts: Tensor) -> Tensor:
    """(K,) weights proportional to 1 / count, with sum K."""
    return _summing_to_classes(1 / _plain(counts))


def class_balanced_weights(counts: Tensor, beta: float = 0.999) -> Tensor:
    """(K,) weights proportional to 1 / effective number of pictures, with sum K: (1 - beta) / (1 - beta^count).

    Args:
        counts: (K,).
        beta: In [0, 1); 0 weighs all classes alike, and towards 1 the weights become those of the inverse frequency.
    """
    return _summing_to_classes((1 - beta) / (1 - beta ** _plain(counts)))


def deferred_weights(counts: Tensor, epoch: int, epochs: int, beta: float = 0.9999) -> Tensor:
    """(K,) all ones for the first four fifths of the training, then class-balanced.

    Args:
        counts: (K,).
        epoch: From 0.
        epochs: Of the training.
        beta: Of the class-balanced weights.
    """
    if epoch < DEFERRED * epochs:
        return torch.ones_like(_plain(counts))
    return class_balanced_weights(counts, beta)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over pictures of weight times cross-entropy; torch's own divides by the sum of the weights instead.

    Args:
        logits: (B, K).
        labels: (B,).
        weights: (K,).
    """
    return (weights.to(logits)[labels] * F.cross_entropy(logits, labels, reduction="none")).mean()


def focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean of (1 - p)^gamma times cross-entropy, p the probability of the truth.

    Args:
        logits: (B, K).
        labels: (B,).
        gamma: 0 is cross-entropy.
    """
    loss = F.cross_entropy(logits, labels, reduction="none")
    return ((-torch.expm1(-loss)) ** gamma * loss).mean()  # expm1: 1 - p without cancellation where p is almost 1


def balanced_softmax(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of logits with ln(count) added: what is left for them to learn is balanced.

    Args:
        logits: (B, K).
        labels: (B,).
        counts: (K,).
    """
    return F.cross_entropy(logits + _plain(counts).log().to(logits), labels)


def ldam_margins(counts: Tensor, largest: float = 0.5) -> Tensor:
    """(K,) margins proportional to count^(-1/4), the rarest class's being `largest`."""
    margins = _plain(counts) ** -0.25
    return largest * margins / margins.max()


def ldam_loss(
    cosines: Tensor, labels: Tensor, margins: Tensor, scale: float = 30.0, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of scaled cosines, the truth's lessened by its class's margin.

    Args:
        cosines: (B, K) of features and class directions.
        labels: (B,).
        margins: (K,) from `ldam_margins`.
        scale: Of the cosines.
        weights: (K,) of the classes, such as `deferred_weights`; none weighs all alike.
    """
    lessened = cosines - F.one_hot(labels, cosines.shape[1]).to(cosines) * margins.to(cosines)
    if weights is None:
        return F.cross_entropy(scale * lessened, labels)
    return weighted_cross_entropy(scale * lessened, labels, weights)


def adjusted_logits(logits: Tensor, counts: Tensor, tau: float = 1.0) -> Tensor:
    """Logits less tau ln(frequency), for a network trained without regard to the classes' sizes.

    Args:
        logits: (B, K); or a head's bias, (K,), into which the adjustment is folded for good.
        counts: (K,).
        tau: 0 leaves the logits.
    """
    sizes = _plain(counts)
    return logits - tau * (sizes / sizes.sum()).log().to(logits)


def tau_normalised(weight: Tensor, tau: float) -> Tensor:
    """(K, D) class directions with their length to the power 1 - tau; the head then has no bias.

    Args:
        weight: (K, D) of the head.
        tau: 0 leaves the lengths, 1 makes them all 1.
    """
    return weight / torch.linalg.vector_norm(weight, dim=1, keepdim=True) ** tau


def scaled_head(weight: Tensor, bias: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """A head whose logits are multiplied by one learnt scale a class (LWS), as plain weight and bias.

    Args:
        weight: (K, D).
        bias: (K,).
        scale: (K,).
    """
    return scale[:, None] * weight, scale * bias


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(K, D) means of each class's features as they are; zeros for a class without any."""
    counts = labels.bincount(minlength=classes).clamp(min=1).to(features)
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return sums / counts[:, None]


def centre_head(means: Tensor) -> Tensor:
    """(K, D) weight of the head that answers with the class whose mean has the highest cosine to the features.

    Means of length 1 and no bias give the cosines times the length of the features, which is the same for all classes.
    """
    return F.normalize(means, dim=1)


def unit_centres(embeddings: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(K, D) mean of each class's embeddings at length 1, brought to length 1 again."""
    return F.normalize(class_means(F.normalize(embeddings, dim=1), labels, classes), dim=1)


def centre_triplet(embeddings: Tensor, labels: Tensor, centres: Tensor, margin: float = 0.3) -> Tensor:
    """Mean of max(0, distance to the own centre - distance to the nearest other one + margin).

    Args:
        embeddings: (B, D), brought to length 1 here.
        labels: (B,).
        centres: (K, D) of length 1, K at least 2; rows of zeros are classes without a centre yet, and stand aside.
        margin: By how much the own centre is to be nearer.
    """
    distances = torch.cdist(F.normalize(embeddings, dim=1), centres, compute_mode="donot_use_mm_for_euclid_dist")
    own = distances.gather(1, labels[:, None])[:, 0]
    is_own = F.one_hot(labels, len(centres)).bool()
    is_absent = (centres == 0).all(1)
    other = distances.masked_fill(is_own | is_absent, torch.inf).min(1).values
    return (own - other + margin).clamp(min=0).mean()


def bbn_share(epoch: int, epochs: int) -> float:
    """Share of BBN's naturally sampled branch: 1 - ((epoch - 1) / epochs)^2.

    Args:
        epoch: From 1.
        epochs: Of the training.
    """
    return 1 - ((epoch - 1) / epochs) ** 2


def _plain(counts: Tensor) -> Tensor:
    """Counts in float64: beta^count of thousands of pictures needs the digits.

    Raises:
        ValueError: A class without pictures.
    """
    if (counts < 1).any():
        raise ValueError(f"class {int((counts < 1).nonzero()[0])} has no pictures; every class needs one")
    return counts.double()


def _summing_to_classes(weights: Tensor) -> Tensor:
    return weights * (len(weights) / weights.sum())
