"""How well a taught model knows each of its tasks: before and after a lesson, and over its whole history."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ZooError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Lesson", "TaskMatrix", "TaskRow"]


@dataclass(frozen=True)
class TaskRow:
    """One task before and after another one was learned.

    Attributes:
        task: Its name.
        classes: Its classes.
        pictures: How many it was measured on.
        before: Share of right answers before; None for the task that is new, and without pictures.
        after: And after.
        on: What was measured on.
    """

    task: str
    classes: tuple[str, ...]
    pictures: int
    before: float | None
    after: float | None
    on: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "task": self.task,
            "classes": list(self.classes),
            "pictures": self.pictures,
            "before": self.before,
            "after": self.after,
            "on": self.on,
        }


@dataclass(frozen=True, repr=False)
class Lesson:
    """A task that was taught.

    Attributes:
        model: The file.
        rows: Every task, the new one last.
        failed: What is wrong with the pictures that could not be used.
        seconds: Wall clock.
    """

    model: str
    rows: tuple[TaskRow, ...]
    failed: tuple[ZooError, ...] = ()
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Lesson({self.model}: {len(self)} tasks, {self.seconds:.0f} s)"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "model": self.model,
            "tasks": [row.to_dict() for row in self.rows],
            "failed": [fault.message for fault in self.failed],
            "seconds": self.seconds,
        }


@dataclass(frozen=True, eq=False, repr=False)
class TaskMatrix:
    """A_i^j: share of right answers for task i's pictures by the model as it was after task j.

    Attributes:
        model: The file.
        dataset: What was measured on.
        tasks: T names.
        classes: Of each task, its classes.
        pictures: (T,) pictures of each task.
        matrix: (T, T) in [0, 1]; NaN below the diagonal, and for a task without pictures.
        overall: (T,) after each task, over all pictures of the tasks known by then; NaN without any.
        recall: (T,) the same as mean class recall.
        of_class: (K,) recall of each class now, in the order of `classes`; NaN for one without pictures.
        figures: Further figures by name: averages, forgetting, how often the task is told right now and what would be
            right if it always were, open set.
        failed: What is wrong with the inputs that could not be used.
    """

    model: str
    dataset: str
    tasks: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    pictures: NDArray[np.int64]
    matrix: NDArray[np.float64]
    overall: NDArray[np.float64]
    recall: NDArray[np.float64]
    of_class: NDArray[np.float64]
    figures: dict[str, float]
    failed: tuple[ZooError, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.tasks)
        if self.matrix.shape != (count, count) or {len(self.overall), len(self.recall), len(self.classes)} != {count}:
            raise ValueError(f"the matrix is {self.matrix.shape} for {count} tasks")

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        return f"TaskMatrix({self.model} on {self.dataset}: {len(self)} tasks, {100 * self.overall[-1]:.2f}% at last)"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; None for what was not measured."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "tasks": list(self.tasks),
            "classes": [list(names) for names in self.classes],
            "pictures": self.pictures.tolist(),
            "matrix": [_numbers(row) for row in self.matrix],
            "overall": _numbers(self.overall),
            "mean_class_recall": _numbers(self.recall),
            "class_recall": dict(zip(self._names(), _numbers(self.of_class), strict=True)),
            "figures": self.figures,
            "failed": [fault.message for fault in self.failed],
        }

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        table.add_column("task", style="bold")
        table.add_column("classes")
        table.add_column("pictures", justify="right")
        for j in range(len(self)):
            table.add_column(f"after {j + 1}", justify="right")
        for i, name in enumerate(self.tasks):
            table.add_row(name, ", ".join(self.classes[i]), str(self.pictures[i]), *map(_cell, self.matrix[i]))
        table.add_section()
        table.add_row("all", "accuracy", str(int(self.pictures.sum())), *map(_cell, self.overall))
        table.add_row("", "mean class recall", "", *map(_cell, self.recall))
        told = [f"{name.replace('_', ' ')} {100 * value:.2f}%" for name, value in self.figures.items()]
        found = [
            f"{name} {_cell(value)}" for name, value in zip(self._names(), self.of_class, strict=True) if value >= 0
        ]
        return Group(
            Text(f"{self.model} on {self.dataset}, per cent right\n", style="bold"),
            table,
            Text(f"\nrecall now: {', '.join(found)}\n{', '.join(told)}"),
        )

    def _names(self) -> list[str]:
        return [name for names in self.classes for name in names]


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.1f}"
