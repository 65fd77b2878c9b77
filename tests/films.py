"""Small videos for tests: drawn people, and plain frames whose brightness says which they are."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from zoo.data.video import Frame, VideoWriter
from zoo.data.zooclips import film, plan_clip


def write_plain(path: Path, times, height=48, width=64) -> Path:
    """Frame i is of the grey level 16 + 4 i; times in seconds."""
    with VideoWriter(path, (width, height), Fraction(25)) as writer:
        for i, time in enumerate(times):
            writer.write(Frame(np.full((height, width, 3), 16 + 4 * i, np.uint8), time))
    return path


def write_people(path: Path, seed: int, seconds: float = 1.0, rate: int = 8) -> Path:
    """The drawn clip of a seed, stretched over some seconds."""
    pixels = film(plan_clip(seed), round(seconds * rate))
    with VideoWriter(path, pixels.shape[2:0:-1], Fraction(rate)) as writer:
        for i, frame in enumerate(pixels):
            writer.write(Frame(frame, i / rate))
    return path


def write_sound(path: Path, av) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        for at in range(0, 8192, 1024):
            part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            part.sample_rate, part.pts = 8000, at
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    return path
