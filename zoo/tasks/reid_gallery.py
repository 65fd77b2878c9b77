"""People in a gallery: folders into it, pictures asked of it."""

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.images import Item
from zoo.data.reid_sets import Clue, clue
from zoo.data.texts import check_name
from zoo.data.urls import is_url
from zoo.errors import InputError
from zoo.index.exact import NOTHING, Hits
from zoo.index.store import Store
from zoo.results.classification import Embedding
from zoo.results.ranking import Hit, Ranking
from zoo.tasks.decode import reread
from zoo.tasks.pipeline import Pipeline

__all__ = ["Indexing", "knows", "matching", "search_people", "vanished"]

EVERY, SECONDS = 1024, 10.0  # pictures, or the time, between two steps onto the disk
QUERIES = 128  # searched at once

Search = Callable[[Any, int], Hits]


def knows(labels: Mapping[str, Clue], path: str) -> Clue:
    """What a table says of a picture, and where it is silent, its path."""
    told, guessed = labels.get(path, Clue()), clue(path)
    return Clue(told.label or guessed.label, told.camera or guessed.camera, told.modality or guessed.modality)


@dataclass
class Indexing:
    """Pictures on their way into a gallery; what is in it already, unchanged, is passed over.

    After each `EVERY` pictures, or `SECONDS`, what is there is written in one step. An interrupted run loses no more
    than that, and goes on from there when it is started again.

    Args:
        pipe: From `reid_pipeline`.
        store: The gallery.
        labels: What is known of pictures, by absolute path.
    """

    pipe: Pipeline[Embedding]
    store: Store
    labels: Mapping[str, Clue] = field(default_factory=dict)
    unchanged: int = field(default=0, init=False)
    added: int = field(default=0, init=False)
    _known: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict, init=False)
    _twice: list[int] = field(default_factory=list, init=False)  # rows whose picture has a later row

    def __post_init__(self) -> None:
        for row, item in self.store.items():
            earlier = self._known.get(item["path"])
            if earlier:
                self._twice.append(earlier[0])
            self._known[item["path"]] = row, item

    def run(self, sources: Iterable[Item]) -> Iterator[Embedding]:
        """Embed what is new or changed and put it in; yields each result, the bad ones with `.error`.

        Args:
            sources: Paths, or the errors that stand in bad ones' place.
        """
        waiting: list[tuple[Embedding, dict[str, Any]]] = []
        started = time.monotonic()
        try:
            for result in self.pipe(self._fresh(sources)):
                if not result.error:
                    waiting.append((result, self._item(result)))
                yield result
                if len(waiting) >= EVERY or (waiting and time.monotonic() - started > SECONDS):
                    self._write(waiting)
                    waiting, started = [], time.monotonic()
        finally:
            if waiting or self._twice:
                self._write(waiting)

    def _fresh(self, sources: Iterable[Item]) -> Iterator[Item]:
        seen: set[str] = set()
        for source in sources:
            path = _absolute(source) if isinstance(source, str | os.PathLike) else None
            if path is None:
                yield source
            elif path not in seen:
                seen.add(path)
                try:
                    check_name(path)
                except InputError as error:
                    yield error
                    continue
                if self._is_unchanged(path):
                    self.unchanged += 1
                else:
                    yield path

    def _is_unchanged(self, path: str) -> bool:
        _, item = self._known.get(path, (0, None))
        return item is not None and _stamp(path) == (item["bytes"], item["mtime"])

    def _item(self, result: Embedding) -> dict[str, Any]:
        size, mtime = _stamp(result.source)
        known = knows(self.labels, result.source)
        item: dict[str, Any] = {"path": result.source, "bytes": size, "mtime": mtime, "modality": result.modality}
        return item | {key: value for key, value in (("label", known.label), ("camera", known.camera)) if value}

    def _write(self, waiting: list[tuple[Embedding, dict[str, Any]]]) -> None:
        replaced = [self._known[item["path"]][0] for _, item in waiting if item["path"] in self._known]
        vectors = np.stack([result.vector for result, _ in waiting]) if waiting else np.zeros((0, self.store.facts.dim))
        self.store.append(vectors, [item for _, item in waiting], removing=[*replaced, *self._twice])
        self._twice = []
        self.added += len(waiting)


def matching(store: Store, patterns: Sequence[str]) -> list[int]:
    """Rows of pictures whose path is one of these, matches one as a glob, or lies in one as a folder."""
    paths = [(row, item["path"]) for row, item in store.items()]
    there = {path for _, path in paths}
    plain = [_absolute(pattern) for pattern in patterns]
    # a path that is there is no pattern, even with brackets in it
    globs = [_pattern(one) for one, path in zip(patterns, plain, strict=True) if path not in there]
    return [
        row
        for row, path in paths
        if any(path == one or path.startswith(f"{one}{os.sep}") for one in plain)
        or any(fnmatchcase(path, one) for one in globs)
    ]


def vanished(store: Store) -> list[int]:
    """Rows of pictures that are no longer where they were."""
    return [row for row, item in store.items() if not is_url(item["path"]) and not Path(item["path"]).exists()]


def search_people(
    pipe: Pipeline[Embedding],
    store: Store,
    queries: Iterable[Item],
    k: int = 10,
    *,
    threshold: float | None = None,
    labels: Mapping[str, Clue] | None = None,
    search: Search | None = None,
) -> Iterator[Ranking]:
    """The nearest pictures of a gallery for each query, in order; a bad query gives a ranking with `.error`.

    Args:
        pipe: From `reid_pipeline`, of the network that made the gallery.
        store: The gallery.
        queries: Pictures.
        k: Answers wanted. The query itself, where it is in the gallery, is left out of them.
        threshold: Answers of a smaller similarity are left out.
        labels: What is known of pictures, by absolute path.
        search: In place of the gallery's own exact search.

    Raises:
        UsageError: The gallery was made by another network or other preprocessing.
        InputError: The gallery is empty.
    """
    total = len(store)
    if not total:
        raise InputError(f"{store.name} is empty", hint="put pictures into it: zoo reid index FOLDER --gallery DIR")
    named = labels or {}
    results = pipe(_absolute(query) if isinstance(query, str | os.PathLike) else query for query in queries)
    while batch := list(islice(results, QUERIES)):
        good = [result for result in batch if not result.error]
        answers = iter(_answers(store, search or store.search, good, k) if good else ())
        for result in batch:
            if result.error:
                yield Ranking(result.source, error=result.error)
            else:
                yield _ranking(result, next(answers), k, total, threshold, named)


Found = list[tuple[float, dict[str, Any]]]


def _answers(store: Store, search: Search, queries: list[Embedding], k: int) -> list[Found]:
    """Score and item of the best of each query, one more than wanted: one of them may be the query itself."""
    hits = search(np.stack([query.vector for query in queries]), k + 1)
    wanted = sorted({row for row in hits.rows.ravel().tolist() if row != NOTHING})
    items = dict(zip(wanted, store.take_items(wanted), strict=True))
    return [
        [(score, items[row]) for row, score in zip(rows, scores, strict=True) if row != NOTHING]
        for rows, scores in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True)
    ]


def _ranking(
    query: Embedding, found: Found, k: int, total: int, threshold: float | None, labels: Mapping[str, Clue]
) -> Ranking:
    mine = knows(labels, query.source)
    others = [(score, item) for score, item in found if item["path"] != query.source]
    said = [query.note] if query.note else []
    if len(others) < len(found):
        said.append("the query is in the gallery and left out")
    kept = others[:k]
    if threshold is not None:
        kept = [(score, item) for score, item in kept if score >= threshold]
        if not kept:
            said.append(f"nothing reaches {threshold:g}; the best is {others[0][0]:.3f}" if others else "nothing else")
    if kept and all(item["modality"] == query.modality for _, item in kept):
        said.append(f"query and answers are all {query.modality}, which the network was not trained to compare")
    return Ranking(
        query.source,
        tuple(_hit(rank, score, item, mine) for rank, (score, item) in enumerate(kept, 1)),
        label=mine.label,
        camera=mine.camera,
        modality=query.modality,
        searched=total,
        note="; ".join(said) or None,
        picture=partial(reread, query.source),
    )


def _hit(rank: int, score: float, item: Mapping[str, Any], query: Clue) -> Hit:
    label = item.get("label")
    return Hit(
        rank=rank,
        path=item["path"],
        score=score,
        label=label,
        camera=item.get("camera"),
        modality=item["modality"],
        is_right=label == query.label if label and query.label else None,
        picture=partial(reread, item["path"]),
    )


def _absolute(source: str | os.PathLike[str]) -> str:
    """A path that says the same everywhere; an address stays as it is."""
    text = os.fspath(source)
    return text if is_url(text) else os.path.abspath(text)  # noqa: PTH100 - Path.absolute leaves .. in


def _pattern(text: str) -> str:
    """The same of a glob; the folder that a relative one starts from is none."""
    if is_url(text):
        return text
    return os.path.normpath(os.path.join(glob.escape(os.getcwd()), text))  # noqa: PTH109, PTH118 - a text


def _stamp(path: str) -> tuple[int, int]:
    """Length and time of a file: what a changed picture has changed; an address has none."""
    if is_url(path):
        return 0, 0
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # gone, or no path at all: decoding says so
        return -1, -1
    return status.st_size, status.st_mtime_ns
