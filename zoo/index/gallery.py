"""A gallery on disk that grows: vectors and what they stand for, in a folder.

    gallery.json             the facts, and the list of shards that count: replaced whole, so every change is one step
    00000001.safetensors     `vectors`, (n, K, D) float16, never changed once it is listed
    00000001.jsonl           n items, one JSON object a line

A reader sees the list as it was when it opened; files that are not listed are what an interrupted writer left, and the
next writer clears them away. One process writes at a time, any number read.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from zoo.errors import InputError, IntegrityError, UsageError
from zoo.hub.checkpoint import read_contents, write_whole
from zoo.index.exact import Block, Hits, rescored, search_blocks
from zoo.index.facts import Facts
from zoo.index.vectors import narrowed, queries_of

__all__ = ["Gallery"]

FORMAT = 1
MANIFEST, LOCK = "gallery.json", ".lock"
SHARD = 64 << 20  # bytes of vectors in a full shard
TRIES = 5  # to open, while another process compacts


class _Shard(msgspec.Struct, kw_only=True):
    name: str
    items: int
    removed: list[int] = []  # rows of the shard that no longer count


class _Manifest(msgspec.Struct, kw_only=True):
    format: int
    facts: Facts
    next: int = 1  # number of the next shard
    numbering: int = 1  # of the rows: a compaction begins another
    shards: list[_Shard] = []


@dataclass(frozen=True)
class _Part:
    """One shard, mapped: its first row, its vectors and which of them count."""

    shard: _Shard
    first: int
    vectors: Tensor
    alive: Tensor | None


class Gallery:
    """An open gallery: a sequence of rows, some of them removed, that is searched by inner product.

    `Gallery.create` and `Gallery.open` make one. Rows are numbered in the order of appending, until `compact`.

    Args:
        folder: Where it lies.
        manifest: Its list.
        parts: Its shards.
    """

    def __init__(self, folder: Path, manifest: _Manifest, parts: list[_Part]) -> None:
        self.folder = folder
        self._manifest = manifest
        self._parts = parts

    @classmethod
    def create(cls, folder: Path, facts: Facts) -> "Gallery":
        """A new, empty gallery.

        Raises:
            UsageError: There is one, or other files are there.
            InputError: The folder cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            taken = [entry.name for entry in folder.iterdir() if entry.name != LOCK]
        except OSError as error:
            raise InputError(f"{folder} cannot be made: {error.strerror}", hint="choose another place") from None
        if taken:
            raise UsageError(f"{folder} is not empty: it has {taken[0]}", hint="give a new folder, or an old gallery")
        manifest = _Manifest(format=FORMAT, facts=facts)
        _write(folder, manifest)
        return cls(folder, manifest, [])

    @classmethod
    def open(cls, folder: Path) -> "Gallery":
        """A gallery as it is now.

        Raises:
            UsageError: There is none.
            InputError: It was made by a newer zoo.
            IntegrityError: It is damaged.
        """
        for _ in range(TRIES):
            manifest = _read(folder)
            try:
                return cls(folder, manifest, _mapped(folder, manifest.shards, manifest.facts))
            except FileNotFoundError as error:
                missing = error.filename
                if _read(folder) == manifest:
                    break
        raise IntegrityError(f"{folder} lacks its file {Path(missing).name}", hint="restore it, or index again")

    @staticmethod
    def is_at(folder: Path) -> bool:
        """Whether a folder holds a gallery."""
        return (folder / MANIFEST).is_file()

    @property
    def name(self) -> str:
        """What errors call it."""
        return str(self.folder)

    @property
    def facts(self) -> Facts:
        """What it was made with."""
        return self._manifest.facts

    @property
    def rows(self) -> int:
        """Rows, with those that were removed."""
        return sum(shard.items for shard in self._manifest.shards)

    def __len__(self) -> int:
        return self.rows - self.removed

    def __repr__(self) -> str:
        return f"Gallery({self.folder}: {len(self)} items by {self.facts.model})"

    @property
    def removed(self) -> int:
        """Rows that no longer count and still take room."""
        return sum(len(shard.removed) for shard in self._manifest.shards)

    @property
    def numbering(self) -> int:
        """Which numbering of rows this is: `compact` begins another."""
        return self._manifest.numbering

    def removed_rows(self) -> NDArray[np.int64]:
        """Rows that no longer count, rising."""
        rows = [part.first + i for part in self._parts for i in part.shard.removed]
        return np.array(rows, np.int64)

    def info(self) -> dict[str, Any]:
        """What is known about it, as plain JSON types: the facts, items, removed, shards, bytes."""
        names = [f"{shard.name}{end}" for shard in self._manifest.shards for end in (".safetensors", ".jsonl")]
        return {
            **msgspec.to_builtins(self.facts),
            "format": FORMAT,
            "dtype": "float16",
            "items": len(self),
            "removed": self.removed,
            "shards": len(self._parts),
            "bytes": sum((self.folder / name).stat().st_size for name in names),
        }

    def items(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Row and item of all that count, in order."""
        for part in self._parts:
            gone = set(part.shard.removed)
            for i, line in enumerate(self._lines(part)):
                if i not in gone:
                    yield part.first + i, msgspec.json.decode(line)

    def item(self, row: int) -> dict[str, Any]:
        """What a row stands for."""
        return next(iter(self.take_items([row])))

    def take_items(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """What rows stand for, in their order; a shard is read once for all of them."""
        found: dict[int, dict[str, Any]] = {}
        for part, inside in self._by_part(np.unique(np.asarray(rows, np.int64))):
            lines = self._lines(part)
            found |= {part.first + i: msgspec.json.decode(lines[i]) for i in inside.tolist()}
        return [found[row] for row in rows]

    def take(self, rows: ArrayLike) -> Tensor:
        """(n, K, D) float16, the vectors of rows that rise."""
        wanted = np.asarray(rows, np.int64)
        taken = [part.vectors[torch.from_numpy(inside)] for part, inside in self._by_part(wanted)]
        return torch.cat(taken) if taken else torch.empty((0, self.facts.per_item, self.facts.dim), dtype=torch.float16)

    def blocks(self) -> Iterator[Block]:
        """The vectors from the first row on, mapped rather than read."""
        return ((part.first, part.vectors, part.alive) for part in self._parts)

    def search(self, queries: Any, k: int) -> Hits:
        """The k best items of each query, by the largest inner product with any of an item's vectors; exact.

        Args:
            queries: (Q, D) tensor or array of floats.
            k: Items wanted.

        Raises:
            ValueError: Another shape, a number that is not finite, or a k below 1.
        """
        wanted = queries_of(queries, self.facts.dim, k)
        candidates, _ = search_blocks(wanted, self.blocks, k)
        return rescored(wanted, candidates, self.take, k)

    def append(self, vectors: Any, items: Sequence[Mapping[str, Any]], *, removing: ArrayLike = ()) -> None:
        """Add items, and take rows away, in one step: a reader sees all of it or nothing.

        Args:
            vectors: (n, K, D), or (n, D) where K is 1: tensor or array of floats; kept as float16.
            items: n objects of JSON types.
            removing: Rows that these items replace.

        Raises:
            ValueError: Shapes that do not fit, or numbers that float16 does not hold.
            InputError: The disk is full, another process writes, or one has compacted it since; nothing changed.
        """
        added = narrowed(vectors, len(items), self.facts)
        lines = [msgspec.json.encode(dict(item)) for item in items]
        with self._writing() as manifest:
            self._refuse_renumbered(manifest)
            _mark(manifest, removing)
            old = _mapped(self.folder, self._small_tail(manifest, len(lines)), self.facts)
            gone = [part.first + i for part in old for i in part.shard.removed]
            lines = [*(line for part in old for line in self._lines(part)), *lines]
            new = self._written(manifest, torch.cat([*(part.vectors for part in old), added]), lines)
            if gone:
                new[0].removed = gone
            manifest.shards += new

    def remove(self, rows: ArrayLike) -> None:
        """Let rows count no longer; `compact` gives their room back.

        Raises:
            ValueError: There is no such row.
            InputError: Another process writes or has compacted it since, or nothing can be written.
        """
        with self._writing() as manifest:
            self._refuse_renumbered(manifest)
            _mark(manifest, rows)

    def compact(self) -> None:
        """Write what counts into full shards and let go of the rest; rows are numbered anew.

        Raises:
            InputError: The disk is full, or another process writes; nothing changed.
        """
        with self._writing() as manifest:
            parts = _mapped(self.folder, manifest.shards, manifest.facts)
            manifest.shards = []
            manifest.numbering += 1
            size = self._shard_rows()
            waiting: list[Tensor] = []
            lines: list[bytes] = []
            for part in parts:
                kept = np.setdiff1d(np.arange(part.shard.items), part.shard.removed)
                texts = self._lines(part)
                for start in range(0, len(kept), size):
                    inside = kept[start : start + size]
                    waiting.append(part.vectors[torch.from_numpy(inside)])
                    lines += [texts[i] for i in inside.tolist()]
                    if len(lines) >= size:
                        manifest.shards += self._written(manifest, torch.cat(waiting)[:size], lines[:size])
                        waiting, lines = [torch.cat(waiting)[size:]], lines[size:]
            if lines:
                manifest.shards += self._written(manifest, torch.cat(waiting), lines)

    @contextmanager
    def _writing(self) -> Iterator[_Manifest]:
        """The list as it is now, to be changed; on leaving it is written and this object shows the change."""
        with _locked(self.folder):
            manifest = _read(self.folder)
            _sweep(self.folder, manifest)
            yield manifest
            _write(self.folder, manifest)
            _sweep(self.folder, manifest)
        self._manifest, self._parts = manifest, _mapped(self.folder, manifest.shards, manifest.facts)

    def _refuse_renumbered(self, manifest: _Manifest) -> None:
        """Whoever holds rows of this object would have others removed in their place once the rows have new numbers."""
        if manifest.numbering != self.numbering:
            raise self._was_compacted()

    def _was_compacted(self) -> InputError:
        return InputError(f"{self.folder} was compacted while it was open", hint="open it again")

    def _small_tail(self, manifest: _Manifest, count: int) -> list[_Shard]:
        """Shards taken off the end that are no larger than what comes behind them: many small steps leave few files."""
        tail: list[_Shard] = []
        while manifest.shards and (last := manifest.shards[-1]).items <= min(count, self._shard_rows() - count):
            tail.insert(0, manifest.shards.pop())
            count += last.items
        return tail

    def _written(self, manifest: _Manifest, vectors: Tensor, lines: list[bytes]) -> list[_Shard]:
        """New files, not yet listed."""
        from safetensors.torch import save

        shards = []
        for start in range(0, len(lines), self._shard_rows()):
            part = slice(start, start + self._shard_rows())
            name = f"{manifest.next:08d}"
            manifest.next += 1
            write_whole(self.folder / f"{name}.jsonl", b"".join(line + b"\n" for line in lines[part]))
            write_whole(self.folder / f"{name}.safetensors", save({"vectors": vectors[part].contiguous()}))
            shards.append(_Shard(name=name, items=len(lines[part])))
        return shards

    def _shard_rows(self) -> int:
        return max(1, SHARD // (2 * self.facts.per_item * self.facts.dim))

    def _by_part(self, rows: NDArray[np.int64]) -> Iterator[tuple[_Part, NDArray[np.int64]]]:
        """Rows that rise, cut at the shards' bounds, as numbers within each."""
        if len(rows) and not 0 <= rows[0] <= rows[-1] < self.rows:
            raise ValueError(f"rows {rows[0]} to {rows[-1]} of {self.rows}")
        bounds = np.searchsorted(rows, [part.first for part in self._parts] + [self.rows])
        for part, low, high in zip(self._parts, bounds, bounds[1:], strict=False):
            if low < high:
                yield part, rows[low:high] - part.first

    def _lines(self, part: _Part) -> list[bytes]:
        path = self.folder / f"{part.shard.name}.jsonl"
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            raise self._was_compacted() from None
        if len(lines) != part.shard.items:
            raise IntegrityError(f"{path} has {len(lines)} lines, not {part.shard.items}", hint="index again")
        return lines


def _read(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"there is no gallery in {folder}",
            hint="zoo reid index makes one of pictures, zoo retrieve index of videos",
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from None
    try:
        version = msgspec.json.decode(text, type=dict[str, Any]).get("format")
        if version != FORMAT:
            raise InputError(f"{folder} has the gallery format {version}; this zoo reads {FORMAT}", hint="update zoo")
        return msgspec.json.decode(text, type=_Manifest)
    except (msgspec.DecodeError, ValueError) as error:
        raise IntegrityError(f"{path} is damaged: {error}", hint="restore it, or index again") from None


def _write(folder: Path, manifest: _Manifest) -> None:
    write_whole(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def _mapped(folder: Path, shards: list[_Shard], facts: Facts) -> list[_Part]:
    """Shards, mapped into memory.

    Raises:
        FileNotFoundError: One is gone.
        IntegrityError: One is not what the list says.
    """
    from safetensors.torch import load_file

    parts, first = [], 0
    for shard in shards:
        path = folder / f"{shard.name}.safetensors"
        for file in (path, path.with_suffix(".jsonl")):
            if not file.exists():
                raise FileNotFoundError(2, "gone", str(file))
        contents = read_contents(path)
        expected = {"vectors": (shard.items, facts.per_item, facts.dim)}
        if contents.shapes != expected or contents.dtypes != {"vectors": "F16"}:
            raise IntegrityError(f"{path} holds {contents.shapes}, not {expected}", hint="restore it, or index again")
        alive = None
        if shard.removed:
            alive = torch.ones(shard.items, dtype=torch.bool)
            alive[torch.tensor(shard.removed)] = False
        parts.append(_Part(shard, first, load_file(path)["vectors"], alive))
        first += shard.items
    return parts


def _mark(manifest: _Manifest, rows: ArrayLike) -> None:
    """Add rows to those that are removed."""
    wanted = np.unique(np.asarray(rows, np.int64))
    total = sum(shard.items for shard in manifest.shards)
    if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < total:
        raise ValueError(f"rows {wanted[0]} to {wanted[-1]} of {total}")
    first = 0
    for shard in manifest.shards:
        inside = wanted[(wanted >= first) & (wanted < first + shard.items)] - first
        shard.removed = sorted({*shard.removed, *inside.tolist()})
        first += shard.items


def _sweep(folder: Path, manifest: _Manifest) -> None:
    """Clear away what no list names: the leftovers of an interrupted writer, the shards before a compaction."""
    listed = {shard.name for shard in manifest.shards}
    for path in folder.iterdir():
        is_shard = path.suffix in (".safetensors", ".jsonl") and path.stem.isdigit() and path.stem not in listed
        if is_shard or path.suffix == ".part":
            path.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """This process alone writes; the lock goes with the process, however it ends.

    Raises:
        InputError: Another process writes, or this one may not.
    """
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    except FileNotFoundError:
        raise UsageError(f"there is no gallery in {folder}", hint="make one first") from None
    except OSError as error:
        raise InputError(f"{folder} may not be written to: {error.strerror}", hint="check its permissions") from None
    try:
        if not _try_lock(handle):
            raise InputError(f"another process writes to {folder}", hint="wait until it is done")
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
