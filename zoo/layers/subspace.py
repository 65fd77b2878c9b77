"""A subspace spanned by the columns of a matrix, and what is left of features outside it."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["inside", "outside", "unit_columns"]


def unit_columns(projection: Tensor) -> Tensor:
    """(D, d) with every column of length 1."""
    return F.normalize(projection, dim=0)


def inside(features: Tensor, projection: Tensor) -> Tensor:
    """The part of features that lies in the subspace: f N N^T, N the projection with unit columns.

    A projection in the strict sense only where the columns are orthogonal.

    Args:
        features: (B, D).
        projection: (D, d).
    """
    basis = unit_columns(projection)
    return features @ basis @ basis.T


def outside(features: Tensor, projection: Tensor) -> Tensor:
    """What `inside` leaves: f - f N N^T, (B, D)."""
    return features - inside(features, projection)
