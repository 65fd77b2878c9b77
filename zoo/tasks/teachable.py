"""Answers of a taught model: for one picture, for a labelled folder, for pictures in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.data.sources import Samples, open_data
from zoo.data.transforms import Preprocess
from zoo.errors import InputError, UsageError, ZooError
from zoo.metrics import continual
from zoo.metrics.imbalance import class_recall, confusion
from zoo.models.acl import Choice
from zoo.registry.card import Card, Weights
from zoo.results.classification import Classification, Told
from zoo.results.lesson import TaskMatrix
from zoo.tasks.decode import Decoded, reread
from zoo.tasks.device import pick_device
from zoo.tasks.pipeline import Pipeline
from zoo.tasks.taught import Facts, Taught, read_taught

__all__ = ["answers", "cropped", "evaluate_taught", "over_chunks", "taught_pipeline"]

CHUNK = 16  # pictures computed at once

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """The classes of each picture, the task that was believed, and whether it knows the picture at all.

    Args:
        facts: Of the model.
        topk: Classes a result names.
        probabilities: Whether results hold the probabilities of all classes.
    """

    facts: Facts
    topk: int = 5
    probabilities: bool = False

    def answer(self, model: nn.Module, x: Tensor, pictures: list[Decoded]) -> list[Classification]:
        choice = model.choose(x)  # type: ignore[operator]  # nn.Module declares every attribute a tensor or a module
        best, indices = choice.own.topk(min(self.topk, choice.own.shape[1]))
        rows = zip(pictures, best.cpu().numpy(), indices.cpu().numpy(), choice.probabilities.cpu().numpy(), strict=True)
        return [
            self._one(picture, scores, numbers, chances, int(choice.tasks[i]), float(choice.scores[i]))
            for i, (picture, scores, numbers, chances) in enumerate(rows)
        ]

    def _one(
        self,
        picture: Decoded,
        scores: NDArray[np.float32],
        numbers: NDArray[np.int64],
        chances: NDArray[np.float32],
        task: int,
        score: float,
    ) -> Classification:
        if not scores[0] >= 0:  # NaN
            return self.refuse(picture, InputError(f"{picture.source}: the answer is not finite", hint="--device cpu"))
        threshold, count = self.facts.tasks[-1].threshold, len(self.facts.tasks[task].classes)
        scores, numbers = scores[:count], numbers[:count]  # the other tasks' classes have none
        return Classification(
            picture.source,
            tuple(self.facts.classes[k] for k in numbers.tolist()),
            scores,
            numbers,
            picture.size,
            chances if self.probabilities else None,
            picture.note,
            picture=partial(reread, picture.item),
            told=Told(self.facts.tasks[task].name, score, None if threshold is None else score < threshold),
        )

    def refuse(self, picture: Decoded, error: ZooError) -> Classification:
        return Classification(picture.source, size=picture.size, note=picture.note, error=error)


def taught_pipeline(
    model: Taught | Path,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = 0,
    topk: int = 5,
    probabilities: bool = False,
) -> Pipeline[Classification]:
    """A taught model that takes pictures and gives results.

    Args:
        model: The model, or its file.
        device: "auto" or a torch device.
        batch_size: Pictures the network takes at once.
        workers: Processes that decode; see `zoo.pipeline`.
        topk: Classes a result names.
        probabilities: Whether results hold the probabilities of all classes.

    Raises:
        As `read_taught`.
    """
    place = pick_device(device)
    taught = read_taught(model) if isinstance(model, Path) else model
    network = taught.network.to(place).eval().requires_grad_(False)
    if place.type == "cpu":
        network = taught.learner.optimized(torch.zeros(1, *taught.facts.input.size))
    return Pipeline(
        card_of(taught.facts, str(model) if isinstance(model, Path) else "taught"),
        network,
        Answer(taught.facts, topk, probabilities),
        device=place,
        dtype=torch.float32,
        batch_size=batch_size or (256 if place.type == "cuda" else 16),
        workers=workers,
        engine="float: taught models run in float32",
    )


def card_of(facts: Facts, name: str) -> Card:
    """What a pipeline asks a card for."""
    return Card(
        name=name,
        body="",
        builder="zoo.tasks.taught:read_taught",
        task="teach",
        summary=f"{len(facts.classes)} classes taught in {len(facts.tasks)} tasks",
        license="unknown",
        weights=Weights(status="none"),
        input=facts.input,
    )


def cropped(
    samples: Samples, preprocess: Preprocess, step: Callable[[], None] = lambda: None
) -> tuple[Tensor, Tensor, tuple[ZooError, ...]]:
    """Every picture that can be read, cropped: (N, H, W, C) uint8, (N,) labels, and what is wrong with the rest."""
    channels, height, width = preprocess.input.size
    images = torch.empty((len(samples), height, width, channels), dtype=torch.uint8)
    good: list[int] = []
    failed: list[ZooError] = []
    for i in range(len(samples)):
        try:
            images[len(good)] = torch.from_numpy(preprocess.crop(samples.image(i)).copy())
            good.append(i)
        except ZooError as error:
            failed.append(error)
        step()
    return images[: len(good)], samples.labels[good], tuple(failed)


def answers(taught: Taught, images: Tensor, device: torch.device) -> Choice:
    """Answers to (N, H, W, C) uint8 pictures."""
    found = over_chunks(taught.learner.choose, taught, images, device)
    return Choice(*(torch.cat(values) for values in zip(*found, strict=True)))


def over_chunks(function: Callable[[Tensor], T], taught: Taught, images: Tensor, device: torch.device) -> list[T]:
    """What a function gives for pictures, a few at a time, without gradients."""
    taught.network.to(device).eval()  # outside inference mode: weights moved within could not be trained any more
    normalise = Preprocess(taught.facts.input).normalise
    with torch.inference_mode():
        return [function(normalise(part.to(device))) for part in torch.split(images, CHUNK)]


def evaluate_taught(
    path: Path,
    dataset: str,
    *,
    split: str = "test",
    root: Path | None = None,
    device: str = "auto",
    report: Callable[[int], None] = lambda done: None,
) -> TaskMatrix:
    """A_i^j of a taught model on labelled pictures; classes that it was never taught count as unknown.

    Args:
        path: Its file.
        dataset: A place of files, or a published set: see `open_data`.
        split: Part of the set.
        root: Where sets lie.
        device: "auto" or a torch device.
        report: Called with the number of pictures done.

    Raises:
        InputError: The set is not there, or holds nothing.
        UsageError: None of its classes was taught.
        And as `read_taught`.
    """
    place, taught = pick_device(device), read_taught(path)
    found = open_data(dataset, split, root)
    samples = found if isinstance(found, Samples) else _as_samples(found)
    images, labels, failed = cropped(samples, Preprocess(taught.facts.input), lambda: report(1))
    numbers = {name: k for k, name in enumerate(taught.facts.classes)}
    own = torch.tensor([numbers.get(name, -1) for name in samples.names])
    truth = own[labels]
    if not (truth >= 0).any():
        raise UsageError(
            f"{dataset}: no class of {path.name} is there; its folders are {', '.join(samples.names[:5])}",
            hint=f"folders are named as the classes: {', '.join(taught.facts.classes[:5])}",
        )
    return _matrix(taught, str(path), dataset, images, truth, failed, place)


def _matrix(
    taught: Taught,
    model: str,
    dataset: str,
    images: Tensor,
    truth: Tensor,
    failed: Sequence[ZooError],
    device: torch.device,
) -> TaskMatrix:
    sizes, count = taught.learner.task_sizes, len(taught.facts.tasks)
    ends = torch.tensor(sizes).cumsum(0)
    known = truth >= 0
    task = torch.searchsorted(ends, truth.clamp(min=0), right=True)
    matrix, overall, recall = np.full((count, count), np.nan), np.full(count, np.nan), np.full(count, np.nan)
    chunks = over_chunks(taught.learner.over_time, taught, images, device)
    for j, parts in enumerate(zip(*chunks, strict=True)):
        known_parts = [part for part in parts if part is not None]
        if not known_parts:  # this method does not keep what it was
            continue
        choice = Choice(*(torch.cat(values).cpu() for values in zip(*known_parts, strict=True)))
        seen = known & (task <= j)
        for i in range(j + 1):
            mine = seen & (task == i)
            if mine.any():
                matrix[i, j] = continual.accuracy(truth[mine], choice.classes[mine])
        if seen.any():
            overall[j] = continual.accuracy(truth[seen], choice.classes[seen])
            recall[j] = continual.mean_class_recall(truth[seen], choice.classes[seen])
    figures = {}
    if not np.isnan(np.triu(matrix)).any():
        figures = {
            "average_incremental_accuracy": continual.average_incremental(overall),
            "average_mean_class_recall": continual.average_incremental(recall),
            "forgetting": continual.forgetting(matrix),
            "backward_transfer": continual.backward_transfer(matrix),
        }
    if not known.all():
        told = continual.open_set(choice.scores, known).to_dict()
        figures |= {f"unknown_{key}": value for key, value in told.items()}
    own = torch.searchsorted(ends, torch.arange(len(taught.facts.classes)), right=True) == task[:, None]
    within = choice.probabilities.where(own, -1).argmax(1)  # the best of the classes of the picture's own task
    figures |= {
        "task_told_right": float((choice.tasks == task)[known].double().mean()),
        "accuracy_within_task": continual.accuracy(truth[known], within[known]),
    }
    return TaskMatrix(
        model,
        dataset,
        tuple(facts.name for facts in taught.facts.tasks),
        tuple(facts.classes for facts in taught.facts.tasks),
        np.array([int((known & (task == i)).sum()) for i in range(count)]),
        matrix,
        overall,
        recall,
        class_recall(confusion(truth[known], choice.classes[known], len(taught.facts.classes))),
        figures,
        tuple(failed),
    )


def _as_samples(pictures: Any) -> Samples:
    from zoo.data.sources import array_samples

    return array_samples(pictures)
