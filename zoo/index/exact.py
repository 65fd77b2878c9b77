"""The nearest items by inner product, exactly, over vectors that need not fit into memory.

Blocks of float16 are widened into a buffer that stays in the cache, multiplied, and only what beats the worst of the
best so far is looked at again. The few that are left are scored once more in float64, so that a score does not depend
on where in the gallery its item lies.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["NOTHING", "Block", "Hits", "rescored", "search_blocks"]

BUFFER = 8 << 20  # bytes of float32 that are multiplied at once: what the cache keeps
SCORES = 64 << 20  # bytes of float32 scores at once
SPARE = 16  # candidates beyond k, since float32 sums may swap neighbours
NOTHING = -1  # row of a place that no item takes
LAST = np.iinfo(np.int64).max

Block = tuple[int, Tensor, Tensor | None]  # number of the first row, (n, K, D) float16, (n,) which count


@dataclass(frozen=True, eq=False)
class Hits:
    """The best items of each query, best first; equal scores in the gallery's order.

    Attributes:
        rows: (Q, k) int64 numbers of items; `NOTHING` where the gallery has fewer.
        scores: (Q, k) float32, falling; minus infinity there.
        prototypes: (Q, k) int64: which of an item's vectors won.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    prototypes: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not self.rows.shape == self.scores.shape == self.prototypes.shape or self.rows.ndim != 2:
            raise ValueError(f"{self.rows.shape} rows, {self.scores.shape} scores, {self.prototypes.shape} prototypes")

    def __len__(self) -> int:
        return len(self.rows)


@torch.inference_mode()
def search_blocks(queries: Tensor, blocks: Callable[[], Iterable[Block]], k: int) -> tuple[NDArray[np.int64], Tensor]:
    """Candidates for the k best items of each query.

    Args:
        queries: (Q, D) float32.
        blocks: Gives the gallery from its start, in order of rows.
        k: Items wanted.

    Returns:
        (Q, k + a few) rows, best first, `NOTHING` at the end where there are fewer; and their float32 scores.
    """
    found = [_search(part, blocks(), k + SPARE) for part in torch.split(queries, _at_once(queries))]
    return np.concatenate([rows for rows, _ in found]), torch.cat([scores for _, scores in found])


def _at_once(queries: Tensor) -> int:
    """Queries whose scores of one block fit the room for them."""
    return max(1, SCORES // BUFFER * queries.shape[1])


def _search(queries: Tensor, blocks: Iterable[Block], k: int) -> tuple[NDArray[np.int64], Tensor]:
    count, dim = queries.shape
    rows = np.full((count, k), LAST)
    best = torch.full((count, k), -torch.inf)
    columns = max(1, BUFFER // (4 * dim))
    buffer = torch.empty((columns, dim))
    products = torch.empty((count, columns))
    for first, vectors, alive in blocks:
        per_item = vectors.shape[1]
        if per_item > columns:
            buffer, products, columns = torch.empty((per_item, dim)), torch.empty((count, per_item)), per_item
        step = columns // per_item
        for start in range(0, len(vectors), step):
            part = vectors[start : start + step]
            used = len(part) * per_item
            buffer[:used].copy_(part.reshape(used, dim))
            torch.mm(queries, buffer.T, out=products)  # always of one shape, so always by the same kernel
            scores = products[:, :used]
            if per_item > 1:
                scores = scores.view(count, len(part), per_item).amax(2)
            if alive is not None:
                scores = scores.masked_fill(~alive[start : start + step], -torch.inf)
            rows, best = _merged(rows, best, first + start, scores)
    rows[rows == LAST] = NOTHING
    return rows, best


def _merged(rows: NDArray[np.int64], best: Tensor, first: int, scores: Tensor) -> tuple[NDArray[np.int64], Tensor]:
    """The best of what was found and of a block behind it: falling scores, then rising rows."""
    count, k = best.shape
    better = scores > best[:, -1:]  # a later row of the same score never comes before an earlier one
    if int(better.sum()) > 8 * count * k and scores.shape[1] > k:
        better &= scores >= scores.topk(k).values[:, -1:]
    queries, columns = better.nonzero(as_tuple=True)
    if not len(queries):
        return rows, best
    owner = np.concatenate((np.repeat(np.arange(count), k), queries.numpy()))
    score = np.concatenate((best.numpy().ravel(), scores[queries, columns].numpy()))
    row = np.concatenate((rows.ravel(), columns.numpy() + first))
    order = np.lexsort((row, -score, owner))
    place = np.arange(len(order)) - np.searchsorted(owner[order], np.arange(count))[owner[order]]
    kept = order[place < k]
    return row[kept].reshape(count, k), torch.from_numpy(score[kept].reshape(count, k))


def rescored(
    queries: Tensor, candidates: NDArray[np.int64], take: Callable[[NDArray[np.int64]], Tensor], k: int
) -> Hits:
    """The k best of each query's candidates, by scores in float64.

    Args:
        queries: (Q, D) float32.
        candidates: (Q, C) rows; `NOTHING` for none; a row that stands twice counts once.
        take: Gives the vectors of rows, (n, K, D) float16.
        k: Items wanted.
    """
    count = len(queries)
    rows = np.full((count, k), NOTHING)
    scores = np.full((count, k), -np.inf, np.float32)
    prototypes = np.zeros((count, k), np.int64)
    for i, query in enumerate(queries.double().numpy()):
        mine = np.unique(candidates[i][candidates[i] != NOTHING])
        if not len(mine):
            continue
        each = take(mine).double().numpy() @ query  # (C, K)
        winner = each.argmax(1)
        score = each[np.arange(len(mine)), winner].astype(np.float32)
        order = np.argsort(-score, kind="stable")[:k]
        rows[i, : len(order)] = mine[order]
        scores[i, : len(order)] = score[order]
        prototypes[i, : len(order)] = winner[order]
    return Hits(rows, scores, prototypes)
