"""The second stage: a head for classes of different size, on features that stay as they are.

Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", arXiv:1910.09217, for retraining,
scales, normalised weights and nearest means; Menon et al., arXiv:2007.07314, for adjusted logits. Features are computed
once for each view of a picture and kept, so that each of these takes seconds.

V views, N pictures, D width, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data.balance import class_counts, sampled_rows, sampling_shares
from zoo.losses.imbalance import adjusted_logits, centre_head, class_means, scaled_head, tau_normalised
from zoo.metrics.continual import mean_class_recall

__all__ = ["SECOND_STAGES", "Head", "Known", "Retraining", "second_stage"]

TAUS = [step / 10 for step in range(21)]


@dataclass(frozen=True)
class Head:
    """A linear head.

    Attributes:
        weight: (K, D).
        bias: (K,).
        note: What was chosen on the way, such as "tau 0.7".
    """

    weight: Tensor
    bias: Tensor
    note: str = ""

    def __call__(self, features: Tensor) -> Tensor:
        """(B, K) logits of (B, D) features."""
        return F.linear(features, self.weight, self.bias)


@dataclass(frozen=True)
class Known:
    """Features with their classes.

    Attributes:
        features: (V, N, D) float32; view 0 is the picture as it is.
        labels: (N,).
        classes: K.
    """

    features: Tensor
    labels: Tensor
    classes: int

    @property
    def counts(self) -> Tensor:
        """(K,) pictures of each class."""
        return class_counts(self.labels, self.classes)


@dataclass(frozen=True)
class Retraining:
    """How heads are trained anew.

    Attributes:
        epochs: Passes over as many pictures as there are, each class's drawn as often.
        lr: Highest learning rate, which falls as a cosine.
        batch_size: Pictures a step.
        weight_decay: Of SGD with momentum 0.9.
        seed: Of the new head and the order of pictures.
    """

    epochs: int = 10
    lr: float = 0.1
    batch_size: int = 64
    weight_decay: float = 5e-4
    seed: int = 0


def second_stage(name: str, head: Head, known: Known, held_out: Known, how: Retraining) -> Head:
    """The head of a second stage.

    Args:
        name: One of `SECOND_STAGES`.
        head: The first stage's.
        known: Training pictures.
        held_out: Pictures to choose on, never those of the test.
        how: For what is trained.
    """
    return SECOND_STAGES[name](head, known, held_out, how)


def _retrained(head: Head, known: Known, held_out: Known, how: Retraining) -> Head:
    """A new head on balanced draws (cRT)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        fresh = nn.Linear(known.features.shape[2], known.classes)
    fresh.to(known.features.device)
    _fit(list(fresh.parameters()), fresh, known, how)
    return Head(fresh.weight.detach(), fresh.bias.detach())


def _scaled(head: Head, known: Known, held_out: Known, how: Retraining) -> Head:
    """The old head with one learnt scale a class (LWS), half as long."""
    scale = torch.ones(known.classes, device=known.features.device, requires_grad=True)
    half = Retraining(max(1, how.epochs // 2), how.lr, how.batch_size, how.weight_decay, how.seed)
    _fit([scale], lambda x: scale * head(x), known, half)
    return Head(*scaled_head(head.weight, head.bias, scale.detach()))


def _normalised(head: Head, known: Known, held_out: Known, how: Retraining) -> Head:
    """The old head without bias, its rows' lengths evened out as far as suits the held-out pictures; wholly if none."""
    heads = [Head(tau_normalised(head.weight, tau), torch.zeros_like(head.bias), f"tau {tau:g}") for tau in TAUS]
    if not len(held_out.labels):
        return heads[TAUS.index(1.0)]
    truth = held_out.labels.cpu().numpy()
    recalls = [mean_class_recall(truth, one(held_out.features[0]).argmax(1).cpu().numpy()) for one in heads]
    return heads[int(np.argmax(recalls))]


def _nearest_mean(head: Head, known: Known, held_out: Known, how: Retraining) -> Head:
    """The class whose mean direction has the highest cosine (NCM)."""
    means = class_means(F.normalize(known.features[0], dim=1), known.labels, known.classes)
    return Head(centre_head(means), torch.zeros_like(head.bias))


def _adjusted(head: Head, known: Known, held_out: Known, how: Retraining) -> Head:
    """The old head less the logarithms of the classes' frequencies."""
    return Head(head.weight, adjusted_logits(head.bias, known.counts))


SECOND_STAGES: dict[str, Callable[[Head, Known, Known, Retraining], Head]] = {
    "crt": _retrained,
    "lws": _scaled,
    "tau": _normalised,
    "ncm": _nearest_mean,
    "logit_adjust": _adjusted,
}


def _fit(parameters: list[Tensor], answer: Callable[[Tensor], Tensor], known: Known, how: Retraining) -> None:
    """SGD on balanced draws of pictures, each in a random view."""
    count, size = len(known.labels), min(how.batch_size, len(known.labels))
    steps = how.epochs * max(1, count // size)
    shares = sampling_shares(known.counts.cpu(), 0)
    chance = np.random.default_rng(how.seed)
    labels = known.labels.cpu()
    order = sampled_rows(labels, shares, steps * size, chance)
    views = torch.from_numpy(chance.integers(0, len(known.features), steps * size))
    optimizer = torch.optim.SGD(parameters, how.lr, momentum=0.9, weight_decay=how.weight_decay)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = how.lr * (1 + math.cos(math.pi * step / steps)) / 2
        rows, view = (draw[step * size :][:size].to(known.labels.device) for draw in (order, views))
        loss = F.cross_entropy(answer(known.features[view, rows]), known.labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
