"""What learns classes task by task: one module a method, each with a `Learner`.

A learner changes a network of its own (see `zoo.tasks.taught.METHODS`) by one task at a time. Folders, files, memory
and measuring are the same for all and lie in `zoo.train.teach`.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zoo.data.transforms import Preprocess
from zoo.errors import UnknownName, UsageError
from zoo.registry.card import Input
from zoo.tasks.extractor import Extractor

__all__ = ["Learner", "NewTask", "Settings", "learner_names", "new_learner"]


@dataclass(frozen=True)
class Settings:
    """How a task is learned.

    Attributes:
        epochs: Passes over the new pictures and the memory; None leaves them to the method.
        batch_size: Pictures a step.
        is_balanced: Whether every class is drawn equally often while the network learns from uneven ones.
        seed: Of everything drawn.
    """

    epochs: int | None = None
    batch_size: int = 32
    is_balanced: bool = False
    seed: int = 0


@dataclass(frozen=True)
class NewTask:
    """What there is to learn.

    Attributes:
        images: (N, H, W, C) uint8 pictures of the new classes, cropped.
        labels: (N,) int64, numbered in order of arrival.
        classes: How many are new.
        kept_images: (M, H, W, C) uint8 pictures of old classes.
        kept_labels: (M,) int64.
        quota: Pictures of a class in a balanced set: as many as are kept of an old one.
        input: Preprocessing.
        settings: How.
        device: Where.
        state: File in which the learner may keep how far it came; it is removed once the task is in the model's file.
        report: Called with what is being done and the share of it that is done.
    """

    images: Tensor
    labels: Tensor
    classes: int
    kept_images: Tensor
    kept_labels: Tensor
    quota: int
    input: Input
    settings: Settings
    device: torch.device
    state: Path | None = None
    report: Callable[[str, float], None] = lambda what, done: None

    @property
    def first(self) -> int:
        """Number of the first new class."""
        return int(self.labels.min())

    def prepared(self, images: Tensor) -> Tensor:
        """(B, H, W, C) uint8 to normalised (B, C, H, W) on the device."""
        return Preprocess(self.input).normalise(images.to(self.device))


class Learner(Protocol):
    """One way to learn classes task by task."""

    def arguments(self, extractor: Extractor, input: Input) -> dict[str, Any]:
        """What the method's network is built with besides the extractor and the tasks' sizes; plain JSON types.

        Raises:
            UsageError: The extractor is none that it can use.
        """

    def plan(self, network: nn.Module, task: NewTask) -> list[tuple[str, str]]:
        """What `learn` will do, as named facts for people."""

    def learn(self, network: nn.Module, task: NewTask) -> None:
        """Add the task to the network. Interrupted and called again with the same state file, it goes on."""


def learner_names() -> list[str]:
    """Names of the methods."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def new_learner(name: str) -> Learner:
    """The learner of that name.

    Raises:
        UnknownName: No such method.
    """
    if name not in learner_names():
        raise UnknownName(f"no method {name!r} to learn by", hint=f"one of {', '.join(learner_names())}")
    return importlib.import_module(f"{__name__}.{name}").Learner()


def check(settings: Settings) -> None:
    """Refuse settings that cannot be meant.

    Raises:
        UsageError: A count below 1.
    """
    if settings.batch_size < 2 or (settings.epochs is not None and settings.epochs < 1):
        raise UsageError("epochs start at 1 and batches at 2 pictures", hint="leave them out for the defaults")
