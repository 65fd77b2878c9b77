"""Are two pictures of the same person? How often a threshold on the similarity says so, rightly and wrongly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["FPRS", "Threshold", "tpr_at_fpr"]

FPRS = (0.0001, 0.001, 0.01, 0.1)


@dataclass(frozen=True)
class Threshold:
    """A threshold and what it does on labelled pairs.

    Attributes:
        fpr: Share of different pairs that are taken for the same, at most what was asked for.
        tpr: Share of same pairs that are taken for the same.
        similarity: A pair at or above it is taken for the same; infinity takes none.
    """

    fpr: float
    tpr: float
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a threshold that takes nothing is null."""
        return {
            "fpr": self.fpr,
            "tpr": self.tpr,
            "similarity": self.similarity if np.isfinite(self.similarity) else None,
        }


def tpr_at_fpr(similarity: ArrayLike, same: ArrayLike, fprs: Sequence[float] = FPRS) -> list[Threshold]:
    """The threshold with the most true positives whose false positives stay within each rate.

    Args:
        similarity: (N,) of pairs, larger is nearer.
        same: (N,) which pairs show the same person.
        fprs: Rates of false positives that are allowed, in [0, 1].

    Raises:
        ValueError: Shapes that do not fit, a similarity that is no number, or no pair of either kind.
    """
    scores, labels = np.asarray(similarity, np.float64), np.asarray(same, bool)
    if scores.ndim != 1 or scores.shape != labels.shape or np.isnan(scores).any():
        raise ValueError(f"similarity is {scores.shape} and same {labels.shape}; numbers, (N,) each, are needed")
    positives = np.sort(scores[labels])
    negatives = np.sort(scores[~labels])
    if not len(positives) or not len(negatives):
        raise ValueError(f"{len(positives)} same and {len(negatives)} different pairs; both are needed")
    return [_within(positives, negatives, rate) for rate in fprs]


def _within(positives: Any, negatives: Any, rate: float) -> Threshold:
    """The lowest of the same pairs' similarities that keeps to the rate."""
    allowed = int(rate * len(negatives) + 1e-9)  # 0.1 * 30 is a little less than 3
    floor = negatives[len(negatives) - allowed - 1] if allowed < len(negatives) else -np.inf
    above = positives[positives > floor]
    if not len(above):
        return Threshold(0.0, 0.0, float("inf"))
    threshold = float(above[0])
    false = len(negatives) - np.searchsorted(negatives, threshold)
    return Threshold(float(false / len(negatives)), float(len(above) / len(positives)), threshold)
