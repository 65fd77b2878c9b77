"""Who a sentence speaks of in a video: a span of time, and a box in each of its frames."""

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

__all__ = ["Heat", "Span", "Tube"]

SHOWN = 12  # pictures of a drawn tube


@dataclass(frozen=True)
class Span:
    """A time that may be meant, in seconds, with a score in [0, 1]."""

    start: float
    end: float
    score: float

    def to_dict(self) -> dict[str, float]:
        """Plain JSON types."""
        return {"start": round(self.start, 3), "end": round(self.end, 3), "score": round(self.score, 4)}


@dataclass(frozen=True, eq=False)
class Heat:
    """Where the network looked in some frames.

    Attributes:
        frames: (S,) their numbers, rising.
        maps: (S, h, w) float32 in [0, 1], rows from the top; 1 where it looked most in that frame.
    """

    frames: NDArray[np.int64]
    maps: NDArray[np.float32]


@dataclass(frozen=True, eq=False, repr=False)
class Tube:
    """The answer to one sentence; empty where nothing scored high enough (`note` says so) or `error` says why.

    Attributes:
        source: The video: a path, or what stands for one.
        query: The sentence.
        span: When.
        times: (K,) seconds, the presentation times of the frames in the span.
        frames: (K,) their numbers in the video, from 0.
        boxes: (K, 4) float32, left, top, right and bottom in pixels of the upright video.
        interpolated: (K,) whether a box lies between two frames that the network saw.
        size: Width and height of the video, upright.
        rate: Frames a second of the video, on average.
        alternatives: Further spans, best first.
        note: What a reader must know.
        error: Why there is no answer.
        heat: Where the network looked.
        pictures: Gives the RGB pictures of some of the frames, by their numbers, for `draw` and `draw_heat`.
    """

    source: str
    query: str
    span: Span | None = None
    times: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    frames: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    interpolated: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    size: tuple[int, int] | None = None
    rate: float | None = None
    alternatives: tuple[Span, ...] = ()
    note: str | None = None
    error: ZooError | None = None
    heat: Heat | None = None
    pictures: "Callable[[list[int]], list[Image]] | None" = None

    def __post_init__(self) -> None:
        count = len(self.times)
        if self.boxes.shape != (count, 4) or len(self.frames) != count or len(self.interpolated) != count:
            raise ValueError(f"{count} times, boxes {self.boxes.shape}, {len(self.frames)} frames")
        if (self.span is None) != (count == 0):
            raise ValueError("a span has boxes, and boxes have a span")
        if count and not np.all(np.isfinite(self.boxes)):
            raise ValueError("boxes are finite")
        if np.any(np.diff(self.times) < 0) or np.any(np.diff(self.frames) <= 0):
            raise ValueError("times and frames rise")
        if self.span and not 0 <= self.span.score <= 1:
            raise ValueError(f"scores lie in [0, 1], got {self.span.score}")

    def __len__(self) -> int:
        return len(self.times)

    def __iter__(self) -> Iterator[tuple[float, NDArray[np.float32]]]:
        """Times and boxes."""
        return zip(self.times.tolist(), self.boxes, strict=True)

    def __repr__(self) -> str:
        return f"Tube({self.query!r} in {self.source}: {self._words()})"

    def box_at(self, time: float) -> NDArray[np.float32] | None:
        """The box that is shown at a time in seconds; None outside of the span."""
        if self.span is None or not self.span.start <= time < self.span.end:
            return None
        return self.boxes[max(0, int(np.searchsorted(self.times, time + 1e-6)) - 1)]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: source, query, start, end, score, fps_source, size, boxes, alternatives, note, error."""
        boxes = [
            {"t": round(t, 4), "frame": frame, "xyxy": [round(x, 2) for x in box], "interpolated": between}
            for t, frame, box, between in zip(
                self.times.tolist(),
                self.frames.tolist(),
                self.boxes.tolist(),
                self.interpolated.tolist(),
                strict=True,
            )
        ]
        span = self.span.to_dict() if self.span else {"start": None, "end": None, "score": None}
        return {
            "source": self.source,
            "query": self.query,
            **span,
            "fps_source": round(self.rate, 4) if self.rate else None,
            "size": list(self.size) if self.size else None,
            "boxes": boxes,
            "alternatives": [span.to_dict() for span in self.alternatives],
            "note": self.note,
            "error": self.error and self.error.to_dict(),
        }

    def draw(self) -> "Image":
        """A sheet of some frames of the tube, each with its box.

        Raises:
            ZooError: There is no tube, or no way back to its pictures.
        """
        from zoo.viz.tube import tube_sheet

        get = self._pictures()
        rows = np.unique(np.linspace(0, len(self) - 1, SHOWN).round().astype(int))
        pictures = get(self.frames[rows].tolist())
        return tube_sheet(pictures, self.boxes[rows], self._captions(self.times[rows]), title=self.query)

    def draw_heat(self) -> "Image":
        """A sheet of the frames that the network saw in the span, each under the map of where it looked.

        Raises:
            ZooError: There is no tube, no map, or no way back to its pictures.
        """
        from zoo.viz.heat import heat_overlay
        from zoo.viz.tube import tube_sheet

        get = self._pictures()
        if self.heat is None:
            raise InputError(f"{self.source} has no heat map", hint="ask for a tube first")
        chosen = np.unique(np.linspace(0, len(self.heat.frames) - 1, SHOWN).round().astype(int))
        numbers = self.heat.frames[chosen]
        looks = zip(get(numbers.tolist()), self.heat.maps[chosen], strict=True)
        rows = np.clip(np.searchsorted(self.frames, numbers), 0, len(self) - 1)
        overlaid = [heat_overlay(picture, heat) for picture, heat in looks]
        return tube_sheet(overlaid, self.boxes[rows], self._captions(self.times[rows]), title=self.query)

    def _pictures(self) -> "Callable[[list[int]], list[Image]]":
        """The way back to pictures, if there is a tube to draw."""
        if self.error:
            raise self.error
        if self.pictures is None or self.span is None:
            why = self.note or "it does not know its pictures"
            raise InputError(f"{self.source} has no tube to draw: {why}", hint="ask for somebody else")
        return self.pictures

    @staticmethod
    def _captions(times: NDArray[np.float64]) -> list[str]:
        return [f"{time:.2f} s" for time in times]

    def _words(self) -> str:
        if self.error:
            return str(self.error)
        if self.span is None:
            return self.note or "not found"
        span = self.span
        return f"{span.start:.2f} s to {span.end:.2f} s, score {span.score:.2f}, {len(self)} boxes"

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        text = Text.assemble((self.query, "bold"), f"  {PurePath(self.source).name}\n  ")
        text.append(self._words(), "red" if self.error else "cyan" if self.span else "yellow")
        for span in self.alternatives:
            text.append(f"\n  or {span.start:.2f} s to {span.end:.2f} s, score {span.score:.2f}", "dim")
        if self.note and self.span:
            text.append(f"\n  {self.note}", "dim")
        return text
