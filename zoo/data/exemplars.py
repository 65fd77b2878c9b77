"""Which pictures of old classes are kept, in what order, and what they are used for.

Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", arXiv:1611.07725, algorithms 1, 4 and 5.
Classes are numbered in order of arrival. Pictures are known here by their rows in a store of the caller's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Memory", "class_means", "closest_to_mean", "herding", "nearest_mean"]


def herding(features: Tensor, count: int) -> Tensor:
    """The pictures whose mean stays closest to the class's as they are taken one by one; a ranking.

    Args:
        features: (N, D) of one class; each is brought to length 1 first.
        count: Pictures to take; all are taken where there are fewer.

    Returns:
        (min(N, count),) int64, the best first. The first of equals is taken.
    """
    f = _unit(features)
    mean = f.mean(0)
    total = torch.zeros_like(mean)
    is_free = torch.ones(len(f), dtype=torch.bool, device=f.device)
    picks = []
    for k in range(1, min(len(f), count) + 1):
        distance = ((k * mean - total) - f).square().sum(1)  # k times the distance of the mean of k, squared
        best = distance.where(is_free, torch.inf).argmin()
        total += f[best]
        is_free[best] = False
        picks.append(best)
    return torch.stack(picks) if picks else torch.zeros(0, dtype=torch.int64)


def closest_to_mean(features: Tensor, count: int) -> Tensor:
    """The pictures nearest to the class's mean, which is brought to length 1 as they are.

    Args:
        features: (N, D) of one class.
        count: Pictures to take; all are taken where there are fewer.

    Returns:
        (min(N, count),) int64, the nearest first.
    """
    f = _unit(features)
    distance = (f - F.normalize(f.mean(0), dim=0)).square().sum(1)
    return distance.argsort(stable=True)[:count]


def class_means(features: Sequence[Tensor]) -> Tensor:
    """(K, D) mean direction of each class, of length 1, from its (N_k, D) features."""
    return torch.stack([F.normalize(_unit(f).mean(0), dim=0) for f in features]).to(features[0].dtype)


def nearest_mean(queries: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """The class whose mean is nearest.

    Args:
        queries: (N, D) features.
        means: (K, D), from `class_means`.

    Returns:
        (N,) int64 classes, and (N,) 1 less the Euclidean distance of the feature, at length 1, to that mean.
    """
    distance = (_unit(queries)[:, None] - means.double()).square().sum(2).sqrt()
    nearest, chosen = distance.min(1)
    return chosen, (1 - nearest).to(queries.dtype)


@dataclass(frozen=True)
class Memory:
    """Exemplars of the classes learned so far.

    Attributes:
        limit: Most exemplars; in all, or of a class.
        is_per_class: Whether `limit` is of a class.
        rows: Of each class, in order of arrival, its exemplars' rows in herding order.
    """

    limit: int
    is_per_class: bool = False
    rows: tuple[Tensor, ...] = ()

    def quota(self, classes: int) -> int:
        """Exemplars a class may have once there are so many classes."""
        return self.limit if self.is_per_class else self.limit // classes

    def balanced(self, rows: Sequence[Tensor], features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What is kept, and as much of each new class, chosen by herding.

        Args:
            rows: Of each new class, its pictures' (N_k,) rows.
            features: Of each, their (N_k, D) features.

        Returns:
            Rows, and their classes, each class's together.

        Raises:
            ValueError: Nothing is kept yet, so there is no number to match.
        """
        if not self.rows:
            raise ValueError("the memory is empty; the first task has nothing to be balanced with")
        quota = self.quota(len(self.rows))
        return _labelled((*self.rows, *_picked(rows, features, quota)))

    def after(self, rows: Sequence[Tensor], features: Sequence[Tensor]) -> "Memory":
        """The memory once a task is learned: old classes are cut to their best, new ones are chosen by herding.

        Args:
            rows: Of each new class, its pictures' (N_k,) rows.
            features: Of each, their (N_k, D) features.
        """
        quota = self.quota(len(self.rows) + len(rows))
        kept = tuple(old[:quota] for old in self.rows)
        return Memory(self.limit, self.is_per_class, (*kept, *_picked(rows, features, quota)))

    def labelled(self) -> tuple[Tensor, Tensor]:
        """(M,) rows and (M,) classes, class by class."""
        return _labelled(self.rows)


def _picked(rows: Sequence[Tensor], features: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
    return tuple(mine[herding(f, count).cpu()] for mine, f in zip(rows, features, strict=True))


def _labelled(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    none = torch.zeros(0, dtype=torch.int64)
    classes = [torch.full((len(mine),), k) for k, mine in enumerate(rows)]
    return torch.cat([none, *rows]), torch.cat([none, *classes])


def _unit(features: Tensor) -> Tensor:
    """At length 1, in float64: ties and near ties are decided the same way on every machine."""
    return F.normalize(features.double(), dim=1)
