"""Re-identification: CMC, mAP and mINP under the protocols of SYSU-MM01, RegDB, HITSZ-VCM and Market-1501.

A query's gallery is ranked by distance; equal distances keep the gallery's order. Only the ranks of the right entries
matter, so rows are sorted by value, which is several times as fast as sorting their indices, and the right entries are
looked up in them.

Protocols: A. Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017; D. Nguyen et al., "Person
Recognition System Based on a Combination of Body Images from Visible Light and Thermal Cameras", Sensors 2017; X. Lin
et al., "Learning Modal-Invariant and Temporal-Memory for Video-based Visible-Infrared Person Re-Identification", CVPR
2022. mINP: M. Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", arXiv:2001.04193.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PROTOCOLS", "ReidScores", "reid_scores"]

PROTOCOLS = ("sysu", "regdb", "vcm", "market")
BLOCK = 16 << 20  # bytes of distances that are ranked at once
SYSU_QUERY, SYSU_GALLERY = 3, 2  # cameras of one room: a query of the one does not see the gallery of the other

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ReidScores:
    """How well queries found their identity.

    Attributes:
        protocol: What was counted.
        cmc: (ranks,) in [0, 1]; entry k-1 is the share of queries with a right answer within rank k.
        mAP: Mean average precision in [0, 1].
        mINP: Mean inverse negative penalty in [0, 1].
        ap: (Q,) average precision of each query; NaN where it was skipped.
        inp: (Q,) inverse negative penalty, likewise.
        skipped: Queries without a right entry in their gallery; they count nowhere.
    """

    protocol: str
    cmc: NDArray[np.float64]
    mAP: float
    mINP: float
    ap: NDArray[np.float64]
    inp: NDArray[np.float64]
    skipped: int

    @property
    def queries(self) -> int:
        """Queries that count."""
        return len(self.ap) - self.skipped

    def rank(self, k: int) -> float:
        """Share of queries with a right answer within rank k; beyond the gallery's end, that of its last rank."""
        return float(self.cmc[min(k, len(self.cmc)) - 1])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, shares in [0, 1]."""
        return {
            "protocol": self.protocol,
            "rank1": self.rank(1),
            "rank5": self.rank(5),
            "rank10": self.rank(10),
            "rank20": self.rank(20),
            "mAP": self.mAP,
            "mINP": self.mINP,
            "cmc": self.cmc.tolist(),
            "queries": self.queries,
            "skipped": self.skipped,
        }


def reid_scores(
    dist: Any,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cams: ArrayLike | None = None,
    gallery_cams: ArrayLike | None = None,
    protocol: str = "sysu",
    *,
    max_rank: int | None = 20,
) -> ReidScores:
    """CMC, mAP and mINP of a distance matrix.

    What a query does not see, and what a rank counts:

    | protocol | left out of a query's gallery | CMC counts |
    |---|---|---|
    | sysu | camera 2, for queries of camera 3 | distinct identities |
    | regdb | nothing | entries |
    | vcm, market | its identity in its own camera | entries |

    mAP and mINP count entries under all of them. A curve that ends before `max_rank`, because a query sees fewer
    identities than another, goes on at its last value.

    Args:
        dist: (Q, G) distances, smaller is nearer; an array or a tensor.
        query_ids: (Q,) identities.
        gallery_ids: (G,) identities.
        query_cams: (Q,) cameras; regdb does without.
        gallery_cams: (G,) cameras, likewise.
        protocol: "sysu", "regdb", "vcm" or "market".
        max_rank: Ranks of the curve; it is cut to the entries, under sysu to the identities, that the gallery has.
            None for all of them.

    Raises:
        ValueError: Shapes that do not fit, a distance that is no number, an unknown protocol, or no query with a right
            entry in its gallery.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol {protocol!r}; one of {', '.join(PROTOCOLS)}")
    matrix = _matrix(dist)
    qid, gid = (_labels(ids, "identities", n) for ids, n in zip((query_ids, gallery_ids), matrix.shape, strict=True))
    if protocol == "regdb":
        qcam, gcam = np.zeros(len(qid), np.int64), np.ones(len(gid), np.int64)
    else:
        qcam, gcam = (_labels(c, "cameras", n) for c, n in zip((query_cams, gallery_cams), matrix.shape, strict=True))
    groups = _Groups.of(gid)
    ranks = len(groups.names) if protocol == "sysu" else len(gid)
    found = _Found(np.full(len(qid), np.nan), np.full(len(qid), np.nan), np.zeros(ranks + 1, np.int64))
    for queries, columns in _views(protocol, qcam, gcam):
        _rank_view(matrix, queries, columns, (qid, gid, qcam, gcam), protocol, found)
    valid = ~np.isnan(found.ap)
    if not valid.any():
        raise ValueError(f"none of {len(qid)} queries has its identity in the gallery it sees")
    length = ranks if max_rank is None else min(max_rank, ranks)
    return ReidScores(
        protocol=protocol,
        cmc=found.first.cumsum()[:length] / valid.sum(),
        mAP=float(found.ap[valid].mean()),
        mINP=float(found.inp[valid].mean()),
        ap=found.ap,
        inp=found.inp,
        skipped=int((~valid).sum()),
    )


@dataclass(frozen=True)
class _Found:
    """What is known so far: a figure a query, and at which rank the first right answer came how often."""

    ap: NDArray[np.float64]
    inp: NDArray[np.float64]
    first: Indices


@dataclass(frozen=True)
class _Groups:
    """Columns by identity: of `names[i]` they are `order[starts[i] : starts[i + 1]]`, rising; `which` goes back."""

    names: Indices
    which: Indices
    order: Indices
    starts: Indices

    @classmethod
    def of(cls, ids: Indices) -> "_Groups":
        names, which, counts = np.unique(ids, return_inverse=True, return_counts=True)
        return cls(names, which, np.argsort(ids, kind="stable"), np.concatenate(([0], counts.cumsum())))

    def columns(self, ids: Indices) -> tuple[Indices, NDArray[np.bool_]]:
        """(B, M) columns of each identity, padded, and which of them are none."""
        if not len(self.names):
            return np.zeros((len(ids), 0), np.int64), np.zeros((len(ids), 0), bool)
        place = np.minimum(np.searchsorted(self.names, ids), len(self.names) - 1)
        counts = np.where(self.names[place] == ids, self.starts[place + 1] - self.starts[place], 0)
        within = np.arange(counts.max(initial=0))
        padding = within >= counts[:, None]
        return self.order[np.where(padding, 0, self.starts[place][:, None] + within)], padding


def _matrix(dist: Any) -> NDArray[Any]:
    matrix = dist.detach().cpu().numpy() if hasattr(dist, "detach") else np.asarray(dist)
    if matrix.ndim != 2:
        raise ValueError(f"dist is {matrix.shape}; (Q, G) is needed")
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float32 if matrix.dtype == np.float16 else np.float64)
    return matrix


def _labels(labels: Any, what: str, count: int) -> Indices:
    if labels is None:
        raise ValueError(f"this protocol needs {what}")
    array = labels.detach().cpu().numpy() if hasattr(labels, "detach") else np.asarray(labels)
    if array.shape != (count,):
        raise ValueError(f"{what} are {array.shape}; {(count,)} is needed")
    if array.dtype.kind not in "iub":
        raise ValueError(f"{what} are {array.dtype}; whole numbers are needed")
    return array.astype(np.int64)


def _views(protocol: str, qcam: Indices, gcam: Indices) -> Iterator[tuple[Indices, Indices | None]]:
    """Queries that see the same gallery, and its columns; None for all of them."""
    everything = np.arange(len(qcam))
    if protocol != "sysu" or not (hidden := gcam == SYSU_GALLERY).any():
        yield everything, None
        return
    beside = qcam == SYSU_QUERY
    yield everything[~beside], None
    yield everything[beside], np.flatnonzero(~hidden)


def _rank_view(
    matrix: NDArray[Any],
    queries: Indices,
    columns: Indices | None,
    labels: tuple[Indices, Indices, Indices, Indices],
    protocol: str,
    found: _Found,
) -> None:
    """Rank queries, in blocks, against the columns that all of them see."""
    qid, gid, qcam, gcam = labels
    if columns is not None:
        gid, gcam = gid[columns], gcam[columns]
    groups = _Groups.of(gid)
    size = max(1, BLOCK // max(1, matrix.itemsize * len(gid)))
    for start in range(0, len(queries), size):
        mine = queries[start : start + size]
        block = matrix[mine] if columns is None else matrix[np.ix_(mine, columns)]
        own, padding = groups.columns(qid[mine])
        left_out = padding
        if protocol in ("vcm", "market"):
            left_out = padding | (gcam[own] == qcam[mine][:, None])
        hits = _hits(block, own, padding, left_out)
        first = _identities_before(block, groups, hits) if protocol == "sysu" else hits.first_rank()
        valid = hits.counts > 0
        found.ap[mine[valid]], found.inp[mine[valid]] = hits.precision()[valid], hits.penalty()[valid]
        found.first[:] += np.bincount(first[valid], minlength=len(found.first))


@dataclass(frozen=True)
class _Hits:
    """The right entries of each query of a block, nearest first.

    Attributes:
        ranks: (B, M) ranks from 0, without what the query does not see; 0 where not counted.
        columns: (B, M) where they stand in the block.
        values: (B, M) their distances.
        counted: (B, M) which of them count; the rest is padding, or not seen.
    """

    ranks: Indices
    columns: Indices
    values: NDArray[Any]
    counted: NDArray[np.bool_]

    @property
    def counts(self) -> Indices:
        return self.counted.sum(1)

    def precision(self) -> NDArray[np.float64]:
        """(B,) mean over the right entries of j / rank of the j-th."""
        share = self.counted.cumsum(1) / (self.ranks + 1)
        return np.where(self.counted, share, 0.0).sum(1) / np.maximum(self.counts, 1)

    def penalty(self) -> NDArray[np.float64]:
        """(B,) number of right entries over the rank of the last."""
        return self.counts / (self.ranks.max(1, initial=0) + 1)

    def first_rank(self) -> Indices:
        """(B,) rank from 0 of the first right entry."""
        return np.where(self.counted, self.ranks, np.iinfo(np.int64).max).min(1, initial=np.iinfo(np.int64).max)


def _hits(block: NDArray[Any], own: Indices, padding: NDArray[np.bool_], left_out: NDArray[np.bool_]) -> _Hits:
    """Ranks of a block's right entries.

    Args:
        block: (B, G) distances.
        own: (B, M) columns of each query's identity, rising in a row.
        padding: (B, M) which of them are none.
        left_out: (B, M) which of them do not count, the padding among them.
    """
    import torch

    rows = np.arange(len(block))[:, None]
    values = np.where(padding, np.inf, block[rows, own]).astype(block.dtype)
    order = np.argsort(values, axis=1, kind="stable")  # equal distances stay in the gallery's order
    values, own = np.take_along_axis(values, order, 1), np.take_along_axis(own, order, 1)
    padding, left_out = np.take_along_axis(padding, order, 1), np.take_along_axis(left_out, order, 1)
    ascending = np.sort(block, axis=1)
    if np.isnan(ascending[:, -1:]).any():  # they sort behind all numbers
        raise ValueError("a distance is not a number")
    ordered = torch.from_numpy(ascending)
    looked_for = torch.from_numpy(np.ascontiguousarray(values))
    before = torch.searchsorted(ordered, looked_for).numpy()
    through = torch.searchsorted(ordered, looked_for, right=True).numpy()
    for row, place in np.argwhere(~padding & (through > before + 1)):  # of equal distances, those further up in front
        before[row, place] += np.count_nonzero(block[row, : own[row, place]] == values[row, place])
    unseen = np.cumsum(left_out & ~padding, axis=1)  # of its own identity, at or before each
    return _Hits(np.where(left_out, 0, before - unseen), own, values, ~left_out)


def _identities_before(block: NDArray[Any], groups: _Groups, hits: _Hits) -> Indices:
    """(B,) how many other identities have an entry before the first right one."""
    if not hits.counted.any():
        return np.zeros(len(block), np.int64)
    nearest = np.minimum.reduceat(np.take(block, groups.order, axis=1), groups.starts[:-1], axis=1)  # (B, identities)
    value, column = hits.values[:, 0], hits.columns[:, 0]
    before = (nearest < value[:, None]).sum(1)
    for row in np.flatnonzero(
        (nearest == value[:, None]).sum(1) > 1
    ):  # of equally near ones, those further up in front
        rivals = np.unique(groups.which[: column[row]][block[row, : column[row]] == value[row]])
        before[row] += np.count_nonzero(nearest[row, rivals] == value[row])
    return before
