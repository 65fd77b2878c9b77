"""Which pictures a batch holds when classes differ in size, and how sets with a long tail are made.

Everything is a function of the chance that is passed in. Sampling schemes: Kang et al., arXiv:1910.09217, section 3;
long tails: Cao et al., arXiv:1906.07413, section 4.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.datasets import Pictures
from zoo.data.sources import Samples

__all__ = [
    "class_counts",
    "class_rows",
    "folds",
    "long_tail",
    "long_tail_counts",
    "progressive_shares",
    "sampled_rows",
    "sampling_shares",
    "varied_rows",
]


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """(K,) pictures of each class."""
    return labels.bincount(minlength=classes)


def sampling_shares(counts: Tensor, power: float) -> Tensor:
    """(K,) probability that a draw is of each class: count^power over their sum.

    Args:
        counts: (K,) training pictures of each class.
        power: 1 is natural, 0.5 the square root, 0 balanced; classes without pictures are never drawn.
    """
    sizes = counts.double()
    shares = torch.where(sizes > 0, sizes**power, 0.0)
    return shares / shares.sum()


def progressive_shares(counts: Tensor, done: float) -> Tensor:
    """(K,) probabilities that move from natural to balanced.

    Args:
        counts: (K,).
        done: Share of the training that is over, in [0, 1].
    """
    return (1 - done) * sampling_shares(counts, 1) + done * sampling_shares(counts, 0)


def sampled_rows(labels: Tensor, shares: Tensor, count: int, chance: np.random.Generator) -> Tensor:
    """(count,) rows, their classes drawn by `shares`.

    Within a class, each picture comes once before any comes again.

    Args:
        labels: (N,).
        shares: (K,) probabilities.
        count: Rows to draw.
        chance: Source of chance.
    """
    classes = chance.choice(len(shares), count, p=(shares / shares.sum()).numpy())
    rows = np.empty(count, np.int64)
    for drawn in np.unique(classes):
        places = np.flatnonzero(classes == drawn)
        rows[places] = _dealt(np.flatnonzero(labels.numpy() == drawn), len(places), chance)
    return torch.from_numpy(rows)


def varied_rows(labels: Tensor, classes: int, each: int, chance: np.random.Generator) -> Tensor:
    """Rows of a batch with `each` pictures of `classes` classes, class by class (P x K sampling).

    Only classes with at least two pictures are drawn, all of them where there are no more than asked for. A class with
    fewer pictures than `each` repeats some; whoever augments them makes them differ.

    Args:
        labels: (N,).
        classes: P.
        each: K.
        chance: Source of chance.

    Returns:
        (min(P, classes there) * K,) rows.
    """
    truth = labels.numpy()
    able = np.flatnonzero(np.bincount(truth) > 1)
    drawn = chance.choice(able, min(classes, len(able)), replace=False)
    rows = [_dealt(np.flatnonzero(truth == label), each, chance) for label in drawn]
    return torch.from_numpy(np.concatenate(rows)) if rows else torch.zeros(0, dtype=torch.int64)


def class_rows(labels: Tensor, classes: int) -> list[Tensor]:
    """For each class, its rows in order."""
    return [(labels == label).nonzero()[:, 0] for label in range(classes)]


def long_tail_counts(classes: int, largest: int, ratio: float) -> list[int]:
    """Pictures of each class of an artificial long tail: largest * (1 / ratio)^(c / (K - 1)), rounded down.

    Args:
        classes: K.
        largest: Pictures of class 0.
        ratio: Times that class 0 has more than the last one.
    """
    # the float a hair below a whole number is that number
    return [int(largest * ratio ** (-c / max(1, classes - 1)) + 1e-9) for c in range(classes)]


def long_tail(data: Pictures | Samples, ratio: float, seed: int) -> Pictures | Samples:
    """A set cut down to a long tail, its first class keeping all that its smallest class has.

    Args:
        data: Pictures, about as many of each class.
        ratio: Imbalance ratio.
        seed: Decides which pictures stay.
    """
    classes = len(data.names)
    largest = int(class_counts(data.labels, classes).min())
    kept = []
    for label, (rows, count) in enumerate(
        zip(class_rows(data.labels, classes), long_tail_counts(classes, largest, ratio), strict=True)
    ):
        order = np.random.default_rng((seed, label)).permutation(len(rows))
        kept.append(rows[torch.from_numpy(order[: max(1, count)])])
    return data[torch.cat(kept).sort().values]


def folds(labels: Tensor, count: int, seed: int) -> Tensor:
    """(N,) fold of each picture, every class spread over all folds as evenly as it goes.

    The only picture of a class is in none, -1: it is always learnt from.

    Args:
        labels: (N,).
        count: Folds.
        seed: Decides who goes where.
    """
    chance = np.random.default_rng(seed)
    fold = torch.full((len(labels),), -1)
    start = 0  # the next class begins where this one ended, so that no fold gets all remainders
    for rows in class_rows(labels, int(labels.max()) + 1):
        if len(rows) > 1:
            fold[rows[torch.from_numpy(chance.permutation(len(rows)))]] = (start + torch.arange(len(rows))) % count
            start += len(rows)
    return fold


def _dealt(rows: NDArray[np.int64], count: int, chance: np.random.Generator) -> NDArray[np.int64]:
    """`count` of the rows, shuffled anew whenever all were dealt."""
    rounds = -(-count // len(rows))
    return np.concatenate([chance.permutation(rows) for _ in range(rounds)])[:count]
