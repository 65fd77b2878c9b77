"""Re-ranking by k-reciprocal neighbours: who is near to each other from both sides counts as nearer.

Z. Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017, arXiv:1701.08398. The rule
compares all pairs of what it is given, so on a large gallery it is given each query with its nearest candidates only.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["k_reciprocal", "memory_for", "rerank"]

SHARE = 2 / 3  # of a neighbour's own neighbours that must be known already
COPIES = 6  # float32 matrices of all pairs that the rule holds at its widest

Array = NDArray[np.float32]


def memory_for(count: int) -> int:
    """Bytes that `k_reciprocal` takes for `count` queries and gallery entries together."""
    return 4 * COPIES * count * count


def k_reciprocal(
    query_gallery: Any, query_query: Any, gallery_gallery: Any, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> Array:
    """Re-ranked distances of every query to every gallery entry.

    Needs the memory that `memory_for(Q + G)` says.

    Args:
        query_gallery: (Q, G) Euclidean distances.
        query_query: (Q, Q) among queries.
        gallery_gallery: (G, G) among gallery entries.
        k1: Neighbours that must be mutual.
        k2: Nearest ones whose neighbourhoods are averaged; 1 for none.
        weight: Of the distance itself in the result, in [0, 1]; the rest goes to the neighbourhoods.

    Returns:
        (Q, G) float32, smaller is nearer.

    Raises:
        ValueError: Shapes that do not fit, or k1, k2 below 1.
    """
    between, queries, gallery = (_float32(matrix) for matrix in (query_gallery, query_query, gallery_gallery))
    count, width = between.shape
    if queries.shape != (count, count) or gallery.shape != (width, width) or k1 < 1 or k2 < 1:
        raise ValueError(
            f"distances are {between.shape}, {queries.shape} and {gallery.shape} for k1={k1}, k2={k2}; "
            "(Q, G), (Q, Q), (G, G) and whole numbers from 1 are needed"
        )
    dist = np.block([[queries, between], [between.T, gallery]]) ** 2
    dist = (dist / np.maximum(dist.max(0), np.finfo(np.float32).tiny)).T  # each column by its largest
    ranked = np.argsort(dist, axis=1, kind="stable")
    near = _neighbourhoods(dist, ranked, k1)
    if k2 > 1:
        near = near[ranked[:, :k2]].mean(1)
    overlap = np.stack([_shared(near[i], near[count:]) for i in range(count)])
    jaccard = 1 - overlap / (2 - overlap)
    return (jaccard * (1 - weight) + dist[:count, count:] * weight).astype(np.float32)


def rerank(
    queries: Any,
    gallery: Any,
    *,
    top: int = 200,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
) -> NDArray[np.float32]:
    """Re-ranked distances of features, each query with its `top` nearest gallery entries.

    The others stay behind those, in their order. Memory is that of `memory_for(top + 1)` and of the result.

    Args:
        queries: (Q, D) features.
        gallery: (G, D) features.
        top: Candidates of a query.
        k1: See `k_reciprocal`.
        k2: See `k_reciprocal`.
        weight: See `k_reciprocal`.

    Returns:
        (Q, G) float32, smaller is nearer: in [0, 1] for candidates, above 1 for the rest.

    Raises:
        ValueError: Shapes that do not fit, or `top` below 1.
    """
    asked, there = _float32(queries), _float32(gallery)
    if asked.ndim != 2 or there.ndim != 2 or asked.shape[1] != there.shape[1] or top < 1:
        raise ValueError(f"features are {asked.shape} and {there.shape}, top is {top}; (Q, D), (G, D), 1 are needed")
    result = np.empty((len(asked), len(there)), np.float32)
    for row, dist in zip(result, _distances(asked, there), strict=True):
        order = np.argsort(dist, kind="stable")
        near, rest = order[:top], order[top:]
        among = np.stack(list(_distances(there[near], there[near])))
        row[near] = k_reciprocal(dist[near][None], np.zeros((1, 1)), among, k1, k2, weight)[0]
        row[rest] = 1 + (1 + np.arange(len(rest))) / max(1, len(rest))
    return result


def _float32(values: Any) -> Array:
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    return array.astype(np.float32)


def _distances(a: Array, b: Array) -> Iterator[Array]:
    """(G,) Euclidean distances to the rows of b, for one row of a after the other."""
    squares = (b * b).sum(1)
    for row in a:
        yield np.sqrt(np.maximum(row @ row + squares - 2 * (b @ row), 0))


def _neighbourhoods(dist: Array, ranked: NDArray[np.int64], k1: int) -> Array:
    """(n, n) how much each entry belongs to each other's mutual neighbours; a row sums to one."""
    mutual = _mutual(ranked, k1)
    half = _mutual(ranked, int(np.around(k1 / 2)))
    known = mutual.astype(np.float32) @ half.astype(np.float32).T  # how many of the half of c are mutual with i
    joins = mutual & (known > SHARE * half.sum(1))
    members = mutual | (joins.astype(np.float32) @ half.astype(np.float32) > 0)
    weights = np.where(members, np.exp(-dist), np.float32(0))
    return weights / weights.sum(1, keepdims=True)


def _mutual(ranked: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """(n, n) which pairs are among each other's k nearest, themselves aside."""
    near = np.zeros(ranked.shape, bool)
    np.put_along_axis(near, ranked[:, : k + 1], True, 1)
    return near & near.T


def _shared(one: Array, others: Array) -> Array:
    """(G,) sum of the smaller weights; only where `one` has any."""
    where = np.flatnonzero(one)
    return np.minimum(one[where], others[:, where]).sum(1)
