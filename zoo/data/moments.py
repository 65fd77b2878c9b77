"""Frames of a video at moments, without decoding all of it: what is there when, windows on it, moments in them.

Time is what each packet says, never a count of frames: containers lie about those, and rates vary. Seconds count from
the first picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo import settings
from zoo.data.video import SLACK, Frame, av_library, damaged, promised, upright
from zoo.errors import InputError

__all__ = ["Timeline", "Window", "cut_windows", "frames_at", "moments", "read_timeline"]

LONGEST = 7 * 86_400.0  # seconds; a timeline beyond them is broken, or a stream without end
FEWEST = 0.5  # share of a window's length that the last one has at least; less is left to the window before
LATE = 1e-6  # seconds that rounding may move a time
LATEST = 0.5  # seconds that the last picture that can be decoded may come before the one that is wanted


@dataclass(frozen=True, eq=False)
class Timeline:
    """When the pictures of a video come.

    Attributes:
        path: The file.
        times: Seconds from the first picture, rising.
        is_key: Which of them decoding can begin at.
        origin: Time of the first picture on the file's own clock.
        size: Width and height as stored, before any rotation.
        rate: Pictures a second, on average.
        promised: Seconds that the file says it has; 0 where it does not.
    """

    path: str
    times: NDArray[np.float64]
    is_key: NDArray[np.bool_]
    origin: float
    size: tuple[int, int]
    rate: float
    promised: float

    @property
    def end(self) -> float:
        """When the last picture ends, if it stays as long as the usual one."""
        usual = float(np.median(np.diff(self.times))) if len(self.times) > 1 else 1 / self.rate
        return float(self.times[-1]) + usual

    @property
    def is_cut(self) -> bool:
        """Whether the file breaks off before the end that it promises."""
        return float(self.times[-1]) + SLACK < self.promised

    def places(self, when: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
        """The picture that is shown at each of some times: the last one that has begun."""
        found = np.searchsorted(self.times, np.asarray(when, np.float64) + LATE, side="right") - 1
        return found.clip(0, len(self.times) - 1)


@dataclass(frozen=True)
class Window:
    """A part of a video, in seconds."""

    start: float
    end: float


def read_timeline(path: str | Path) -> Timeline:
    """The timeline of a video, from its packets; nothing is decoded.

    Raises:
        InputError: It cannot be opened, has no picture, has no end, or has more pixels than the limit.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        if context.width * context.height > settings.max_pixels():
            raise InputError(f"{path} has frames of more pixels than the limit", hint="raise ZOO_MAX_PIXELS")
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        length = promised(container, stream)
        found: list[tuple[float, bool]] = []
        try:
            for packet in container.demux(stream):
                stamp = packet.pts if packet.pts is not None else packet.dts
                if packet.size:
                    found.append((_seconds(stamp, packet.time_base, found, rate), packet.is_keyframe))
                    if found[-1][0] - found[0][0] > LONGEST:
                        raise InputError(f"{path} goes on for more than a week", hint="cut it, or mend its times")
        except (av_library().FFmpegError, OSError, ValueError) as error:
            if not found:
                raise damaged(str(path), error) from error
    if not found:
        raise InputError(f"{path} has no frame", hint="give a video with content")
    order = np.array(sorted(set(found)))
    times, is_key = order[:, 0], order[:, 1].astype(bool)
    size = context.width, context.height
    return Timeline(str(path), times - times[0], is_key, float(times[0]), size, rate, length)


def _seconds(stamp: int | None, base: Any, found: list[tuple[float, bool]], rate: float) -> float:
    if stamp is not None:
        return float(stamp * base)
    return found[-1][0] + 1 / rate if found else 0.0


def _opened(path: str | Path) -> Any:
    """An open container with a picture stream.

    Raises:
        InputError: It is no such file.
    """
    av = av_library()
    if not Path(path).is_file():
        raise InputError(f"{path} is no file", hint="check the path")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise damaged(str(path), error) from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} has no picture", hint="give a video")
    return container


def cut_windows(length: float, window: float, stride: float) -> list[Window]:
    """Windows over a video, each as long as asked; the last may be shorter, and a short video is one window.

    Args:
        length: Of the video, seconds.
        window: Of a window; infinity for the whole.
        stride: From a window's start to the next one's.
    """
    starts = [0.0]
    while starts[-1] + window < length - LATE and starts[-1] + stride + FEWEST * window <= length:
        starts.append(starts[-1] + stride)
    found = [Window(start, min(start + window, length)) for start in starts]
    if stride <= window:  # else gaps are wanted
        found[-1] = Window(starts[-1], length)
    return found


def moments(window: Window, count: int, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
    """A moment out of each of `count` equal parts of a window: the middle, or a random one."""
    width = (window.end - window.start) / count
    inside = np.full(count, 0.5) if rng is None else rng.random(count)
    return window.start + (np.arange(count) + inside) * width


def frames_at(line: Timeline, places: Sequence[int]) -> Iterator[Frame | InputError]:
    """The pictures at places of a timeline, decoded from the nearest key picture before each.

    A picture that cannot be decoded is replaced by the next one that can. Where the rest of the file is damaged, an
    `InputError` is given in place of what is missing.

    Args:
        line: Timeline of the file.
        places: Numbers of pictures, rising.
    """
    try:
        container = _opened(line.path)
    except InputError as error:
        yield error
        return
    with container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # who wants more cores reads more videos side by side
        decoded = _decoded(container, stream, line, 0)
        time, picture, at = -1.0, None, 0
        for place in places:
            key = _key_before(line, place)
            if key > at + 1:
                container.seek(_stamp(line, key, stream), stream=stream)
                decoded = _decoded(container, stream, line, key)
            target = float(line.times[place]) - LATE
            while time < target and (found := next(decoded, None)):
                time, picture = found
                at = int(line.places([time])[0])
            if picture is None or time < target - max(LATEST, 3 / line.rate):
                reached = f"breaks off after {time:.1f} s" if picture else "cannot be decoded"
                yield InputError(f"{line.path} {reached}", hint="fetch or save it again")
                return
            yield Frame(upright(picture), time)


def _key_before(line: Timeline, place: int) -> int:
    """The last picture up to a place that decoding can begin at."""
    keys = np.flatnonzero(line.is_key[: place + 1])
    return int(keys[-1]) if len(keys) else 0


def _stamp(line: Timeline, place: int, stream: Any) -> int:
    return round((line.origin + float(line.times[place])) / float(stream.time_base))


def _decoded(container: Any, stream: Any, line: Timeline, place: int) -> Iterator[tuple[float, Any]]:
    """Times and pictures from where the container is; what cannot be decoded is passed over."""
    faults = (av_library().FFmpegError, OSError, ValueError)
    packets = container.demux(stream)
    time = float(line.times[place])
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except faults:
            return
        try:
            pictures = packet.decode()
        except faults:
            continue
        for picture in pictures:
            if picture.pts is not None:
                time = float(picture.pts * picture.time_base) - line.origin
            else:
                time += 1 / line.rate
            yield time, picture
