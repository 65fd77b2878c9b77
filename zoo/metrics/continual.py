"""Figures of a learner that meets its classes in tasks, one after another.

A_i^j is the measure on task i's test pictures after task j was learned; it lies in row i, column j of a matrix whose
part below the diagonal, tasks not yet learned, is NaN. All figures are shares in [0, 1], not per cent.
Zhang et al., "Adapter Learning in Pretrained Feature Extractor for Continual Learning of Diseases", MICCAI 2023,
arXiv:2304.09042; Lopez-Paz and Ranzato, "Gradient Episodic Memory", arXiv:1706.08840, for backward transfer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "OpenSet",
    "accuracy",
    "average_incremental",
    "backward_transfer",
    "bwt_mean_over_time",
    "calibration_error",
    "final_average",
    "forgetting",
    "mean_class_recall",
    "open_set",
    "task_matrix",
]

Measure = Callable[[ArrayLike, ArrayLike], float]


def accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Share of right answers.

    Args:
        truth: (N,) classes.
        predicted: (N,) classes.

    Raises:
        ValueError: There are none, or not as many of each.
    """
    truth, predicted = _pair(truth, predicted)
    return float((truth == predicted).mean())


def mean_class_recall(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Mean over the classes in `truth` of the share of each that was found; the same as balanced accuracy.

    Args:
        truth: (N,) classes.
        predicted: (N,) classes; they may be such as `truth` does not hold.

    Raises:
        ValueError: There are none, or not as many of each.
    """
    truth, predicted = _pair(truth, predicted)
    _, place, count = np.unique(truth, return_inverse=True, return_counts=True)
    return float((np.bincount(place, truth == predicted) / count).mean())


def task_matrix(
    truths: Sequence[ArrayLike],
    predictions: Sequence[ArrayLike],
    task_sizes: Sequence[int],
    measure: Measure = accuracy,
) -> NDArray[np.float64]:
    """A_i^j of every task after every task.

    Args:
        truths: For each of T tasks learned, the (N_j,) classes of all test pictures seen by then, numbered in order of
            arrival.
        predictions: For each, the (N_j,) answers.
        task_sizes: Classes of each task.
        measure: `accuracy` or `mean_class_recall`.

    Returns:
        (T, T); NaN below the diagonal, and for a task without pictures.

    Raises:
        ValueError: Not as many of each.
    """
    if not len(truths) == len(predictions) <= len(task_sizes):
        raise ValueError(f"{len(truths)} truths, {len(predictions)} predictions and {len(task_sizes)} task sizes")
    ends = np.cumsum(task_sizes)
    matrix = np.full((len(truths), len(truths)), np.nan)
    for after, (given, answered) in enumerate(zip(truths, predictions, strict=True)):
        truth, predicted = _pair(given, answered)
        task = np.searchsorted(ends, truth, side="right")
        for i in range(after + 1):
            mine = task == i
            if mine.any():
                matrix[i, after] = measure(truth[mine], predicted[mine])
    return matrix


def average_incremental(measures: ArrayLike) -> float:
    """Mean over tasks of the measure on all test pictures seen by then.

    Args:
        measures: (T,) the measure after each task.
    """
    return float(np.mean(np.asarray(measures, np.float64)))


def final_average(matrix: ArrayLike) -> float:
    """Mean over tasks of A_i^T, as they stand behind the last task.

    Args:
        matrix: (T, T) A_i^j.
    """
    return float(_square(matrix)[:, -1].mean())


def forgetting(matrix: ArrayLike) -> float:
    """Mean over all tasks but the last of the best A_i^j before the last task, less A_i^T; 0 of a single task.

    Args:
        matrix: (T, T) A_i^j.
    """
    a = _square(matrix)
    lost = [np.nanmax(a[i, i:-1]) - a[i, -1] for i in range(len(a) - 1)]
    return float(np.mean(lost)) if lost else 0.0


def backward_transfer(matrix: ArrayLike) -> float:
    """Mean over all tasks but the last of A_i^T - A_i^i; negative where something was forgotten, 0 of a single task.

    Args:
        matrix: (T, T) A_i^j.
    """
    a = _square(matrix)
    return float(np.mean((a[:, -1] - np.diagonal(a))[:-1])) if len(a) > 1 else 0.0


def bwt_mean_over_time(matrix: ArrayLike) -> float:
    """Backward transfer as the released code has it: A_i^j - A_i^i, averaged over j > i, then over tasks but the last.

    Args:
        matrix: (T, T) A_i^j.
    """
    a = _square(matrix)
    moved = [np.mean(a[i, i + 1 :] - a[i, i]) for i in range(len(a) - 1)]
    return float(np.mean(moved)) if moved else 0.0


@dataclass(frozen=True)
class OpenSet:
    """How well a score tells known classes from unknown ones.

    Attributes:
        auroc: Area under the receiver operating characteristic; ties count half.
        fpr95: Share of unknowns taken for known at the highest threshold that keeps 95% of the known.
        average_precision: Sum over thresholds of precision times the step in recall.
    """

    auroc: float
    fpr95: float
    average_precision: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"auroc": self.auroc, "fpr95": self.fpr95, "average_precision": self.average_precision}


def open_set(scores: ArrayLike, known: ArrayLike) -> OpenSet:
    """Known against unknown, over all thresholds of a score.

    Args:
        scores: (N,) higher means known.
        known: (N,) whether the class was learned.

    Raises:
        ValueError: Not as many of each, a score that is no number, or only one kind.
    """
    score, is_known = np.asarray(scores, np.float64), np.asarray(known, bool)
    if score.shape != is_known.shape or score.ndim != 1 or np.isnan(score).any():
        raise ValueError(f"scores are {score.shape}, known is {is_known.shape}; both are (N,), without NaN")
    if is_known.all() or not is_known.any():
        raise ValueError("both known and unknown pictures are needed")
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # equal scores pass a threshold together
    hits, passed = np.cumsum(is_known[order])[last], last + 1
    tpr, fpr = hits / hits[-1], (passed - hits) / (passed - hits)[-1]
    steps = np.diff(tpr, prepend=0.0)
    return OpenSet(
        auroc=float(np.trapezoid(np.append(0.0, tpr), np.append(0.0, fpr))),
        fpr95=float(fpr[np.argmax(tpr >= 0.95)]),
        average_precision=float((steps * hits / passed).sum()),
    )


def calibration_error(confidence: ArrayLike, truth: ArrayLike, predicted: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over bins of equal width, by their pictures.

    Args:
        confidence: (N,) in [0, 1]; a bin takes its upper edge in and leaves its lower edge out, the first takes 0 too.
        truth: (N,) classes.
        predicted: (N,) classes.
        bins: How many.

    Raises:
        ValueError: There are none, not as many of each, or a confidence outside [0, 1].
    """
    sure = np.asarray(confidence, np.float64)
    truth, predicted = _pair(truth, predicted)
    if sure.shape != truth.shape or not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError(f"confidence is {sure.shape} in [0, 1] for {truth.shape} pictures")
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], sure, side="left")
    gaps = np.bincount(place, (truth == predicted) - sure, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure))


def _pair(truth: ArrayLike, predicted: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    a, b = np.asarray(truth), np.asarray(predicted)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"truth is {a.shape}, predicted is {b.shape}; both are (N,), and not empty")
    return a, b


def _square(matrix: ArrayLike) -> NDArray[np.float64]:
    a = np.asarray(matrix, np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not len(a):
        raise ValueError(f"the matrix is {a.shape}; (T, T) is needed")
    return a
