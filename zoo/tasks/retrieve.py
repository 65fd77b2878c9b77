"""An index of videos: windows of each, K vectors a window, in a gallery that grows and goes on where it stopped."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.texts import check_name
from zoo.data.windows import Clip, Entry, batches_of_all
from zoo.errors import InputError, ZooError
from zoo.index.gallery import Gallery
from zoo.index.store import Store, open_or_create
from zoo.tasks.retrievers import Retriever

__all__ = ["Indexed", "clip_tensors", "index_videos", "peaks", "place_of"]

EDGE = 1 << 20  # bytes of a file's beginning and end that its digest is made of
FLUSH_ITEMS, FLUSH_SECONDS = 512, 30.0  # what an interruption costs at most
SHARDS = 16  # more are put together at the end


@dataclass
class Indexed:
    """What became of the videos.

    Attributes:
        added: Videos that are new, or changed, in the index.
        unchanged: Videos that were there already.
        removed: Videos that are gone, and now gone from the index.
        windows: Items that were added.
        failed: What is wrong with videos that could not be read, or not to their ends.
    """

    added: int = 0
    unchanged: int = 0
    removed: int = 0
    windows: int = 0
    failed: list[ZooError] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        counts = {"added": self.added, "unchanged": self.unchanged, "removed": self.removed, "windows": self.windows}
        return {**counts, "failed": [error.message for error in self.failed]}


def index_videos(
    paths: Sequence[str],
    folder: Path,
    retriever: Retriever,
    *,
    window: float = 10.0,
    stride: float = 5.0,
    batch: int | None = None,
    workers: int = 1,
    update: bool = False,
    address: str | None = None,
    report: Callable[[], None] = lambda: None,
) -> Indexed:
    """Add videos to an index; those that are in it and have not changed are passed over.

    Args:
        paths: Video files.
        folder: Where the index is, or will be.
        retriever: What encodes windows.
        window: Seconds of a window; infinity for whole videos.
        stride: Seconds from a window's start to the next one's.
        batch: Windows that are encoded together at most; by default 16 on a GPU, and 4 elsewhere, where more gain
            nothing.
        workers: Threads that decode while the network computes.
        update: Whether videos of the index that are no longer there leave it.
        address: A database in place of the folder, see `zoo.index.store`.
        report: Called after each video.

    Raises:
        UsageError: The index was made by another network or with other windows.
        InputError: It cannot be written.
    """
    settings = {"window": window if window < float("inf") else None, "stride": stride, "frames": retriever.frames}
    store = open_or_create(str(folder), retriever.facts(settings), address)
    done = Indexed()
    known: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for row, item in store.items():
        known.setdefault(item["path"], []).append((row, item))
    if update:
        gone = [name for name in known if not place_of(name, folder).exists()]
        store.remove([row for name in gone for row, _ in known[name]])
        done.removed = len(gone)
    new: list[tuple[str, dict[str, Any]]] = []
    for path in dict.fromkeys(paths):
        name = os.path.relpath(path, folder) if address is None else str(Path(path).absolute())
        try:
            check_name(name)
            told = _file_facts(path)
        except InputError as error:
            done.failed.append(error)
            report()
            continue
        if name in known and known[name][0][1]["sha1"] == told["sha1"]:
            done.unchanged += 1
            report()
        else:
            new.append((path, {"path": name, **told}))
    writer = _Writer(store, {name: [row for row, _ in rows] for name, rows in known.items()})
    size = batch or (16 if retriever.device.type == "cuda" else 4)
    files = [path for path, _ in new]
    batches = batches_of_all(files, retriever.input, retriever.frames, window, stride, workers, size)
    for number, clip, vectors, times in _encoded(batches, retriever):
        if clip is None:
            done.added += writer.finish(new[number][1]["path"])
            report()
        elif isinstance(clip, ZooError):
            done.failed.append(clip)
        else:
            writer.add({**new[number][1], **_about(clip), "peaks": times}, vectors)
            done.windows += 1
    writer.flush()
    if isinstance(store, Gallery) and store.info()["shards"] > SHARDS:
        store.compact()
    return done


def place_of(name: str, folder: Path) -> Path:
    """The file of an item: names are relative to the index's folder, so that both can be moved together."""
    return Path(os.path.normpath(folder / name))


def _file_facts(path: str) -> dict[str, Any]:
    """Size, and a digest of the beginning and the end.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digest = hashlib.sha1(file.read(EDGE), usedforsecurity=False)
            file.seek(max(EDGE, size - EDGE))
            digest.update(file.read(EDGE))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint="check the path") from None
    return {"size": size, "sha1": digest.hexdigest()}


def _about(clip: Clip) -> dict[str, Any]:
    width, height = clip.line.size
    return {
        "start": round(clip.window.start, 3),
        "end": round(clip.window.end, 3),
        "fps": round(clip.line.rate, 3),
        "width": width,
        "height": height,
    }


def clip_tensors(clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
    """(B, F, H, W, 3) uint8 frames, and (B, F) which of them are the clips' own."""
    video = torch.stack([torch.from_numpy(clip.pixels) for clip in clips])
    counts = torch.tensor([clip.count for clip in clips])
    return video, torch.arange(video.shape[1]) < counts[:, None]


def peaks(masks: Tensor, clips: Sequence[Clip]) -> list[list[float]]:
    """For each clip and prototype, when the frame comes that its mask (B, N, K) lies on most."""
    frames = clips[0].pixels.shape[0]
    seen = masks.shape[1] // max(1, masks.shape[1] // frames)
    weight = torch.unflatten(masks, 1, (seen, -1)).sum(2)  # (B, F, K)
    return [
        [round(float(clip.times[at]), 3) for at in best]
        for clip, best in zip(clips, weight.argmax(1).tolist(), strict=True)
    ]


def _encoded(
    batches: Iterator[list[Entry]], retriever: Retriever
) -> Iterator[tuple[int, Clip | ZooError | None, Any, list[float]]]:
    """Clips with their vectors and peaks, errors and ends of videos as they come."""
    for batch in batches:
        own = [clip for _, clip in batch if isinstance(clip, Clip)]
        found = retriever.clips(*clip_tensors(own)) if own else None
        at = iter(zip(found.vectors, peaks(found.masks, own), strict=True)) if found else iter(())
        for number, clip in batch:
            vectors, times = next(at) if isinstance(clip, Clip) else (None, [])
            yield number, clip, vectors, times


class _Writer:
    """Puts whole videos into an index, a batch of them at a time: what is there is never a part of a video.

    Args:
        store: The index.
        replaced: Rows of videos that are there in an older form.
    """

    def __init__(self, store: Store, replaced: dict[str, list[int]]) -> None:
        self.store, self.replaced = store, replaced
        self.vectors: list[Tensor] = []
        self.items: list[dict[str, Any]] = []
        self.removing: list[int] = []
        self.whole = 0  # items of videos that are finished
        self.since = time.monotonic()

    def add(self, item: dict[str, Any], vectors: Tensor) -> None:
        """One window of the video at hand."""
        self.items.append(item)
        self.vectors.append(vectors)

    def finish(self, name: str) -> bool:
        """The video at hand is complete; false if nothing came of it."""
        if len(self.items) == self.whole:
            return False
        self.removing += self.replaced.get(name, [])
        self.whole = len(self.items)
        if self.whole >= FLUSH_ITEMS or time.monotonic() - self.since > FLUSH_SECONDS:
            self.flush()
        return True

    def flush(self) -> None:
        """Write what is complete."""
        if self.items:
            self.store.append(torch.stack(self.vectors), self.items, removing=self.removing)
        self.vectors, self.items, self.removing, self.whole = [], [], [], 0
        self.since = time.monotonic()
