"""Clips with captions as arrays of frames, whichever way they are made: drawn, or read from videos.

F frames of H x W pixels a clip.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.data.captions import Described, load_described
from zoo.data.moments import Timeline, Window, frames_at, moments, read_timeline
from zoo.data.transforms import Preprocess
from zoo.data.zooclips import SPLITS, film, plan_clip
from zoo.errors import InputError, UsageError
from zoo.registry.card import Input

__all__ = ["DRAWN", "ClipSource", "DrawnClips", "VideoClips", "open_clips"]

DRAWN = "zooclips"
TURNS = re.compile(r"\b(left|right)\b", re.IGNORECASE)  # words that a mirrored clip would make wrong


class ClipSource(Protocol):
    """Clips by their number."""

    @property
    def captions(self) -> Sequence[Sequence[str]]:
        """Sentences of each clip."""
        ...

    def read(self, index: int, rng: np.random.Generator | None) -> tuple[NDArray[np.uint8], int]:
        """(F, H, W, 3) frames, and how many of them are the clip's; the rest repeat its last one.

        Args:
            index: Number of the clip.
            rng: Source of chance of training: moments, crop, mirror; None gives the middle of each part.

        Raises:
            InputError: It cannot be read.
        """
        ...


class DrawnClips:
    """Drawn people, all in memory.

    Args:
        seeds: One a clip.
        frames: F.
        side: H and W.
        padding: Pixels that a training clip may be shifted by, each side of it continued.
    """

    def __init__(self, seeds: Sequence[int], frames: int, side: int, padding: int = 0) -> None:
        plans = [plan_clip(seed) for seed in seeds]
        self.captions = [plan.captions for plan in plans]
        self.padding = padding
        self.pixels = np.stack([film(plan, frames, side) for plan in plans])

    def read(self, index: int, rng: np.random.Generator | None) -> tuple[NDArray[np.uint8], int]:
        clip = self.pixels[index]
        if rng is not None and self.padding:
            wide = np.pad(clip, ((0, 0), *[(self.padding, self.padding)] * 2, (0, 0)), mode="edge")
            down, right = rng.integers(0, 2 * self.padding + 1, 2)
            clip = wide[:, down : down + clip.shape[1], right : right + clip.shape[2]]
        return clip, len(clip)


@dataclass(frozen=True)
class VideoClips:
    """Videos with captions, read when they are asked for.

    Args:
        described: Which.
        input: The network's preprocessing.
        frames: F.
        flip: Whether half of the training clips are mirrored, but for those whose captions name a side.
        scale: Share of the area that the training crop keeps, smallest and largest.
    """

    described: tuple[Described, ...]
    input: Input
    frames: int
    flip: bool = True
    scale: tuple[float, float] = (0.5, 1.0)

    @property
    def captions(self) -> Sequence[Sequence[str]]:
        return [item.captions for item in self.described]

    def read(self, index: int, rng: np.random.Generator | None) -> tuple[NDArray[np.uint8], int]:
        item = self.described[index]
        line = _timeline(item.video)
        part = Window(item.start, min(line.end, item.end or line.end))
        if part.end <= part.start:
            raise InputError(f"{item.video} ends before {part.start:g} s", hint="mend the list")
        places = np.unique(line.places(moments(part, self.frames, rng)))
        found = list(frames_at(line, places.tolist()))
        cut = self._cut(item, rng)
        clip = []
        for frame in found:
            if isinstance(frame, InputError):
                raise frame
            clip.append(cut(frame.pixels))
        return np.stack(clip + clip[-1:] * (self.frames - len(clip))), len(clip)

    def _cut(self, item: Described, rng: np.random.Generator | None) -> "_Cut":
        if rng is None:
            return _Cut(self.input)
        names_a_side = any(TURNS.search(text) for text in item.captions)
        is_mirrored = self.flip and not names_a_side and rng.random() < 0.5
        return _Cut(self.input, rng.uniform(*self.scale), float(rng.random()), float(rng.random()), is_mirrored)


@dataclass(frozen=True)
class _Cut:
    """The same square of every frame: the middle, or one of a share of the area at a place; mirrored or not."""

    input: Input
    area: float = 0.0
    right: float = 0.5
    down: float = 0.5
    is_mirrored: bool = False

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from PIL import Image

        image = Image.fromarray(pixels)
        if not self.area:
            return Preprocess(self.input).crop(image)
        side = min(min(image.size), (self.area * image.width * image.height) ** 0.5)
        left, top = (image.width - side) * self.right, (image.height - side) * self.down
        size = self.input.size[2], self.input.size[1]
        cut = image.resize(size, Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        array = np.asarray(cut)
        return array[:, ::-1] if self.is_mirrored else array


@lru_cache(maxsize=4096)
def _timeline(video: str) -> Timeline:
    return read_timeline(video)


def open_clips(
    name: str, split: str, root: Path, input: Input, frames: int, *, padding: int = 0, flip: bool = True
) -> ClipSource:
    """One part of a set of clips with captions.

    Args:
        name: "zooclips" for drawn people, else as for `load_described`.
        split: Part of the set.
        root: Folder that holds the sets.
        input: The network's preprocessing.
        frames: F.
        padding: Of drawn clips.
        flip: Of videos.

    Raises:
        UsageError: No such part.
        InputError: The set is not there.
    """
    if name == DRAWN:
        if split not in SPLITS:
            raise UsageError(f"{DRAWN} has no part {split!r}", hint=f"one of {', '.join(SPLITS)}")
        return DrawnClips(SPLITS[split], frames, input.size[1], padding)
    return VideoClips(tuple(load_described(name, split, root)), input, frames, flip)
