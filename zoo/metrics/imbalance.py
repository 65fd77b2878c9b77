"""Figures that do not let common classes hide rare ones: shares in [0, 1], not per cent.

As scikit-learn and imbalanced-learn define them, against which the tests hold them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.metrics.continual import accuracy, calibration_error, mean_class_recall

__all__ = [
    "ImbalanceScores",
    "class_f1",
    "class_recall",
    "confusion",
    "geometric_mean",
    "group_accuracy",
    "imbalance_scores",
    "macro_auroc",
    "macro_f1",
    "rare_classes",
]

MANY, FEW = 100, 20  # training pictures above and below which a class counts among the many and the few


@dataclass(frozen=True)
class ImbalanceScores:
    """One classifier on one set.

    Attributes:
        mcr: Mean class recall, the same as balanced accuracy.
        macro_f1: Mean F1 over classes in truth or answers.
        rare_recall: Mean recall of the third of the classes with fewest training pictures.
        rare_f1: Mean F1 of those.
        g_mean: Geometric mean of the recalls.
        accuracy: Share of right answers.
        auroc: Mean over classes of the area under the curve, each class against the others.
        ece: Expected calibration error, 15 bins.
        many: Mean recall of classes with more than 100 training pictures; NaN of none, as the next two.
        medium: Of those with 20 to 100.
        few: Of those with fewer than 20.
        recall: Of each class; NaN for one that the truth does not hold.
    """

    mcr: float
    macro_f1: float
    rare_recall: float
    rare_f1: float
    g_mean: float
    accuracy: float
    auroc: float
    ece: float
    many: float
    medium: float
    few: float
    recall: tuple[float, ...]

    def to_dict(self) -> dict[str, float | list[float | None] | None]:
        """Plain JSON types; None for what is not defined."""
        plain = {key: _or_none(value) for key, value in asdict(self).items() if key != "recall"}
        return {**plain, "recall": [_or_none(value) for value in self.recall]}


def imbalance_scores(probabilities: ArrayLike, truth: ArrayLike, counts: Sequence[int]) -> ImbalanceScores:
    """All figures of a classifier at once.

    Args:
        probabilities: (N, K), each row summing to 1.
        truth: (N,) classes.
        counts: (K,) training pictures of each class.

    Raises:
        ValueError: There are none, or shapes that do not go together.
    """
    shares, given = np.asarray(probabilities, np.float64), np.asarray(truth, np.int64)
    if shares.shape != (len(given), len(counts)) or not len(given):
        raise ValueError(f"probabilities are {shares.shape} for {len(given)} pictures of {len(counts)} classes")
    answers = shares.argmax(1)
    table = confusion(given, answers, len(counts))
    recall, f1 = class_recall(table), class_f1(table)
    rare = rare_classes(counts)
    groups = group_accuracy(recall, counts)
    return ImbalanceScores(
        mcr=mean_class_recall(given, answers),
        macro_f1=macro_f1(table),
        rare_recall=_mean(recall[rare]),
        rare_f1=_mean(f1[rare]),
        g_mean=geometric_mean(recall),
        accuracy=accuracy(given, answers),
        auroc=macro_auroc(shares, given),
        ece=calibration_error(shares.max(1).clip(0, 1), given, answers),
        many=groups["many"],
        medium=groups["medium"],
        few=groups["few"],
        recall=tuple(recall.tolist()),
    )


def confusion(truth: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """(K, K) counts; row is the truth, column the answer."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (np.asarray(truth), np.asarray(predicted)), 1)
    return table


def class_recall(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K,) share of each class that was found; NaN for a class that the truth does not hold."""
    return _ratio(np.diagonal(table), table.sum(1))


def class_f1(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K,) 2 TP / (2 TP + FP + FN); NaN for a class in neither truth nor answers."""
    return _ratio(2 * np.diagonal(table), table.sum(0) + table.sum(1))


def macro_f1(table: NDArray[np.int64]) -> float:
    """Mean F1 over the classes in truth or answers."""
    return _mean(class_f1(table))


def geometric_mean(recall: ArrayLike) -> float:
    """Geometric mean of the recalls that are defined; 0 as soon as one class is missed altogether."""
    values = np.asarray(recall, np.float64)
    found = values[~np.isnan(values)]
    return float(np.exp(np.log(found).mean())) if len(found) and found.min() > 0 else 0.0


def rare_classes(counts: Sequence[int]) -> NDArray[np.int64]:
    """The third of the classes with fewest training pictures, rounded down but at least one; in order of their number.

    Of equals, those later in the list count as rarer, as in lists that fall.
    """
    sizes = np.asarray(counts)
    rarest = np.lexsort((-np.arange(len(sizes)), sizes))[: max(1, len(sizes) // 3)]
    return np.sort(rarest)


def group_accuracy(recall: ArrayLike, counts: Sequence[int]) -> Mapping[str, float]:
    """Mean recall of the classes with many (over 100), medium and few (under 20) training pictures; NaN of none."""
    values, sizes = np.asarray(recall, np.float64), np.asarray(counts)
    return {
        "many": _mean(values[sizes > MANY]),
        "medium": _mean(values[(sizes >= FEW) & (sizes <= MANY)]),
        "few": _mean(values[sizes < FEW]),
    }


def macro_auroc(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Mean over classes of the chance that a picture of the class scores above one of another; ties count half.

    Classes that the truth does not hold, or that are all of it, are left out; NaN if none is left.
    """
    shares, given = np.asarray(probabilities, np.float64), np.asarray(truth)
    areas = []
    for label in np.unique(given):
        mine = given == label
        inside, outside = int(mine.sum()), int((~mine).sum())
        if outside:
            ranks = _ranks(shares[:, label])[mine].sum() - inside * (inside + 1) / 2
            areas.append(ranks / (inside * outside))
    return float(np.mean(areas)) if areas else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place]


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of what is defined; NaN of nothing."""
    found = values[~np.isnan(values)]
    return float(found.mean()) if len(found) else float("nan")


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
