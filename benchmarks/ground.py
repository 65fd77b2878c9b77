"""Grounding: memory in chunks, the cost of one more sentence, the speed of drawing.

python benchmarks/ground.py memory    peak memory of a window of 64 frames, whole and in chunks
python benchmarks/ground.py query     CPU time of the first sentence, video included, and of two more
python benchmarks/ground.py render    seconds of 640x360 video drawn and encoded in a second of one core

One thread, CPU time of the whole process, weights random. The network has ResNet-50, SlowFast and three layers of width
128, so that a CPU bears it; --full takes ResNet-101 and the paper's six layers of 256.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from zoo.data.video import Frame, VideoReader, VideoWriter
from zoo.models.stvgformer import STVGFormer
from zoo.registry.names import resolve
from zoo.results.tube import Span, Tube
from zoo.tasks.ground import GroundPipeline, Settings
from zoo.tasks.ground_files import render

SENTENCES = ("the person in red walks to the left", "the person in blue waves a hand", "the person in red jumps")
SIZE = {False: 96, True: 224}  # short side of the frames


def network(full: bool) -> STVGFormer:
    torch.manual_seed(0)
    words = tuple({word for sentence in SENTENCES for word in sentence.split()})
    sizes = {} if full else {"dim": 128, "heads": 4, "depth": 3, "hidden": 512}
    image = "resnet101" if full else "resnet50"
    return STVGFormer(image, "slowfast", "word", words, size=SIZE[full], long_size=640, **sizes).eval()


def pipeline(full: bool, chunk: int | None) -> GroundPipeline:
    settings = Settings(chunk=chunk, min_score=0.0)
    return GroundPipeline(
        resolve("stvgformer_r101"), network(full), settings, device=torch.device("cpu"), dtype=torch.float32
    )


def film(path: Path, seconds: int, rate: int = 25, size: tuple[int, int] = (640, 360)) -> Path:
    """Noise that moves, so that the encoder has work."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (size[1] // 8, size[0] // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with VideoWriter(path, size, Fraction(rate), preset="ultrafast") as writer:
        for i in range(seconds * rate):
            writer.write(Frame(np.roll(scene, 2 * i, 1), i / rate))
    return path


def measured_memory(path: Path, full: bool, chunk: int) -> None:
    """In a process of its own: peak memory above what lies there before the video, and the answer."""
    pipe = pipeline(full, chunk or None)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (window,) = pipe.encode(path).windows
    with torch.inference_mode():
        found = pipe.model.ground(window.seen, pipe.read(SENTENCES[:1]), chunk=chunk or None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = {"boxes": found.boxes.tolist(), "scores": found.scores.triu().tolist()}
    print(json.dumps({"megabytes": (peak - before) / 1024, **answer}))


def memory(full: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = film(Path(folder, "film.mp4"), 20)
        found = {}
        for chunk in (0, 8):
            command = [sys.executable, __file__, "memory", "--one", str(path), "--chunk", str(chunk)]
            done = subprocess.run([*command, *(["--full"] * full)], capture_output=True, text=True, check=True)
            found[chunk] = json.loads(done.stdout)
    whole = found[0]
    for chunk, row in found.items():
        apart = [np.abs(np.array(row[key]) - np.array(whole[key])).max() for key in ("boxes", "scores")]
        share = row["megabytes"] / whole["megabytes"]
        print(f"chunk {chunk or 'none'}: {row['megabytes']:.0f} MB, {share:.2f} of the whole;")
        print(f"  boxes differ by {apart[0]:.1g} of the picture's sides, logits of spans by {apart[1]:.1g}")


def query(full: bool) -> None:
    pipe = pipeline(full, 8)
    with tempfile.TemporaryDirectory() as folder:
        path = film(Path(folder, "film.mp4"), 20)
        start = time.process_time()
        seen = pipe.encode(path)
        pipe(seen, SENTENCES[0])
        first = time.process_time() - start
        more = []
        for sentence in SENTENCES[1:]:
            start = time.process_time()
            pipe(seen, sentence)
            more.append(time.process_time() - start)
    print(f"first {first:.1f} s, one more {np.mean(more):.2f} s: {100 * np.mean(more) / first:.1f}%")


def drawing() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = film(Path(folder, "film.mp4"), 10)
        with VideoReader(path) as reader:
            times = np.array([frame.time for frame in reader])
        count = len(times)
        boxes = np.tile(np.array([200.0, 80.0, 320.0, 300.0], np.float32), (count, 1))
        span = Span(0.0, 10.0, 0.9)
        tube = Tube(str(path), SENTENCES[0], span, times, np.arange(count), boxes, np.zeros(count, bool))
        rates = []
        for i in range(3):
            start = time.process_time()
            render([tube], Path(folder, f"{i}.mp4"))
            rates.append(10.0 / (time.process_time() - start))
        print(f"{np.median(rates):.1f} seconds of video in a second of CPU time (median of 3)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("memory", "query", "render"))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--one", type=Path)
    parser.add_argument("--chunk", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.one:
        measured_memory(asked.one, asked.full, asked.chunk)
    elif asked.what == "memory":
        memory(asked.full)
    elif asked.what == "query":
        query(asked.full)
    else:
        drawing()


if __name__ == "__main__":
    main()
