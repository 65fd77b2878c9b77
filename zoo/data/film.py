"""Some frames of a video, by their numbers: decoded once, in order, kept as long as they are needed."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoo.data.video import VideoReader
from zoo.errors import InputError

__all__ = ["Film", "clip_times", "frames_at", "middles", "shown_at"]


class Film:
    """Frames of a video, decoded in order as far as they are asked for; only wanted ones are kept.

    Args:
        reader: Where they come from.
        times: When each is shown.
        wanted: Numbers of those to keep.
        side: Height and width to shrink them to; None keeps them as they are.

    Attributes:
        pixels: The kept ones, (H, W, 3) uint8, by their numbers.
        last: Number of the last one that could be decoded.
        damage: What ended the video early.
    """

    def __init__(
        self, reader: VideoReader, times: NDArray[np.float64], wanted: set[int], side: tuple[int, int] | None
    ) -> None:
        self.frames = iter(reader)
        self.times, self.side = times, side
        self.waiting = sorted(wanted, reverse=True)
        self.pixels: dict[int, NDArray[np.uint8]] = {}
        self.last = -1
        self.damage: InputError | None = None

    def decode_to(self, number: int) -> None:
        """Decode until a wanted frame is there; where the video ends before, its last frame stands in.

        Raises:
            InputError: There is no frame at all.
        """
        while self.waiting and self.waiting[-1] <= number:
            frame = None if self.damage else next(self.frames, None)
            if isinstance(frame, InputError):
                self.damage = frame
            elif frame is not None:
                self.last = max(self.last + 1, shown_at(self.times, frame.time + 1e-4).item())
                if self.waiting[-1] <= self.last:
                    self._keep(self.last, self._shrunk(frame.pixels))
            elif self.pixels:
                self._keep(number, self.pixels[max(self.pixels)])
            else:
                raise self.damage or InputError("a video without frames", hint="give one with content")

    def _keep(self, number: int, pixels: NDArray[np.uint8]) -> None:
        """For all that wait for this frame or one before it: a time stamp may have no frame."""
        while self.waiting and self.waiting[-1] <= number:
            self.pixels[self.waiting.pop()] = pixels

    def _shrunk(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.side is None:
            return pixels
        height, width = self.side
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))

    def forget_before(self, number: int) -> None:
        """Let go of frames that no later window needs."""
        self.pixels = {at: pixels for at, pixels in self.pixels.items() if at >= number}

    def stack(self, numbers: NDArray[np.int64]) -> Tensor:
        """(K, 3, H, W) in [0, 1]."""
        return self.pictures(numbers).float() / 255

    def pictures(self, numbers: NDArray[np.int64]) -> Tensor:
        """(K, 3, H, W) uint8."""
        return torch.from_numpy(np.stack([self.pixels[int(number)] for number in numbers])).movedim(-1, 1)


def frames_at(source: str, times: NDArray[np.float64], numbers: Sequence[int]) -> list[Image.Image]:
    """RGB pictures of some frames of a video, in the order of their numbers.

    Raises:
        InputError: It cannot be read any more.
    """
    with VideoReader(source) as reader:
        film = Film(reader, times, set(numbers), None)
        film.decode_to(max(numbers))
    return [Image.fromarray(film.pixels[number]) for number in numbers]


def shown_at(times: NDArray[np.float64], moments: NDArray[np.float64] | float) -> NDArray[np.int64]:
    """Numbers of the frames that are on the screen at some moments; the first or the last one beyond the ends."""
    return np.clip(np.searchsorted(times, np.asarray(moments), "right") - 1, 0, len(times) - 1)


def middles(start: float, end: float, count: int) -> NDArray[np.float64]:
    """The middle of each of `count` equal parts of a time."""
    return start + (np.arange(count) + 0.5) / count * (end - start)


def clip_times(moments: NDArray[np.float64], count: int, seconds: float) -> NDArray[np.float64]:
    """(T, K) times, evenly spaced around each of T moments: the middles of K parts of so many seconds."""
    return moments[:, None] + middles(-seconds / 2, seconds / 2, max(1, count))[:count]
