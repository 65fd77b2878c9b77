"""How well a classifier does on a labelled set."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ZooError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType

__all__ = ["Evaluation"]

DRAWS = 2000  # bootstrap samples behind the interval


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Truth against first answers, over the pictures that could be read.

    Attributes:
        model: Checkpoint's name.
        dataset: Set and part, or the folder.
        names: K classes.
        confusion: (K, K) int64; row is the truth, column the first answer.
        top5_hits: Pictures whose truth is among the first five answers.
        failed: What is wrong with the inputs that could not be used; they count nowhere else.
        seconds: Wall clock of the run.
        engine: What ran the network.
    """

    model: str
    dataset: str
    names: tuple[str, ...]
    confusion: NDArray[np.int64]
    top5_hits: int
    failed: tuple[ZooError, ...] = ()
    seconds: float = 0.0
    engine: str = "float"

    def __post_init__(self) -> None:
        classes = len(self.names)
        if self.confusion.shape != (classes, classes) or (self.confusion < 0).any():
            raise ValueError(f"confusion is {self.confusion.shape} for {classes} classes, of counts")
        if not self.right <= self.top5_hits <= len(self):
            raise ValueError(f"{self.top5_hits} hits among five, {self.right} first, of {len(self)}")

    def __len__(self) -> int:
        return int(self.confusion.sum())

    def __repr__(self) -> str:
        return f"Evaluation({self.model} on {self.dataset}: top-1 {self.top1:.2f}%, {len(self)} pictures)"

    @property
    def right(self) -> int:
        """Pictures whose first answer is the truth."""
        return int(np.trace(self.confusion))

    @property
    def top1(self) -> float:
        """Per cent of pictures whose first answer is the truth; NaN of none."""
        return 100 * self.right / len(self) if len(self) else float("nan")

    @property
    def top5(self) -> float:
        """Per cent of pictures with the truth among the first five answers; NaN of none."""
        return 100 * self.top5_hits / len(self) if len(self) else float("nan")

    @property
    def recall(self) -> NDArray[np.float64]:
        """(K,) per cent of each class that was found; NaN for a class without pictures."""
        seen = self.confusion.sum(1)
        return np.where(seen > 0, 100 * np.diagonal(self.confusion) / np.maximum(seen, 1), np.nan)

    @property
    def precision(self) -> NDArray[np.float64]:
        """(K,) per cent of the pictures answered with each class that are of it; NaN for a class never answered."""
        answered = self.confusion.sum(0)
        return np.where(answered > 0, 100 * np.diagonal(self.confusion) / np.maximum(answered, 1), np.nan)

    @property
    def balanced(self) -> float:
        """Mean recall over the classes that have pictures, in per cent; NaN of none."""
        return float(np.nanmean(self.recall)) if len(self) else float("nan")

    @property
    def macro_f1(self) -> float:
        """Mean of the classes' F1 in per cent, over classes that have pictures or answers; NaN of none."""
        both = self.confusion.sum(0) + self.confusion.sum(1)
        return (
            float((200 * np.diagonal(self.confusion)[both > 0] / both[both > 0]).mean()) if len(self) else float("nan")
        )

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of top-1 in per cent: bootstrap over pictures, percentiles of 2,000 samples, fixed seed."""
        if not len(self):
            return float("nan"), float("nan")
        # Resampling pictures that are right or wrong draws their number from a binomial.
        samples = np.random.default_rng(0).binomial(len(self), self.right / len(self), DRAWS)
        low, high = np.percentile(100 * samples / len(self), (2.5, 97.5))
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "pictures": len(self),
            "top1": self.top1 if len(self) else None,
            "top1_interval": list(self.interval) if len(self) else None,
            "top5": self.top5 if len(self) else None,
            "balanced": self.balanced if len(self) else None,
            "macro_f1": self.macro_f1 if len(self) else None,
            "recall": self._by_class(self.recall),
            "precision": self._by_class(self.precision),
            "confusion": self.confusion.tolist(),
            "failed": [error.message for error in self.failed],
            "seconds": self.seconds,
            "engine": self.engine,
        }

    def _by_class(self, values: NDArray[np.float64]) -> dict[str, float | None]:
        return {name: None if np.isnan(v) else float(v) for name, v in zip(self.names, values, strict=True)}

    def draw(self) -> "Image":
        """The confusion matrix as a picture."""
        from zoo.viz.confusion import confusion_matrix

        title = f"{self.model} on {self.dataset}: top-1 {self.top1:.2f}% of {len(self):,}"
        return confusion_matrix(self.confusion, self.names, title=title)

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        low, high = self.interval
        rows = Table(box=None, pad_edge=False)
        rows.add_column("class", style="bold")
        rows.add_column("pictures", justify="right")
        rows.add_column("recall", justify="right")
        rows.add_column("precision", justify="right")
        rows.add_column("most confused with")
        worst_first = sorted(range(len(self.names)), key=lambda k: self.recall[k] if self.confusion[k].any() else 101)
        for k in worst_first[:20]:
            wrong = self.confusion[k].copy()
            wrong[k] = 0
            other = f"{self.names[wrong.argmax()]} ({wrong.max()})" if wrong.any() else ""
            recall, precision = ("-" if np.isnan(v[k]) else f"{v[k]:.1f}%" for v in (self.recall, self.precision))
            rows.add_row(self.names[k], f"{self.confusion[k].sum():,}", recall, precision, other)
        head = Text.assemble(
            (f"{self.model} on {self.dataset}\n", "bold"),
            f"top-1 {self.top1:.2f}% (95% interval {low:.2f} to {high:.2f}), top-5 {self.top5:.2f}%, ",
            f"balanced {self.balanced:.2f}%, macro F1 {self.macro_f1:.2f}%\n",
            f"{len(self):,} pictures in {self.seconds:.1f} s, {self.engine.partition(':')[0]}\n",
        )
        return Group(head, rows, Text(f"and {len(worst_first) - 20} more classes" if len(worst_first) > 20 else ""))
