"""Text-to-video retrieval: ranks with ties shared, several captions a video, and what is made of the ranks.

T captions, V videos.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Ranks", "RetrievalScores", "dual_softmax", "retrieval_scores"]


@dataclass(frozen=True)
class Ranks:
    """Ranks in one direction, summed up.

    Attributes:
        r1: Share of the queries whose right answer is first, in per cent; a tie shares its places' mean.
        r5: The same for the first five.
        r10: The same for the first ten.
        mdr: Median rank, from 1.
        mnr: Mean rank.
        queries: How many there were.
    """

    r1: float
    r5: float
    r10: float
    mdr: float
    mnr: float
    queries: int

    @classmethod
    def of(cls, ranks: NDArray[np.float64]) -> "Ranks":
        """Of the rank of each query."""
        r1, r5, r10 = (100 * float((ranks <= k).mean()) for k in (1, 5, 10))
        return cls(r1, r5, r10, float(np.median(ranks)), float(ranks.mean()), len(ranks))


@dataclass(frozen=True)
class RetrievalScores:
    """Both directions, and the rank of each query.

    Attributes:
        text_to_video: Every caption is a query.
        video_to_text: Every video with a caption is a query; the best placed of its captions counts, among all others.
        text_ranks: (T,) ranks of the captions; NaN for those that were left out.
        video_ranks: (V,) ranks of the videos; NaN for those without a caption.
    """

    text_to_video: Ranks
    video_to_text: Ranks
    text_ranks: NDArray[np.float64]
    video_ranks: NDArray[np.float64]

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Plain JSON types, without the ranks."""
        return {"text_to_video": asdict(self.text_to_video), "video_to_text": asdict(self.video_to_text)}


def retrieval_scores(similarity: ArrayLike, caption_video: ArrayLike | None = None) -> RetrievalScores:
    """How well captions find their videos and videos their captions.

    rank = 1 + (answers that are more similar) + (other answers that are equally similar) / 2. A caption of -1 is
    missing: it is neither a query nor an answer.

    Args:
        similarity: (T, V).
        caption_video: (T,) number of each caption's video, -1 for a missing caption; by default caption i is of video
            i.

    Raises:
        ValueError: A similarity is not finite, shapes do not fit, a video's number is none, or no caption is left.
    """
    scores = np.asarray(similarity)
    if scores.ndim != 2:
        raise ValueError(f"similarities are (captions, videos), not {scores.shape}")
    own = np.arange(len(scores)) if caption_video is None else np.asarray(caption_video)
    if own.shape != (len(scores),) or (len(own) and not (-1 <= own.min() <= own.max() < scores.shape[1])):
        raise ValueError(
            f"caption_video has {own.shape} numbers for {scores.shape} similarities; from -1, below the last"
        )
    kept = np.flatnonzero(own >= 0)
    if not len(kept):
        raise ValueError("there is no caption")
    scores, owner = scores[kept], own[kept].astype(np.int64)
    if not np.isfinite(scores).all():
        raise ValueError("a similarity is not finite")
    text_ranks = np.full(len(own), np.nan)
    text_ranks[kept] = _ranks(scores, owner)
    # a video's best caption decides; captions of the same video that tie with it are answers like all others
    video_ranks = np.full(scores.shape[1], np.nan)
    described = np.unique(owner)
    best = np.full(scores.shape[1], -1, np.int64)
    order = np.argsort(scores[np.arange(len(owner)), owner], kind="stable")  # the last one written is the best
    best[owner[order]] = order
    video_ranks[described] = _ranks(scores.T[described], best[described])
    return RetrievalScores(Ranks.of(text_ranks[kept]), Ranks.of(video_ranks[described]), text_ranks, video_ranks)


def _ranks(scores: NDArray[np.floating], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """The rank of each row's right column."""
    own = scores[np.arange(len(scores)), right][:, None]
    return 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2


def dual_softmax(similarity: ArrayLike, temperature: float = 0.01) -> NDArray[np.float64]:
    """Similarities weighed by how much of a video's similarity, over all captions, each caption has.

    It uses the whole set of queries, so its figures do not compare with those without it.

    Args:
        similarity: (T, V).
        temperature: Of the softmax.
    """
    scores = np.asarray(similarity, np.float64)
    logits = scores / temperature
    shares = np.exp(logits - logits.max(0, keepdims=True))
    return scores * shares / shares.sum(0, keepdims=True)
