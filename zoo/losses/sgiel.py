"""The losses of SGIEL, equation by equation.

J. Feng, A. Wu, W.-S. Zheng, "Shape-Erased Feature Learning for Visible-Infrared Person Re-Identification", CVPR 2023,
arXiv:2304.04205; as in the released code.

Rows 0 to B-1 of every batch are visible, rows B to 2B-1 infrared; row i and row B+i have the same identity. D are the
features, d the shape code, K the identities.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.layers.subspace import unit_columns

__all__ = [
    "complementary",
    "consistency",
    "dynamic_weights",
    "exchange",
    "hard_triplet",
    "least_alike",
    "mixed_cross_entropy",
    "mutual",
    "orthogonality",
    "rectangle",
    "soft_cross_entropy",
    "weighted_triplet",
]


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of -sum softmax(teacher) log softmax(student); no gradient reaches the teacher.

    Args:
        student: (B, K) logits.
        teacher: (B, K) logits.
    """
    return F.cross_entropy(student, teacher.detach().softmax(1))


def mixed_cross_entropy(logits: Tensor, labels: Tensor, others: Tensor, share: float) -> Tensor:
    """Cross-entropy with two labels a row.

    Args:
        logits: (B, K).
        labels: (B,) identities that make up `share` of a row.
        others: (B,) those that make up the rest.
        share: In [0, 1].
    """
    return share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, others)


def hard_triplet(features: Tensor, labels: Tensor, margin: float = 0.3) -> Tensor:
    """Triplet loss on each row's furthest row of its own identity and nearest one of another.

    Args:
        features: (B, D), before the neck; both modalities mixed.
        labels: (B,) at least two identities.
        margin: By which another identity has to be further away.
    """
    distances = _distances(features)
    same = labels[:, None] == labels
    furthest = distances.masked_fill(~same, -torch.inf).amax(1)
    nearest = distances.masked_fill(same, torch.inf).amin(1)
    return (furthest - nearest + margin).relu().mean()


def weighted_triplet(features: Tensor, labels: Tensor) -> Tensor:
    """Triplet loss without a margin, each row against softmax-weighted means of its own and the other identities.

    Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", arXiv:2001.04193, eq. (8); an option
    of the released code in the place of `hard_triplet`.

    Args:
        features: (B, D), before the neck.
        labels: (B,) at least two identities.
    """
    distances = _distances(features)
    same = labels[:, None] == labels
    near, far = (
        (distances * (sign * distances).masked_fill(~mask, -torch.inf).softmax(1)).sum(1)
        for sign, mask in ((1, same), (-1, ~same))
    )
    return F.softplus(near - far).mean()


def mutual(logits: Tensor) -> Tensor:
    """Each modality's predictions as the other's targets, row against row.

    Args:
        logits: (2B, K).
    """
    visible, infrared = logits.chunk(2)
    return soft_cross_entropy(visible, infrared) + soft_cross_entropy(infrared, visible)


def least_alike(codes: Tensor, labels: Tensor) -> Tensor:
    """For each row, the row of the other modality and the same identity whose shape is least like its own.

    Args:
        codes: (2B, d) shape codes of the maps.
        labels: (B,) identities of one modality's rows.

    Returns:
        (2B,) indices into the rows of the other modality, 0 to B-1; of equally unlike ones the first.
    """
    visible, infrared = F.normalize(codes.detach()).chunk(2)
    likeness = (visible @ infrared.T).masked_fill(labels[:, None] != labels, torch.inf)
    return torch.cat([likeness.argmin(1), likeness.argmin(0)])


def complementary(erased_logits: Tensor, partners: Tensor) -> Tensor:
    """Agreement of the shape-erased feature across modalities: row against row, and against the least alike shape.

    Args:
        erased_logits: (2B, K).
        partners: (2B,) from `least_alike`.
    """
    visible, infrared = erased_logits.chunk(2)
    of_visible, of_infrared = partners.chunk(2)
    unlike = soft_cross_entropy(visible, infrared[of_visible]) + soft_cross_entropy(infrared, visible[of_infrared])
    return mutual(erased_logits) + unlike


def consistency(code: Tensor, teacher_code: Tensor, teacher_logits: Tensor, classifier: Tensor) -> Tensor:
    """How far a photograph's estimate of the shape code is from what the teacher reads off the shape map.

    Args:
        code: (2B, d) estimates.
        teacher_code: (2B, d) shape codes of the maps.
        teacher_logits: (2B, K) of those.
        classifier: (K, d) weight of the shape classifier; it gets no gradient.
    """
    return F.mse_loss(code, teacher_code.detach()) + soft_cross_entropy(code @ classifier.detach().T, teacher_logits)


def orthogonality(projection: Tensor) -> Tensor:
    """Mean over columns of the L1 distance of N^T N from the identity, N the projection with unit columns.

    Args:
        projection: (D, d).
    """
    basis = unit_columns(projection)
    gram = basis.T @ basis
    return (gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype)).abs().sum(1).mean()


def dynamic_weights(complement: Tensor, consistent: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the consistency and of the complementary losses: 2 s / (c + s) and 2 c / (c + s).

    c and s are the mean lengths of the losses' gradients at the pooled features, so the larger gradient gets the larger
    weight. Both are constants of the backward pass.

    Args:
        complement: Sum of the losses on the erased feature.
        consistent: The consistency loss.
        pooled: (2B, D) before the neck.
    """
    c, s = (
        torch.autograd.grad(loss, pooled, retain_graph=True)[0].norm(dim=1).mean() for loss in (complement, consistent)
    )
    whole = (c + s).clamp(min=torch.finfo(c.dtype).tiny)  # both are 0 where nothing is left to learn
    return 2 * s / whole, 2 * c / whole


def rectangle(size: tuple[int, int], share: float, centre: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of CutMix: a rectangle of the picture's aspect, cut off at its borders.

    Yun et al., arXiv:1905.04899.

    Args:
        size: Height and width of the picture.
        share: Of the picture that stays, in [0, 1].
        centre: Row and column of the rectangle's middle.
    """
    side = (1 - share) ** 0.5
    lows = [middle - int(length * side) // 2 for length, middle in zip(size, centre, strict=True)]
    highs = [middle + int(length * side) // 2 for length, middle in zip(size, centre, strict=True)]
    rows, columns = (slice(max(low, 0), min(high, length)) for low, high, length in zip(lows, highs, size, strict=True))
    return rows, columns


def exchange(
    visible: Tensor, infrared: Tensor, order: Tensor, area: tuple[slice, slice]
) -> tuple[Tensor, Tensor, float]:
    """CutMix across modalities: each picture gets a rectangle of picture `order[i]` of the other modality.

    Args:
        visible: (B, C, H, W).
        infrared: (B, C, H, W).
        order: (B,) permutation.
        area: Rows and columns of the rectangle.

    Returns:
        Both mixed, and the share that is left of each picture.
    """
    rows, columns = area
    mixed = visible.clone(), infrared.clone()
    mixed[0][:, :, rows, columns] = infrared[order][:, :, rows, columns]
    mixed[1][:, :, rows, columns] = visible[order][:, :, rows, columns]
    cut = (rows.stop - rows.start) * (columns.stop - columns.start)
    return *mixed, 1 - cut / (visible.shape[2] * visible.shape[3])


def _distances(features: Tensor) -> Tensor:
    """(B, B) Euclidean."""
    square = features.square().sum(1)
    return (square[:, None] + square - 2 * features @ features.T).clamp(min=1e-12).sqrt()
