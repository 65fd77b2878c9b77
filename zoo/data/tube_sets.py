"""Sets of videos with sentences and tubes as they lie on a disk: HC-STVG, VidSTG, or JSON lines of one's own.

A set is a folder. Its annotations are `train.json`, `train_v2.json`, `train_annotations.json` or `train.jsonl`, and
likewise for other splits; its videos lie anywhere below it under the names that the annotations give. VidSTG's boxes
are VidOR's files, one `VIDEO.json` a video, anywhere below too.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from zoo.data.tubes import Annotation, Annotations, read_annotations, read_vidstg
from zoo.data.video import is_video
from zoo.errors import InputError

__all__ = ["TubeSet", "open_tubes"]

NAMES = ("{}.jsonl", "{}.json", "{}_v2.json", "{}_annotations.json")
KEPT = 8  # files of VidOR's boxes in memory: sentences of a video stand together


@dataclass(frozen=True)
class TubeSet:
    """Sentences with their tubes, and the files of their videos.

    Attributes:
        samples: Those whose video is there.
        videos: Path of each sample's video.
        bad: What could not be used, one line each.
    """

    samples: list[Annotation]
    videos: list[Path]
    bad: list[str]

    def __len__(self) -> int:
        return len(self.samples)


def open_tubes(name: str, split: str, root: Path) -> TubeSet:
    """One part of a set.

    Args:
        name: Folder of the set, below `root` or a path.
        split: Such as "train".
        root: Folder that holds sets.

    Raises:
        InputError: There are no such annotations, they cannot be read, or none of their videos is there.
    """
    folder = root / name
    path = next((path for form in NAMES if (path := folder / form.format(split)).is_file()), None)
    if path is None:
        wanted = ", ".join(form.format(split) for form in NAMES)
        raise InputError(f"{folder} has no annotations of {split!r}", hint=f"one of {wanted} in that folder")
    files = dict(_files(folder))
    found = _vidstg(path, files) or read_annotations(path)
    samples, videos, bad = [], [], list(found.bad)
    for sample in found.samples:
        video = files.get(Path(sample.video).name) or files.get(f"{sample.video}.mp4")
        if video is None:
            bad.append(f"{sample.key}: no video {sample.video}")
        else:
            samples.append(sample)
            videos.append(video)
    if not samples:
        raise InputError(f"{path} holds nothing that can be used", hint=bad[0] if bad else "check the file")
    return TubeSet(samples, videos, bad)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Videos, and what may be VidOR's boxes, by their names."""
    for place, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if is_video(name) or name.endswith(".json"):
                yield name, Path(place, name)


def _vidstg(path: Path, files: Mapping[str, Path]) -> Annotations | None:
    """VidSTG's own file, a list of videos; None where it is another's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else None
    except (OSError, ValueError):
        return None  # the reader of the others says what is wrong
    return read_vidstg(content, _Tracks(files)) if isinstance(content, list) else None


class _Tracks(Mapping[str, Any]):
    """VidOR's boxes of a video: target, then frame, to a box."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files
        self.read = lru_cache(maxsize=KEPT)(self._read)

    def _read(self, video: str) -> dict[str, dict[str, Any]]:
        tracks: dict[str, dict[str, Any]] = {}
        document = json.loads(self.files[f"{video}.json"].read_text(encoding="utf-8"))
        for frame, boxes in enumerate(document["trajectories"]):
            for box in boxes:
                tracks.setdefault(str(box["tid"]), {})[str(frame)] = box["bbox"]
        return tracks

    def __getitem__(self, video: str) -> dict[str, dict[str, Any]]:
        return self.read(video)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)
