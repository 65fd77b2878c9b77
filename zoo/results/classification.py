"""What a classifier says of one picture, and what an embedding network gives for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import InputError, ZooError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType

__all__ = ["Classification", "Embedding", "Explanation", "Told"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in a picture the best class was found.

    Attributes:
        heat: (h, w) float32 in [0, 1], rows from the top; 1 where most speaks for the class.
        box: Left, top, right and bottom of what the network saw, as shares of the picture's sides; `heat` covers it.
    """

    heat: NDArray[np.float32]
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        if self.heat.ndim != 2 or not np.all((self.heat >= 0) & (self.heat <= 1 + 1e-6)):
            raise ValueError(f"heat is {self.heat.shape}; (h, w) in [0, 1] is needed")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"box": [round(x, 6) for x in self.box], "heat": self.heat.round(4).tolist()}


@dataclass(frozen=True)
class Told:
    """What a model that was taught in tasks says besides the classes.

    Attributes:
        task: Name of the task whose classes the picture was taken for.
        score: How sure it is, in [0, 1], that the picture shows a class it was taught.
        is_unknown: Whether the score is too low for that; None while the model cannot tell.
    """

    task: str
    score: float
    is_unknown: bool | None

    def __str__(self) -> str:
        return f"{'unknown, ' if self.is_unknown else ''}{self.task}, score {self.score:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"task": self.task, "score": round(self.score, 6), "unknown": self.is_unknown}


@dataclass(frozen=True, eq=False, repr=False)
class Classification:
    """The best classes of one picture, best first; none when the picture could not be used, and `error` says why.

    Attributes:
        source: Where the picture came from: a path, a URL, or what stands for a picture in memory.
        labels: K names.
        scores: (K,) float32 in [0, 1], falling.
        indices: (K,) int64, the classes' numbers.
        size: Width and height of the picture in pixels, upright.
        probabilities: (C,) float32, one a class; only where asked for.
        note: What was done beyond plain decoding, such as "first frame of 12".
        error: Why there is no answer.
        picture: Gives the RGB picture again, for `draw`.
        explanation: Where the best class was found; only where asked for.
        told: What a taught model says besides.
    """

    source: str
    labels: tuple[str, ...] = ()
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    indices: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    size: tuple[int, int] | None = None
    probabilities: NDArray[np.float32] | None = None
    note: str | None = None
    error: ZooError | None = None
    picture: "Callable[[], Image] | None" = None
    explanation: Explanation | None = None
    told: Told | None = None

    def __post_init__(self) -> None:
        if not len(self.labels) == len(self.scores) == len(self.indices):
            raise ValueError(f"{len(self.labels)} labels, {len(self.scores)} scores, {len(self.indices)} indices")
        if self.scores.ndim != 1 or self.indices.ndim != 1:
            raise ValueError(f"scores are {self.scores.shape} and indices {self.indices.shape}; both are (K,)")
        if not np.all((self.scores >= 0) & (self.scores <= 1 + 1e-6)):  # false for NaN as well
            raise ValueError(f"scores lie in [0, 1], got {self.scores}")
        if np.any(np.diff(self.scores) > 0):
            raise ValueError(f"scores fall, got {self.scores}")
        if self.error is None and not self.labels:
            raise ValueError("a result without labels says its error")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rank: int) -> tuple[str, float]:
        """Name and score of one rank; 0 is the best."""
        return self.labels[rank], float(self.scores[rank])

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return zip(self.labels, self.scores.tolist(), strict=True)

    def __repr__(self) -> str:
        if self.error:
            return f"Classification({self.source}: {self.error})"
        best = ", ".join(f"{label} {score:.3f}" for label, score in zip(self.labels[:3], self.scores, strict=False))
        return f"Classification({self.source}: {best}{', …' if len(self) > 3 else ''})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: source, predictions (label, index, score), size, note, error; what else was asked for."""
        row: dict[str, Any] = {
            "source": self.source,
            "predictions": [
                {"label": label, "index": index, "score": round(score, 6)}
                for label, index, score in zip(self.labels, self.indices.tolist(), self.scores.tolist(), strict=True)
            ],
            "size": list(self.size) if self.size else None,
            "note": self.note,
            "error": self.error and self.error.to_dict(),
        }
        if self.probabilities is not None:
            row["probabilities"] = self.probabilities.tolist()
        if self.explanation is not None:
            row["explanation"] = self.explanation.to_dict()
        if self.told is not None:
            row |= self.told.to_dict()
        return row

    def draw(self) -> "Image":
        """The picture beside its labels as bars; with an explanation, the picture again under its heat between them.

        The picture is read again from its source.

        Raises:
            ZooError: There is no picture: this result is an error, or its source is gone.
        """
        from zoo.viz.heat import heat_overlay
        from zoo.viz.panels import enlarge, label_panel

        if self.error:
            raise self.error
        if self.picture is None:
            raise InputError(f"{self.source} cannot be drawn", hint="this result does not know its picture")
        name = PurePath(self.source).name or self.source
        picture = enlarge(self.picture())
        why = self.explanation
        heat = heat_overlay(picture, why.heat, why.box) if why else None
        note = _joined(self.note, self.told)
        return label_panel(picture, self.labels, self.scores.tolist(), beside=heat, title=name, note=note)

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        title = Text(self.source, style="bold")
        if self.note:
            title.append(f"  {self.note}", style="dim")
        if self.told:
            title.append(f"  {self.told}", style="yellow" if self.told.is_unknown else "dim")
        if self.error:
            return Group(title, Text(f"  {self.error}", style="red"))
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(justify="right", width=6)
        table.add_column(width=20)
        table.add_column(overflow="ellipsis", no_wrap=True)
        for rank, (label, score) in enumerate(zip(self.labels, self.scores.tolist(), strict=True)):
            filled = round(20 * score)
            bar = Text("━" * filled, style="cyan" if rank == 0 else "blue").append("━" * (20 - filled), style="dim")
            table.add_row("", f"{100 * score:.1f}%", bar, Text(label, style="bold" if rank == 0 else ""))
        return Group(title, table)


@dataclass(frozen=True, eq=False, repr=False)
class Embedding:
    """The features of one picture; empty when the picture could not be used, and `error` says why.

    Attributes:
        source: Where the picture came from.
        vector: (D,) float32.
        size: Width and height of the picture in pixels, upright.
        note: What was done beyond plain decoding.
        error: Why there are no features.
        modality: What the picture was taken for, where a network has a way for each: "visible" or "infrared".
    """

    source: str
    vector: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    size: tuple[int, int] | None = None
    note: str | None = None
    error: ZooError | None = None
    modality: str | None = None

    def __post_init__(self) -> None:
        if self.vector.ndim != 1:
            raise ValueError(f"the vector is {self.vector.shape}; it is (D,)")
        if not np.all(np.isfinite(self.vector)):
            raise ValueError("the vector is not finite")
        if self.error is None and not len(self.vector):
            raise ValueError("a result without features says its error")

    def __len__(self) -> int:
        return len(self.vector)

    def __repr__(self) -> str:
        return (
            f"Embedding({self.source}: {self.error or f'{len(self)} numbers, norm {np.linalg.norm(self.vector):.3f}'})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: source, vector, size, note, error; modality where there is one."""
        return {
            "source": self.source,
            "vector": self.vector.tolist(),
            "size": list(self.size) if self.size else None,
            "note": self.note,
            "error": self.error and self.error.to_dict(),
            **({"modality": self.modality} if self.modality else {}),
        }

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        return Text.assemble((self.source, "bold"), f"  {self.error or f'{len(self)} numbers'}")


def _joined(*notes: object) -> str:
    return "; ".join(str(note) for note in notes if note)
