"""Checks of what goes into a gallery and of what is asked."""

from typing import Any

import torch
from torch import Tensor

from zoo.index.facts import Facts

__all__ = ["narrowed", "queries_of"]

LARGEST = 65504.0  # of float16


def narrowed(vectors: Any, count: int, facts: Facts) -> Tensor:
    """Vectors as a gallery keeps them.

    Args:
        vectors: (count, K, D), or (count, D) where K is 1: tensor or array of floats.
        count: Items they belong to.
        facts: Of the gallery.

    Returns:
        (count, K, D) float16.

    Raises:
        ValueError: Another shape, or numbers that float16 does not hold.
    """
    added = torch.as_tensor(vectors)
    if added.ndim == 2 and facts.per_item == 1:
        added = added[:, None]
    if tuple(added.shape) != (count, facts.per_item, facts.dim):
        raise ValueError(f"vectors are {tuple(added.shape)}; {(count, facts.per_item, facts.dim)} is needed")
    if not bool((added.abs() <= LARGEST).all()):  # false for NaN as well
        raise ValueError(f"vectors are finite and at most {LARGEST:g}")
    return added.detach().cpu().to(torch.float16)


def queries_of(queries: Any, dim: int, k: int) -> Tensor:
    """(Q, D) float32 of what is asked.

    Raises:
        ValueError: Another shape, a number that is not finite, or a k below 1.
    """
    wanted = torch.as_tensor(queries).detach().cpu().float()
    if wanted.ndim != 2 or wanted.shape[1] != dim or k < 1:
        raise ValueError(f"queries are {tuple(wanted.shape)} for k={k}; (Q, {dim}) and k from 1 are needed")
    if not bool(wanted.isfinite().all()):
        raise ValueError("queries are not finite")
    return wanted
