"""Accuracy on a labelled set, through the same path that predicts."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from zoo.data.datasets import Pictures
from zoo.data.sources import Samples, aligned, open_data
from zoo.errors import InputError, UsageError, ZooError
from zoo.hub.checkpoint import class_names
from zoo.registry.card import Figure
from zoo.registry.names import list_names, resolve
from zoo.results.evaluation import Evaluation
from zoo.tasks.decode import Decoded
from zoo.tasks.pipeline import pipeline

__all__ = ["TOLERANCE", "Check", "evaluate", "measured_names", "verify"]

TOLERANCE = {
    "top1": 0.05,
    "top5": 0.05,
    "balanced": 0.1,
    "macro_f1": 0.1,
}  # per cent; another CPU may round a few logits the other way


@dataclass(frozen=True)
class _Ranks:
    """The numbers of the best classes of each picture, and nothing else: objects would cost as much as the network."""

    count: int

    def answer(self, model: nn.Module, x: Tensor, pictures: list[Decoded]) -> list[list[int] | ZooError]:
        logits, indices = model(x).float().topk(self.count)
        answers: list[list[int] | ZooError] = list(indices.tolist())
        for sick in logits.isnan().any(1).nonzero().flatten().tolist():
            error = InputError(
                f"{pictures[sick].source}: the network's answer is not finite", hint="try --dtype float32"
            )
            answers[sick] = error
        return answers

    def refuse(self, picture: Decoded, error: ZooError) -> ZooError:
        return error


@dataclass(frozen=True)
class Check:
    """A figure of a card and what measuring it again gave."""

    name: str
    figure: Figure
    measured: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the two agree within the tolerance."""
        return abs(self.measured - self.figure.value) <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "model": self.name,
            "metric": self.figure.metric,
            "dataset": self.figure.dataset,
            "split": self.figure.split,
            "card": self.figure.value,
            "measured": self.measured,
            "tolerance": self.tolerance,
            "holds": self.holds,
        }


def evaluate(
    name: str,
    dataset: str,
    *,
    split: str = "test",
    root: Path | None = None,
    checkpoint_path: Path | None = None,
    report: Callable[[int], None] = lambda done: None,
    **options: Any,
) -> Evaluation:
    """Top-1, top-5 and the confusion of a classifier on labelled pictures.

    Args:
        name: Checkpoint.
        dataset: A published set, such as cifar10, or a place of files: see `open_data`.
        split: Part of the set.
        root: Where sets lie.
        checkpoint_path: Weights in place of the card's.
        report: Called with the number of pictures done.
        **options: For `pipeline`: device, batch_size, workers, dtype, compile, engine.

    Raises:
        UsageError: Not a classifier, or the set's classes are not the network's.
        InputError: The set is not there or holds nothing.
    """
    card = resolve(name)
    if card.task != "classify":
        raise UsageError(f"{card.name} does not classify", hint=f"its task is {card.task}")
    classes = class_names(card, checkpoint_path)
    found = aligned(open_data(dataset, split, root), classes, dataset)
    pipe = pipeline(name, checkpoint_path=checkpoint_path, **options)
    pipe.task = _Ranks(min(5, len(classes)))
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    hits, failed = 0, []
    truths: deque[int] = deque()  # of pictures on their way through the pipeline

    def inputs() -> Iterator[Any]:
        for picture, truth in _items(found):
            truths.append(truth)
            yield picture

    started = time.monotonic()
    for done, result in enumerate(pipe(inputs())):
        truth = truths.popleft()
        if isinstance(result, ZooError):
            failed.append(result)
        else:
            confusion[truth, result[0]] += 1
            hits += truth in result
        report(done + 1)
    seconds = time.monotonic() - started
    return Evaluation(card.name, f"{dataset} {split}", classes, confusion, hits, tuple(failed), seconds, pipe.engine)


def measured_names() -> list[str]:
    """Classifiers whose cards have figures of ours."""
    names = list_names(task="classify")
    return [name for name in names if any(figure.by == "zoo" for figure in resolve(name).figures)]


def verify(name: str, *, root: Path | None = None, **options: Any) -> list[Check]:
    """Measure a card's own figures again.

    Args:
        name: Checkpoint.
        root: Where published sets lie.
        **options: For `evaluate`.

    Raises:
        UsageError: The card has no figure of ours, or one with a metric that is not known here.
    """
    card = resolve(name)
    figures = [figure for figure in card.figures if figure.by == "zoo"]
    if not figures:
        raise UsageError(f"{card.name} has no figures of ours to measure again", hint=f"zoo info {card.name}")
    unknown = [figure.metric for figure in figures if figure.metric not in TOLERANCE]
    if unknown:
        raise UsageError(
            f"{card.name} has figures that are not a classifier's: {', '.join(unknown)}",
            hint=f"what measures them: {figures[0].command}",
        )
    sets = {(figure.dataset, figure.split) for figure in figures}
    results = {
        (name, split): evaluate(card.name, name, split=split, root=root, **options) for name, split in sorted(sets)
    }
    return [
        Check(
            card.name, figure, getattr(results[figure.dataset, figure.split], figure.metric), TOLERANCE[figure.metric]
        )
        for figure in figures
    ]


def _items(data: Pictures | Samples) -> Iterator[tuple[Any, int]]:
    labels = data.labels.tolist()
    if isinstance(data, Pictures):
        return zip(data.images.numpy(), labels, strict=True)
    return ((data.item(index), label) for index, label in enumerate(labels))
