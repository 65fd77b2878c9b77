"""Videos as windows of frames, decoded in threads a bounded distance ahead of who takes them.

PyAV and Pillow let go of Python's lock while they work, so threads suffice: a network computes meanwhile.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zoo.data.moments import Timeline, Window, cut_windows, frames_at, moments, read_timeline
from zoo.data.transforms import Preprocess
from zoo.errors import InputError, ZooError
from zoo.registry.card import Input

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Clip", "Entry", "batches_of_all", "clips_of", "clips_of_all"]

AHEAD = 8  # clips of a video that wait to be taken
VIDEOS = 16  # videos a thread may have begun before they are taken; short ones have a clip each, and batches take many
PATIENCE = 0.1  # seconds between looks at whether anybody still takes them


@dataclass(frozen=True, eq=False)
class Clip:
    """A window of a video on its way to a network.

    Attributes:
        window: Where it is, in seconds.
        pixels: (F, H, W, 3) uint8; frames beyond `count` repeat the last one.
        times: (F,) seconds at which the frames come.
        count: Frames that are the clip's.
        line: The video's timeline.
    """

    window: Window
    pixels: NDArray[np.uint8]
    times: NDArray[np.float64]
    count: int
    line: Timeline


Entry = tuple[int, Clip | ZooError | None]  # number of a video, and a window of it, what is wrong, or its end


def clips_of(path: str, input: Input, frames: int, window: float, stride: float) -> Iterator[Clip | InputError]:
    """The windows of one video, in order; where it breaks off, an error in place of the rest.

    Args:
        path: The file.
        input: Preprocessing of a frame.
        frames: F.
        window: Seconds of a window; infinity for the whole video.
        stride: Seconds from a window's start to the next one's.
    """
    try:
        line = read_timeline(path)
    except InputError as error:
        yield error
        return
    cut = Preprocess(input).crop
    windows = cut_windows(line.end, window, stride)
    wanted = [np.unique(line.places(moments(part, frames))) for part in windows]
    needed = sorted({int(place) for places in wanted for place in places})
    source = frames_at(line, needed)
    held: dict[int, tuple[NDArray[np.uint8], float]] = {}
    reached = iter(needed)
    for part, places in zip(windows, wanted, strict=True):
        while places[-1] not in held:
            place, frame = next(reached), next(source)
            if isinstance(frame, InputError):
                yield frame
                return
            held[place] = cut(_picture(frame.pixels)), frame.time
        clip = [held[int(place)] for place in places]
        full = clip + clip[-1:] * (frames - len(clip))
        yield Clip(part, np.stack([x for x, _ in full]), np.array([time for _, time in full]), len(clip), line)
        held = {place: frame for place, frame in held.items() if line.times[place] >= part.start}
    if line.is_cut:
        yield InputError(f"{path} breaks off after {line.times[-1]:.1f} s", hint="fetch it again")


def _picture(pixels: NDArray[np.uint8]) -> "Image":
    from PIL import Image

    return Image.fromarray(pixels)


def clips_of_all(
    paths: Sequence[str], input: Input, frames: int, window: float, stride: float, workers: int
) -> Iterator[Entry]:
    """The windows of all videos, in order, each with its video's number; None behind the last one of a video.

    Args:
        paths: Files.
        input: Preprocessing of a frame.
        frames: F.
        window: Seconds of a window.
        stride: Seconds between them.
        workers: Threads that decode, a video each; 0 decodes when a window is asked for.
    """
    for batch in batches_of_all(paths, input, frames, window, stride, workers, 1):
        yield from batch


def batches_of_all(
    paths: Sequence[str], input: Input, frames: int, window: float, stride: float, workers: int, size: int
) -> Iterator[list[Entry]]:
    """The same in batches of `size` windows, or of fewer where the next one is not decoded yet: nobody waits for it."""
    ready: list[Entry] = []
    clips = 0
    for entry in _entries(paths, input, frames, window, stride, workers):
        if entry is not None:
            ready.append(entry)
            clips += isinstance(entry[1], Clip)
        if ready and (entry is None or clips == size):
            yield ready
            ready, clips = [], 0
    if ready:
        yield ready


def _entries(
    paths: Sequence[str], input: Input, frames: int, window: float, stride: float, workers: int
) -> Iterator[Entry | None]:
    """As `clips_of_all`, and None for each wait."""
    if workers == 0:
        for number, path in enumerate(paths):
            for clip in clips_of(path, input, frames, window, stride):
                yield number, clip
            yield number, None
        return
    stopped = threading.Event()
    waiting: list[Queue[Clip | ZooError | None]] = [Queue(AHEAD) for _ in paths]
    started = threading.Semaphore(VIDEOS * workers)  # videos that may have clips waiting

    def decode(number: int) -> None:
        while not started.acquire(timeout=PATIENCE):
            if stopped.is_set():
                return
        try:
            for clip in clips_of(paths[number], input, frames, window, stride):
                if not _put(waiting[number], clip, stopped):
                    return
            _put(waiting[number], None, stopped)
        except Exception as error:  # a fault of ours or of a library must not leave the taker waiting for ever
            _put(waiting[number], InputError(f"{paths[number]}: {error}", hint="fetch or save it again"), stopped)
            _put(waiting[number], None, stopped)

    with ThreadPoolExecutor(workers, "decode") as pool:
        try:
            for number in range(len(paths)):
                pool.submit(decode, number)
            for number, queue in enumerate(waiting):
                while True:
                    if queue.empty():
                        yield None
                    found = queue.get()
                    if found is None:
                        started.release()
                    yield number, found
                    if found is None:
                        break
        finally:
            stopped.set()
            for queue in waiting:
                with suppress(Empty):
                    while True:
                        queue.get_nowait()
            pool.shutdown(cancel_futures=True)


def _put(queue: "Queue[Clip | ZooError | None]", clip: Clip | ZooError | None, stopped: threading.Event) -> bool:
    """Hand a clip over; false when nobody takes clips any more."""
    while not stopped.is_set():
        with suppress(Full):
            queue.put(clip, timeout=PATIENCE)
            return True
    return False
