"""Accuracy on a labelled set, through the same path that predicts."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.datasets import dataset_names, load_pictures
from zoo.data.images import expand
from zoo.errors import InputError, UsageError
from zoo.registry.card import Figure
from zoo.registry.labels import label_names
from zoo.registry.names import resolve
from zoo.results.evaluation import Evaluation
from zoo.tasks.pipeline import pipeline

__all__ = ["Check", "evaluate", "verify"]

TOLERANCE = {"top1": 0.05, "top5": 0.05}  # per cent; another CPU may round a few logits the other way


@dataclass(frozen=True)
class Check:
    """A figure of a card and what measuring it again gave."""

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
    """Top-1, top-5 and the confusion of a classifier on a published set or a folder.

    Args:
        name: Checkpoint.
        dataset: A published set, such as cifar10, or a folder with one folder of pictures a class.
        split: Part of the published set, "train" or "test".
        root: Where published sets lie, see `load_pictures`.
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
    classes = label_names(card.labels) if card.labels else ()
    published = dataset in dataset_names() and not Path(dataset).is_dir()
    samples = _published(dataset, split, root, classes) if published else _folder(Path(dataset), classes)
    pipe = pipeline(name, checkpoint_path=checkpoint_path, topk=min(5, len(classes)), **options)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    hits, failed = 0, []
    truths: deque[int] = deque()  # of pictures on their way through the pipeline

    def inputs() -> Iterator[Any]:
        for picture, truth in samples:
            truths.append(truth)
            yield picture

    started = time.monotonic()
    for done, result in enumerate(pipe(inputs())):
        truth = truths.popleft()
        if result.error:
            failed.append(result.error)
        else:
            confusion[truth, result.indices[0]] += 1
            hits += truth in result.indices
        report(done + 1)
    seconds = time.monotonic() - started
    where = f"{dataset} {split}" if published else dataset
    return Evaluation(card.name, where, classes, confusion, hits, tuple(failed), seconds, pipe.engine)


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
        raise UsageError(f"{card.name} has figures that cannot be measured: {', '.join(unknown)}", hint="mend the card")
    sets = {(figure.dataset, figure.split) for figure in figures}
    results = {
        (name, split): evaluate(card.name, name, split=split, root=root, **options) for name, split in sorted(sets)
    }
    return [
        Check(figure, getattr(results[figure.dataset, figure.split], figure.metric), TOLERANCE[figure.metric])
        for figure in figures
    ]


def _published(dataset: str, split: str, root: Path | None, classes: tuple[str, ...]) -> Iterable[tuple[Any, int]]:
    pictures = load_pictures(dataset, split, root)
    if pictures.names != classes:
        raise UsageError(
            f"the {len(pictures.names)} classes of {dataset} are not the network's",
            hint=f"the network knows {', '.join(classes[:5])}{' and others' if len(classes) > 5 else ''}",
        )
    return zip(pictures.images.numpy(), pictures.labels.tolist(), strict=True)


def _folder(folder: Path, classes: tuple[str, ...]) -> Iterable[tuple[Any, int]]:
    if not folder.is_dir():
        known = ", ".join(dataset_names())
        raise InputError(f"{folder} is neither a folder nor a published set", hint=f"published sets: {known}")
    numbers = {_plain(name): number for number, name in enumerate(classes)}
    found = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    strange = [path.name for path in found if _plain(path.name) not in numbers]
    if strange or not found:
        raise UsageError(
            f"{folder}: no class is called {', '.join(strange[:3])}" if strange else f"{folder} holds no class folders",
            hint=f"one folder a class, named as the network's labels: {', '.join(classes[:5])}, ...",
        )
    return ((path, numbers[_plain(inner.name)]) for inner in found for path in expand([str(inner)]))


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ").strip()
