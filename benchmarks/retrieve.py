"""Searching and building an index of videos.

    python benchmarks/retrieve.py --search            # 100,000 windows x 4 prototypes x 256, one core
    python benchmarks/retrieve.py --overlap VIDEO...  # decoding beside the network against one after the other
    python benchmarks/retrieve.py --overlap VIDEO... --waits 0.2   # the same beside a device that takes 0.2 s a window

Search: CPU time of one thread, both in turns, medians. NumPy's loop multiplies a window at a time, as a script would
that keeps float16 vectors in an array. Overlap: wall time, in turns, medians; decoding alone and the network alone say
what limits it; with --waits a network that only waits stands for one on a device of its own. Needs the extra `conse`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine

from zoo.data.windows import Clip, clips_of_all
from zoo.index.facts import Facts
from zoo.index.gallery import Gallery
from zoo.models.tmvm import Prototypes
from zoo.tasks.retrieve import clip_tensors, index_videos
from zoo.tasks.retrievers import Retriever, open_retriever

WINDOWS, PROTOTYPES, DIM, K = 100_000, 4, 256, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--overlap", nargs="+", metavar="VIDEO")
    parser.add_argument("--waits", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        if args.search:
            search(Path(folder), args.rounds)
        if args.overlap:
            overlap(Path(folder), args.overlap, args.rounds, args.waits)


def search(folder: Path, rounds: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((WINDOWS, PROTOTYPES, DIM), np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float16)
    facts = Facts(task="retrieve", model="x", weights="x", preprocessing="x", dim=DIM, per_item=PROTOTYPES)
    gallery = Gallery.create(folder / "idx", facts)
    gallery.append(vectors, [{"path": str(i)} for i in range(WINDOWS)])
    query = rng.standard_normal((1, DIM), np.float32)
    query /= np.linalg.norm(query)
    ours, loops = [], []
    for _ in range(rounds):
        spent, hits = cpu(lambda: gallery.search(query, K))
        ours.append(spent)
    for _ in range(2):
        spent, best = cpu(lambda: numpy_loop(vectors, query[0]))
        loops.append(spent)
    assert hits.rows[0].tolist() == best, "the two disagree"
    mine, theirs = statistics.median(ours), statistics.median(loops)
    print(f"search {WINDOWS:,} x {PROTOTYPES} x {DIM}: {mine * 1e3:.1f} ms a query ({min(ours) * 1e3:.1f} at best)")
    print(f"NumPy, a window at a time: {theirs * 1e3:.0f} ms; ratio {theirs / mine:.0f}")


def numpy_loop(vectors: np.ndarray, query: np.ndarray) -> list[int]:
    scores = np.empty(len(vectors), np.float32)
    for i, window in enumerate(vectors):
        scores[i] = (window.astype(np.float32) @ query).max()
    return np.argsort(-scores, kind="stable")[:K].tolist()


def cpu(call):
    start = time.thread_time()
    result = call()
    return time.thread_time() - start, result


class Waiting(Retriever):
    """Takes as long a window as it is told and computes nothing."""

    seconds = 0.0

    def clips(self, video: torch.Tensor, seen: torch.Tensor) -> Prototypes:
        time.sleep(self.seconds * len(video))
        vectors = torch.nn.functional.normalize(torch.ones(len(video), self.per_item, self.dim), dim=2)
        return Prototypes(vectors, torch.ones(len(video), self.frames, self.per_item) / self.frames)


def overlap(folder: Path, videos: list[str], rounds: int, waits: float) -> None:
    retriever = open_retriever("conse", device="cpu")
    if waits:
        retriever.__class__, Waiting.seconds = Waiting, waits
    clips = decoded(videos, retriever)
    retriever.clips(*clip_tensors(clips[:2]))  # loads and warms up
    print(f"{len(clips)} windows of {len(videos)} videos", flush=True)
    rounds_of: dict[str, list[float]] = {name: [] for name in ("overlapped", "in turns", "decoding", "network")}
    for turn in range(rounds):
        for name, workers in (("overlapped", 1), ("in turns", 0)):
            out = folder / f"{turn}_{workers}"
            rounds_of[name].append(
                wall(lambda: index_videos(videos, out, retriever, window=10, stride=5, workers=workers))  # noqa: B023
            )
        rounds_of["decoding"].append(wall(lambda: decoded(videos, retriever)))
        rounds_of["network"].append(wall(lambda: encoded(clips, retriever)))
        print("  ".join(f"{name} {times[-1]:.2f} s" for name, times in rounds_of.items()), flush=True)
    both, apart, decoding, network = rounds_of.values()
    found = statistics.median(a / b for a, b in zip(apart, both, strict=True))
    most = statistics.median((d + n) / max(d, n) for d, n in zip(decoding, network, strict=True))
    print(f"ratio {found:.2f}; at most {most:.2f} with these shares")


def wall(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def encoded(clips: list[Clip], retriever: Retriever) -> None:
    for at in range(0, len(clips), 4):
        retriever.clips(*clip_tensors(clips[at : at + 4]))


def decoded(videos: list[str], retriever) -> list[Clip]:
    found = clips_of_all(videos, retriever.input, retriever.frames, 10, 5, 0)
    return [clip for _, clip in found if isinstance(clip, Clip)]


if __name__ == "__main__":
    main()
