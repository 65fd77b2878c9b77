"""What learners of tasks share: an epoch's order, the steps of the rate, and a file of how far a task has come."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from zoo.errors import UsageError
from zoo.hub.checkpoint import write_whole
from zoo.train.learners import NewTask, Settings

__all__ = ["TaskState", "batches_of", "stepped"]


def batches_of(labels: Tensor, settings: Settings, chance: np.random.Generator) -> tuple[Tensor, ...]:
    """Rows of an epoch's batches: each picture once, or drawn so that all classes come equally often.

    Batches differ by at most one picture, so that none is left with a single one, of which a norm learns nothing.

    Args:
        labels: (N,) int64 classes.
        settings: Size of a batch, and whether classes come equally often.
        chance: What is drawn from.
    """
    count = len(labels)
    if settings.is_balanced:
        share = 1 / torch.bincount(labels)[labels].double().numpy()
        order = chance.choice(count, count, p=share / share.sum())
    else:
        order = chance.permutation(count)
    return torch.from_numpy(order).tensor_split(-(-count // settings.batch_size))


def stepped(rate: float, drops: tuple[float, ...], epoch: int, epochs: int) -> float:
    """The rate of an epoch, counted from 0: a tenth after each share of the epochs in `drops`."""
    return rate * 0.1 ** sum(epoch >= round(drop * epochs) for drop in drops)


class TaskState:
    """How far a task has come, in its file: one that was killed goes on from its last whole epoch.

    Args:
        task: What is learned.
        parts: What learns it, and is kept.
        optimizer: Of what learns, with momentum.
        made_with: What else the state depends on; JSON types.
    """

    def __init__(self, task: NewTask, parts: nn.Module, optimizer: torch.optim.SGD, made_with: Sequence[Any]) -> None:
        self.path = task.state
        self.parts, self.optimizer = parts, optimizer
        pictures = hashlib.sha256()
        for part in (task.images, task.labels, task.kept_images, task.kept_labels):
            pictures.update(part.contiguous().numpy().data)
        self.key = json.dumps([asdict(task.settings), pictures.hexdigest(), *made_with])

    def load(self) -> int:
        """Put the state back in place; returns the epochs that are done, 0 where there is none of this task."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            with safe_open(self.path, "pt") as file:
                facts = json.loads(file.metadata()["zoo"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            if facts["key"] != self.key:
                return 0
            moments = [tensors.pop(f"momentum.{i}") for i in range(len(self._learnt))]
            self.parts.load_state_dict(tensors)
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError):
            return 0  # what is broken cannot be gone on from, and is written anew
        for parameter, moment in zip(self._learnt, moments, strict=True):
            self.optimizer.state[parameter]["momentum_buffer"] = moment.to(parameter.device)
        return int(facts["epochs"])

    def save(self, epochs: int) -> None:
        """Write the state whole.

        Raises:
            UsageError: The weights are no longer finite.
            InputError: The file cannot be written.
        """
        tensors = {key: value.detach().cpu().contiguous() for key, value in self.parts.state_dict().items()}
        if any(value.is_floating_point() and not value.isfinite().all() for value in tensors.values()):
            raise UsageError("the weights are no longer finite", hint="another --seed, or more or larger pictures")
        if self.path is None:
            return
        for i, parameter in enumerate(self._learnt):
            tensors[f"momentum.{i}"] = self.optimizer.state[parameter]["momentum_buffer"].cpu().contiguous()
        write_whole(self.path, save(tensors, {"zoo": json.dumps({"key": self.key, "epochs": epochs})}))

    @property
    def _learnt(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
