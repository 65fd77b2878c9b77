"""What a training consists of besides its network: what is learnt, and how that is judged.

`PictureCourse` is the supervised training of classifiers. A method of other data brings a course of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zoo.data.sources import aligned, open_data
from zoo.errors import UsageError
from zoo.tasks.decode import spare_cores
from zoo.train.feed import Batch, Feed, Learnt
from zoo.train.measure import Judge
from zoo.train.methods import Method
from zoo.train.networks import Teacher, input_of, normalise
from zoo.train.recipe import Augment, Recipe

__all__ = ["Course", "Lesson", "PictureCourse", "Place"]


@dataclass(frozen=True)
class Place:
    """Where a training runs.

    Attributes:
        data: Folder that holds the set; None leaves it to ZOO_DATA.
        device: Where the network is.
        rank: This process.
        world: Number of processes.
        workers: Processes that prepare what is learnt; None starts some where that pays.
    """

    data: Path | None
    device: torch.device
    rank: int = 0
    world: int = 1
    workers: int | None = None


class Lesson(Protocol):
    """What one process learns from in one step."""

    @property
    def bad(self) -> list[str]:
        """What is wrong with the files that could not be read, one line each."""

    def parts(self, count: int) -> Sequence[Any]:
        """The same in equal parts, whose gradients are accumulated."""


class Course(Protocol):
    """What is learnt, and how that is judged.

    Attributes:
        steps: Of an epoch.
        count: Examples learnt and measured; the recipe's `data.bad_share` is a share of them.
        builder_args: What the data says about the network, such as its number of classes.
        facts: What the data says about the checkpoint, such as its labels.
        main: The figure, larger is better, by which the best weights are chosen; empty if nothing is measured.
        bad: What is wrong with files that could not be read while measuring.
    """

    steps: int
    count: int
    builder_args: dict[str, Any]
    facts: dict[str, Any]
    main: str
    bad: dict[str, None]

    def begin(self) -> None:
        """Make what needs chance, after the network's first weights were drawn."""

    def batches(self, epoch: int, first: int) -> Iterator[Lesson]:
        """An epoch's lessons from step `first` on; each a function of the seed, the epoch and the step alone."""

    def loss(self, model: nn.Module, part: Any) -> Tensor:
        """Mean loss of a part of a lesson. Chance is seeded by the step before it is called."""

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Figures at the end of an epoch; all processes call it, and all get the same."""


class PictureCourse:
    """Labelled pictures, learnt by a method's `loss` and judged by accuracy.

    Args:
        recipe: What to do.
        method: Whose loss it is.
        place: Where.

    Raises:
        InputError: The data cannot be had.
        UsageError: There are fewer pictures than a batch holds.
        UnknownName: No such network.
    """

    def __init__(self, recipe: Recipe, method: Method, place: Place) -> None:
        self.recipe, self.method, self.device = recipe, method, place.device
        count = recipe.schedule.batch_size
        self.input = input_of(recipe.model)
        whole = open_data(recipe.data.name, recipe.data.split, place.data)
        pictures, held_out = whole.split(recipe.data.held_out, recipe.seed)
        names = pictures.names
        self.builder_args = {"num_classes": len(names)}
        self.facts = {"labels": names}
        self.bad: dict[str, None] = {}
        self.steps = len(pictures) // count
        if self.steps == 0:
            aside = f", besides the {len(held_out)} of data.held_out," if len(held_out) else ""
            raise UsageError(
                f"{len(pictures)} pictures{aside} are fewer than a batch of {count}",
                hint=f"lower {'data.held_out or ' if aside else ''}schedule.batch_size, as in schedule.batch_size=8",
            )
        self.learnt = Learnt(pictures, recipe, self.input, place.rank, place.world)
        workers = place.workers
        if workers is None:
            workers = spare_cores() if self.learnt.is_slow else 0
        self.feed: Feed[tuple[int, int]] = Feed(self.learnt, workers, pin=place.device.type == "cuda")
        exams = {"held_out": held_out} if len(held_out) else {}
        if unseen := recipe.data.eval_split:
            wanted = f"{recipe.data.name} {unseen}"
            exams[unseen] = aligned(open_data(recipe.data.name, unseen, place.data), names, wanted)
        self.main = f"{next(iter(exams))}_top1" if exams else ""
        self.count = len(pictures) + sum(map(len, exams.values()))
        self.judges = {
            exam: Judge(
                seen, self.learnt.side, self.input, place.device, rank=place.rank, world=place.world, workers=workers
            )
            for exam, seen in exams.items()
        }

    def begin(self) -> None:
        recipe, classes = self.recipe, self.builder_args["num_classes"]
        distill = recipe.distill
        teacher = Teacher(distill, self.method, classes, self.input, self.device) if distill else None
        self.lesson = teacher.loss if teacher else self.method.loss
        self.change = _changes(recipe.augment, classes, self.device)

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        return self.feed([(epoch, at) for at in range(first, self.steps)])

    def loss(self, model: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
        raw, labels = (tensor.to(self.device, non_blocking=True) for tensor in part)
        x = normalise(raw, self.input, self.recipe.channels_last)
        return self.lesson(model, *self.change(x, labels))

    def measure(self, model: nn.Module) -> dict[str, float]:
        figures: dict[str, float] = {}
        for exam, judge in self.judges.items():
            figures |= {f"{exam}_{name}": value for name, value in judge(model).items()}
            self.bad |= judge.bad
        return figures


def _changes(wanted: Augment, classes: int, device: torch.device) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What timm does to a normalised batch and its labels; mixing makes them (B, K) shares."""
    from timm.data.mixup import Mixup
    from timm.data.random_erasing import RandomErasing

    erase = RandomErasing(wanted.erase, mode="pixel", device=device) if wanted.erase else None
    mix = (
        Mixup(
            wanted.mixup,
            wanted.cutmix,
            prob=wanted.mix_prob,
            switch_prob=wanted.switch_prob,
            mode=wanted.mix_mode,
            label_smoothing=0.0,  # the method's own, which also smooths mixed labels
            num_classes=classes,
        )
        if wanted.mixup or wanted.cutmix
        else None
    )

    def change(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if erase:
            x = erase(x)
        return mix(x, labels) if mix else (x, labels)

    return change
