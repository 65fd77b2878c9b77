"""Re-identification against plain ways: embedding, exact search, approximate search, figures.

    python benchmarks/reid.py metrics embed large    some minutes
    python benchmarks/reid.py search --latent 64     1,000,000 rows of 2,048: 4 GB of disk, 9 GB of memory, ten minutes

CPU time of one thread; both sides in one process, in turns; a ratio is the median over rounds.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import machine
from PIL import Image
from safetensors.torch import save_file

import zoo
from zoo.index.facts import Facts
from zoo.index.gallery import Gallery
from zoo.metrics.reid import reid_scores
from zoo.tasks.reid import reid_pipeline

DIM, QUERIES, TOP = 2048, 100, 10
PEOPLE = 20  # pictures of a person


def seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Best times of both, and the median of theirs / ours."""
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return min(a for a, _ in pairs), min(b for _, b in pairs), float(np.median([b / a for a, b in pairs]))


def resident(kind: str) -> float:
    """GB of this process's memory, as the kernel counts it: VmRSS (now), VmHWM (at most), RssAnon (not of files)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1e6


def grown(work: Callable[[], object]) -> tuple[float, object]:
    """GB by which memory grew at most, mapped files among it, and what the work gave."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS")
    found = work()
    return resident("VmHWM") - before, found


def looped(dist, qid, gid, qcam, gcam, sysu: bool) -> tuple[float, float]:
    """mAP and rank-1 in the published manner: one query after the other, each with its own stable sort."""
    precisions, firsts = [], []
    for i in range(len(qid)):
        order = np.argsort(dist[i], kind="stable")
        own = (qcam[i] == 3) & (gcam[order] == 2) if sysu else (gid[order] == qid[i]) & (gcam[order] == qcam[i])
        kept = gid[order][~own]
        right = kept == qid[i]
        if not right.any():
            continue
        count = right.cumsum()
        precisions.append((count / np.arange(1, len(right) + 1))[right].mean())
        if sysu:  # the first occurrence of each identity
            _, first = np.unique(kept, return_index=True)
            right = right[np.sort(first)]
        firsts.append(right[0])
    return float(np.mean(precisions)), float(np.mean(firsts))


def metrics(rounds: int) -> None:
    rng = np.random.default_rng(0)
    qid, gid = rng.integers(0, 1000, 4000), rng.integers(0, 1000, 20_000)
    qcam, gcam = rng.choice([3, 6], 4000), rng.choice([1, 2, 4, 5], 20_000)
    dist = rng.standard_normal((4000, 20_000)).astype(np.float32)
    for protocol, cameras in (("sysu", qcam), ("market", rng.choice([1, 2, 4, 5], 4000))):
        labels = (qid, gid, cameras, gcam)
        ours = reid_scores(dist, *labels, protocol)
        loop = looped(dist, *labels, protocol == "sysu")
        assert abs(ours.mAP - loop[0]) < 1e-12, (ours.mAP, loop)
        assert ours.rank(1) == loop[1]
        a, b, ratio = in_turns(
            lambda labels=labels, protocol=protocol: reid_scores(dist, *labels, protocol),
            lambda labels=labels, protocol=protocol: looped(dist, *labels, protocol == "sysu"),
            rounds,
        )
        print(f"metrics, {protocol}, 4,000 x 20,000: {a:.2f} s; loop {b:.2f} s; ratio {ratio:.1f}", flush=True)


def embed(name: str, count: int, batch_size: int, rounds: int) -> None:
    """Pictures a second of the pipeline, from memory and from files, beside the network on a batch that lies ready."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "random.safetensors")  # time does not depend on them
        save_file(zoo.create_model(name).state_dict(), weights)
        pipe = reid_pipeline(name, device="cpu", workers=0, batch_size=batch_size, checkpoint_path=weights)
        _, height, width = pipe.card.input.size
        pictures = list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))
        paths = [Path(folder, "visible", f"{i}.jpg") for i in range(count)]
        paths[0].parent.mkdir()
        for path, pixels in zip(paths, pictures, strict=True):
            Image.fromarray(pixels).save(path, quality=90)
        batch = torch.randn(batch_size, 3, height, width)

        @torch.inference_mode()
        def bare() -> None:
            for _ in range(count // batch_size):
                pipe.model.embed(batch, "visible")

        bare()
        for what, inputs in (("arrays in memory", pictures), ("JPEG files", paths)):
            a, b, ratio = in_turns(lambda inputs=inputs: list(pipe(inputs)), bare, rounds)
            print(f"embed, {name}, {what}: {count / a:.1f}/s; network alone {count / b:.1f}/s; {ratio:.3f}", flush=True)


def drawn(count: int, people: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Vectors of length 1 of people drawn at random, each with as much of its own as of the person's."""
    who = torch.randint(0, len(people), (count,), generator=generator)
    return F.normalize(people[who] + F.normalize(torch.randn(count, DIM, generator=generator)))


def search(rows: int, folder: Path, rounds: int, latent: int, *, nearly: bool) -> None:
    """Exact search beside a float32 matmul and topk; then, if `nearly`, approximate search beside exact search.

    People lie anywhere in the vectors' space, or, as a network puts them, along `latent` directions of it.
    """
    from zoo.index.approximate import build_approximate

    generator = torch.Generator().manual_seed(0)
    people = torch.randn(rows // PEOPLE, latent or DIM, generator=generator)
    if latent:
        people = people @ torch.randn(latent, DIM, generator=generator)
    people = F.normalize(people).half()
    facts = Facts(task="reid", model="made.up", weights="", preprocessing="", dim=DIM)
    gallery = Gallery.create(folder / "gallery", facts)
    for start in range(0, rows, 16384):
        count = min(16384, rows - start)
        gallery.append(drawn(count, people, generator), [{"path": str(i)} for i in range(start, start + count)])
    queries = drawn(QUERIES, people, generator)
    del people
    gallery = Gallery.open(folder / "gallery")  # mapped anew: nothing of it is in this process
    ours, exact = grown(lambda: gallery.search(queries, TOP))
    file = 2 * rows * DIM / 1e9
    before = resident("RssAnon")
    plain = torch.empty((rows, DIM))
    for first, vectors, _ in gallery.blocks():
        plain[first : first + len(vectors)] = vectors[:, 0]
    scores = queries @ plain.T
    theirs = resident("RssAnon") - before
    assert (scores.topk(TOP).indices.numpy() == exact.rows).mean() > 0.999  # float32 sums swap a few neighbours
    del scores
    a, b, ratio = in_turns(
        lambda: gallery.search(queries, TOP), lambda peer=plain: (queries @ peer.T).topk(TOP), rounds
    )
    print(
        f"exact, {rows:,} x {DIM}, {QUERIES} queries: {a:.2f} s, {ours:.2f} GB at most, {file:.2f} of it the file; ",
        end="",
    )
    print(f"float32 matmul and topk {b:.2f} s, {theirs:.2f} GB; ratio of times {ratio:.2f}", flush=True)
    if not nearly:
        return
    del plain
    start = time.thread_time()
    graph = build_approximate(gallery)
    built = time.thread_time() - start
    near = graph.search(queries, TOP)
    recall = np.mean([len(np.intersect1d(x, y)) / TOP for x, y in zip(exact.rows, near.rows, strict=True)])
    a, b, ratio = in_turns(lambda: graph.search(queries, TOP), lambda: gallery.search(queries, TOP), rounds)
    size = (folder / "gallery" / "approximate.usearch").stat().st_size / 1e6
    print(f"approximate: {a:.3f} s, exact {b:.2f} s; ratio {ratio:.1f}; recall@{TOP} {recall:.3f}, ", end="")
    print(f"stated {graph.recall:.3f}; built in {built:.0f} s, {size:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=("metrics", "embed", "large", "exact", "search"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latent", type=int, default=0, help="directions that people differ in; 0 for all")
    parser.add_argument("--folder", type=Path, help="where the gallery goes, kept out of memory file systems")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if "metrics" in args.what:
        metrics(args.rounds)
    if "embed" in args.what:
        embed("sgiel_pico", 320, 64, args.rounds)
    if "large" in args.what:
        embed("sgiel_r50", 16, 16, args.rounds)
    if {"exact", "search"} & set(args.what):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            search(args.rows, Path(folder), args.rounds, args.latent, nearly="search" in args.what)


if __name__ == "__main__":
    main()
