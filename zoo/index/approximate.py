"""Nearly the nearest items, in a fraction of the time: a graph beside a gallery, by usearch.

The graph is over signs: one bit a number, which way it lies from the gallery's mean. Bits are compared twenty times as
fast as numbers and take a sixteenth of their room; a few times as many candidates as wanted are then scored from the
vectors themselves, as an exact search scores them. So only a neighbour that the graph misses is ever wrong, and how
many it misses is measured when it is built. A hundred bits or more are needed to tell neighbours apart: below some
hundred numbers a vector, measure first.

Why usearch: a graph of bits that is mapped from its file rather than read, and no second OpenMP in a process that runs
torch. The graph knows the rows that were there when it was built; rows behind them are searched exactly, and removed
ones are left out.
"""

import contextlib
import os
import warnings
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import InputError, IntegrityError, UsageError, one_line
from zoo.extras import need
from zoo.hub.checkpoint import write_whole
from zoo.index.exact import NOTHING, Block, Hits, rescored, search_blocks
from zoo.index.gallery import Gallery
from zoo.index.vectors import queries_of

__all__ = ["Approximate", "build_approximate", "open_approximate"]

GRAPH, FACTS = "approximate.usearch", "approximate.json"
CONNECTIVITY, BUILD_EFFORT, EFFORT = 16, 64, 200
SPARE, FEWEST = 10, 200  # candidates that are scored again: as many times those wanted, and at least
BLOCK = 4096  # items at a time while building
SAMPLE, K = 200, 10  # queries, and neighbours of each, behind the stated recall


class _Facts(msgspec.Struct, kw_only=True):
    """What a graph covers.

    Attributes:
        rows: Rows of the gallery when it was built.
        numbering: Of the gallery's rows; a compaction numbers them anew.
        effort: Candidates that a search keeps.
        mean: (D,) of the gallery, from which signs are taken.
        recall: Share of the exact ten nearest that it finds, on a sample of the gallery's own vectors, nudged.
    """

    rows: int
    numbering: int
    effort: int
    mean: list[float]
    recall: float = 0.0


class Approximate:
    """An open graph over a gallery.

    Args:
        gallery: The gallery.
        graph: usearch's index.
        facts: What it covers.
    """

    def __init__(self, gallery: Gallery, graph: Any, facts: _Facts) -> None:
        self.gallery = gallery
        self.graph = graph
        self.facts = facts

    @property
    def recall(self) -> float:
        """Share of the exact ten nearest that it finds, in [0, 1]."""
        return self.facts.recall

    def search(self, queries: Any, k: int) -> Hits:
        """Nearly the k best items of each query; the arguments and errors of `Gallery.search`."""
        wanted = queries_of(queries, self.gallery.facts.dim, k)
        near = self._near(wanted, max(FEWEST, SPARE * k))
        behind, _ = search_blocks(wanted, self._tail, k) if self.gallery.rows > self.facts.rows else (near[:, :0], None)
        return rescored(wanted, np.concatenate((near, behind), 1), self.gallery.take, k)

    def _near(self, queries: Tensor, candidates: int) -> NDArray[np.int64]:
        """(Q, C) rows of the graph that may be the nearest, padded.

        Where most of a neighbourhood was removed, the search goes on until half of the candidates are there.
        """
        removed, per_item = self.gallery.removed_rows(), self.gallery.facts.per_item
        enough = min(candidates, self.facts.rows - int((removed < self.facts.rows).sum())) / 2
        count, most = min(candidates, self.facts.rows) * per_item, self.facts.rows * per_item
        signs = _signs(queries, torch.tensor(self.facts.mean))
        while True:
            self.graph.expansion_search = max(self.facts.effort, count)
            keys = self.graph.search(signs, count, threads=torch.get_num_threads()).keys
            each = np.asarray(keys, np.int64).reshape(len(queries), -1)
            found = [np.setdiff1d(own // per_item, removed) for own in each]  # each row once
            # fewer vectors than were asked for: no more can be reached in the graph
            done = [len(rows) >= enough or len(np.unique(own)) < count for rows, own in zip(found, each, strict=True)]
            if count == most or all(done):
                return np.stack([_padded(rows, count) for rows in found])
            count = min(2 * count, most)

    def _tail(self) -> list[Block]:
        """The vectors behind what the graph covers."""
        tail = []
        for first, vectors, alive in self.gallery.blocks():
            cut = max(0, self.facts.rows - first)
            if cut < len(vectors):
                tail.append((first + cut, vectors[cut:], None if alive is None else alive[cut:]))
        return tail


def build_approximate(gallery: Gallery, *, effort: int = EFFORT) -> Approximate:
    """Build a graph over all of a gallery, measure what it misses, and write it beside the gallery.

    Args:
        gallery: It; nobody may compact it meanwhile.
        effort: Candidates that a search keeps: more find more and take longer.

    Raises:
        UsageError: usearch is missing, or the gallery is empty.
        InputError: It cannot be written; the old one stays.
    """
    if not len(gallery):
        raise UsageError(f"{gallery.name} is empty", hint="index pictures first")
    graph = _empty(gallery)
    per_item, mean = gallery.facts.per_item, _mean(gallery)
    for first, vectors, _ in gallery.blocks():
        for start in range(0, len(vectors), BLOCK):
            signs = _signs(vectors[start : start + BLOCK].reshape(-1, gallery.facts.dim), mean)
            keys = np.arange(len(signs), dtype=np.uint64) + np.uint64((first + start) * per_item)
            graph.add(keys, signs, threads=torch.get_num_threads())
    facts = _Facts(rows=gallery.rows, numbering=gallery.numbering, effort=effort, mean=mean.tolist())
    found = Approximate(gallery, graph, facts)
    facts.recall = _measured(found)
    part = gallery.folder / f".{GRAPH}.{os.getpid()}.part"
    try:
        graph.save(str(part))
        part.replace(gallery.folder / GRAPH)
    except (OSError, RuntimeError) as error:  # usearch's own is the latter, for a full disk too
        with contextlib.suppress(OSError):
            part.unlink()
        raise InputError(
            f"{gallery.folder / GRAPH} cannot be written: {one_line(error)}", hint="make room, or check its permissions"
        ) from None
    write_whole(gallery.folder / FACTS, msgspec.json.encode(facts))
    return found


def open_approximate(gallery: Gallery) -> Approximate:
    """The graph beside a gallery, mapped.

    Raises:
        UsageError: There is none, it is older than a compaction, or usearch is missing.
        IntegrityError: It is damaged.
    """
    path = gallery.folder / FACTS
    again = f"build it: zoo reid index --gallery {gallery.folder} --approximate"
    if not path.is_file():
        raise UsageError(f"{gallery.name} has no approximate index", hint=again)
    try:
        facts = msgspec.json.decode(path.read_bytes(), type=_Facts)
    except msgspec.DecodeError as error:
        raise IntegrityError(f"{path} is damaged: {error}", hint=again) from None
    if facts.numbering != gallery.numbering:
        raise UsageError(f"the approximate index of {gallery.name} is older than its compaction", hint=again)
    graph = _empty(gallery)
    try:
        graph.view(str(gallery.folder / GRAPH))
    except Exception as error:  # usearch raises RuntimeError of many kinds
        raise IntegrityError(f"{gallery.folder / GRAPH} is damaged: {one_line(error)}", hint=again) from None
    return Approximate(gallery, graph, facts)


def _empty(gallery: Gallery) -> Any:
    need("ann", "an approximate index")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own imports
        from usearch.index import Index
    return Index(
        ndim=gallery.facts.dim,
        metric="hamming",
        dtype="b1",
        connectivity=CONNECTIVITY,
        expansion_add=BUILD_EFFORT,
    )


def _signs(vectors: Tensor, mean: Tensor) -> NDArray[np.uint8]:
    """(n, D) to (n, D / 8): a bit a number, set above the mean."""
    return np.packbits((vectors.float() > mean).numpy(), axis=1)


def _mean(gallery: Gallery) -> Tensor:
    """(D,) mean of all vectors, removed ones too."""
    total = torch.zeros(gallery.facts.dim, dtype=torch.float64)
    for _, vectors, _ in gallery.blocks():
        for part in torch.split(vectors, BLOCK):
            total += part.float().sum((0, 1))
    return (total / (gallery.rows * gallery.facts.per_item)).float()


def _padded(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows, and `NOTHING` behind them."""
    return np.concatenate((rows, np.full(count - len(rows), NOTHING)))


def _measured(found: Approximate) -> float:
    """Recall of the ten nearest for vectors of the gallery with noise of a third of their length."""
    rng = np.random.default_rng(0)
    gallery = found.gallery
    rows = np.sort(rng.choice(gallery.rows, min(SAMPLE, gallery.rows), replace=False))
    vectors = gallery.take(rows)[:, 0].float().numpy()
    noise = rng.standard_normal(vectors.shape).astype(np.float32)
    noise *= np.linalg.norm(vectors, axis=1, keepdims=True) / (3 * np.linalg.norm(noise, axis=1, keepdims=True))
    exact, near = gallery.search(vectors + noise, K), found.search(vectors + noise, K)
    hits = [
        len(np.intersect1d(a[a != NOTHING], b)) / (a != NOTHING).sum()
        for a, b in zip(exact.rows, near.rows, strict=True)
    ]
    return float(np.mean(hits))
