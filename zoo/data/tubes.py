"""Files of spatio-temporal grounding: annotations of HC-STVG and VidSTG, predictions, and tubes in seconds of our own.

Boxes are corners in pixels here, whatever a file holds; frames count from 0, and a span ends before its `end`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from zoo.data.texts import read_json, read_text
from zoo.errors import InputError, one_line
from zoo.metrics.grounding import FrameTube

__all__ = [
    "Annotation",
    "Annotations",
    "challenge_dict",
    "hcstvg_dict",
    "mot_rows",
    "read_annotations",
    "read_hcstvg",
    "read_mot",
    "read_predictions",
    "read_tubes",
    "read_vidstg",
    "tube_line",
    "vidstg_dict",
]

HCSTVG_SECONDS = 20.0
VIDSTG_KINDS = {"questions": "interrogative", "captions": "declarative"}
Boxes = NDArray[np.float64]
E = TypeVar("E")


@dataclass(frozen=True, eq=False)
class Annotation:
    """A sentence and the tube that it means.

    Attributes:
        key: What tells this sample from others: a video's name, and what else it takes.
        video: File name.
        sentence: The sentence, or question.
        tube: In frames of the video, or of the part that is used.
        rate: Frames a second; 0 where the file does not say.
        size: Width and height; None where the file does not say.
        kind: "declarative" or "interrogative".
        start: Frame at which the used part of the video begins.
    """

    key: str
    video: str
    sentence: str
    tube: FrameTube
    rate: float
    size: tuple[int, int] | None = None
    kind: str = "declarative"
    start: int = 0


@dataclass(frozen=True)
class Annotations:
    """What a file holds, and what of it could not be used: one line each."""

    samples: list[Annotation]
    bad: list[str]


def read_annotations(path: Path, *, peer_compat: bool = False) -> Annotations:
    """Annotations of HC-STVG (either version), VidSTG, or our own JSON lines; the file's content tells which.

    Raises:
        InputError: It cannot be read, or is none of these.
    """
    if path.suffix == ".jsonl":
        return read_tubes(path)
    content = read_json(path)
    if isinstance(content, dict) and all(isinstance(entry, dict) and "st_frame" in entry for entry in content.values()):
        return read_hcstvg(content, peer_compat=peer_compat)
    if isinstance(content, dict) and isinstance(content.get("videos"), list) and "trajectories" in content:
        return read_vidstg(content["videos"], content["trajectories"])
    raise InputError(f"{path} holds no annotations that are known", hint="HC-STVG, VidSTG with boxes, or our .jsonl")


def read_hcstvg(content: Mapping[str, Any], *, peer_compat: bool = False) -> Annotations:
    """Annotations of HC-STVG v1 or v2.

    The span is as long as there are boxes: `ed_time` disagrees with them in some files.

    Args:
        content: The JSON document.
        peer_compat: Take `st_frame`, which counts from 1, for a number from 0, as published loaders do.
    """

    def sample(video: str, entry: Mapping[str, Any]) -> list[Annotation]:
        boxes = _corners(entry["bbox"])
        start = int(entry["st_frame"]) - (0 if peer_compat else 1)
        frames = int(entry["img_num"])
        height, width = entry["img_size"] if "img_size" in entry else (entry["height"], entry["width"])
        tube = FrameTube(start, start + len(boxes), boxes, None, frames)
        sentence = entry["English"] if "English" in entry else entry["caption"]
        rate, size = frames / HCSTVG_SECONDS, (int(width), int(height))
        return [Annotation(video, video, str(sentence), tube, rate, size)]

    return _collected(content.items(), sample)


def read_vidstg(
    videos: Iterable[Mapping[str, Any]], trajectories: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> Annotations:
    """Annotations of VidSTG over the used segment of each video; its first frame is frame 0.

    Args:
        videos: Entries of the annotation file.
        trajectories: VidOR's boxes: video, then target, then frame, to `{"bbox": {"xmin": ...}}` or four numbers.
    """

    def sample(key: str, asked: tuple[Any, Any, str]) -> list[Annotation]:
        entry, one, kind = asked
        begin, end = (int(entry["used_segment"][limit]) for limit in ("begin_fid", "end_fid"))
        first, last = (int(entry["temporal_gt"][limit]) for limit in ("begin_fid", "end_fid"))
        video, size = str(entry["vid"]), (int(entry["width"]), int(entry["height"]))
        track = trajectories[video][str(one["target_id"])]
        boxes = np.array([_xyxy(track[str(frame)]) for frame in range(first, last)], np.float64).reshape(-1, 4)
        tube = FrameTube(first - begin, last - begin, boxes, None, end - begin)
        return [Annotation(key, video, str(one["description"]), tube, float(entry["fps"]), size, kind, begin)]

    return _collected(_vidstg_sentences(videos), sample)


def _vidstg_sentences(videos: Iterable[Any]) -> Iterator[tuple[str, tuple[Any, Any, str]]]:
    """Each sentence with its entry and kind, under a key of its own: a video has an entry for each of its relations."""
    counts: Counter[str] = Counter()
    for number, entry in enumerate(videos):
        if not isinstance(entry, Mapping):
            yield f"entry {number}", (entry, None, "")  # whose reading says what is wrong
            continue
        video = str(entry.get("vid"))
        for name, kind in VIDSTG_KINDS.items():
            asked = entry.get(name) or []
            for one in asked if isinstance(asked, list) else [asked]:
                yield f"{video}/{counts[video]}", (entry, one, kind)
                counts[video] += 1


def read_tubes(path: Path) -> Annotations:
    """Our JSON lines: `{"video": ..., "query": ..., "start": s, "end": s, "boxes": [{"t": s, "xyxy": [...]}, ...]}`.

    Frames are counted by the boxes' times, from the smallest distance between two of them.
    """

    def sample(name: str, line: str) -> list[Annotation]:
        entry = json.loads(line)
        times = np.array([box["t"] for box in entry["boxes"]], np.float64)
        boxes = np.array([box["xyxy"] for box in entry["boxes"]], np.float64).reshape(-1, 4)
        rate = float(entry.get("fps_source") or (1 / np.diff(times).min() if len(times) > 1 else 1.0))
        tube = _filled(np.concatenate([np.round(times * rate)[:, None], boxes], 1))
        size = tuple(entry["size"]) if entry.get("size") else None
        video = str(entry.get("video") or entry["source"])
        return [Annotation(f"{video}: {entry['query']}", video, str(entry["query"]), tube, rate, size)]

    lines = [(f"line {number}", line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    return _collected(lines, sample)


def read_predictions(path: Path, truths: Iterable[Annotation]) -> dict[str, FrameTube]:
    """Predictions in the challenge's form, or our JSON lines, by the keys of the truths.

    Raises:
        InputError: The file cannot be read or an entry is not what it should be.
    """
    if path.suffix == ".jsonl":
        found = read_tubes(path)
        if found.bad:
            raise InputError(f"{path}: {found.bad[0]}", hint="one tube a line, as zoo ground --save writes them")
        return _by_key(found.samples, list(truths))
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is no table of predictions", hint="{video: {st_frame, ed_frame, bbox}}")
    tubes = {}
    for key, entry in content.items():
        try:
            start, end = int(entry["st_frame"]), int(entry["ed_frame"]) + 1
            boxes = np.array([entry["bbox"][str(frame)] for frame in range(start, end)], np.float64).reshape(-1, 4)
            tubes[key] = FrameTube(start, end, boxes)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{path}: {key}: {one_line(error)}", hint="one box for each frame, both ends included"
            ) from None
    return tubes


def challenge_dict(tubes: Mapping[str, FrameTube]) -> dict[str, Any]:
    """The challenge's prediction file: both ends included, one box a frame."""
    document = {}
    for key, tube in tubes.items():
        frames = np.arange(tube.start, tube.end)
        boxes = {str(frame): box for frame, box in zip(frames, tube.at(frames).round(2).tolist(), strict=True)}
        document[key] = {"st_frame": tube.start, "ed_frame": tube.end - 1, "bbox": boxes}
    return document


def hcstvg_dict(samples: Iterable[Annotation]) -> dict[str, Any]:
    """Annotations in the form of HC-STVG v2, one sentence a video; `read_hcstvg` reads them again.

    Raises:
        ValueError: A video has two sentences, or it is not known how many frames or pixels it has.
    """
    document: dict[str, Any] = {}
    for sample in samples:
        tube, size = sample.tube, sample.size
        if sample.video in document:
            raise ValueError(f"{sample.video} has two sentences")
        if size is None or tube.video_frames is None:
            raise ValueError(f"{sample.video}: its size and number of frames are not known")
        corners = tube.at(np.arange(tube.start, tube.end))
        document[sample.video] = {
            "bbox": np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).round(2).tolist(),
            "st_time": tube.start / sample.rate,
            "ed_time": tube.end / sample.rate,
            "st_frame": tube.start + 1,
            "img_num": tube.video_frames,
            "img_size": [size[1], size[0]],
            "English": sample.sentence,
        }
    return document


def vidstg_dict(samples: Iterable[Annotation]) -> dict[str, Any]:
    """Annotations in the form of VidSTG with VidOR's boxes in it, an entry a sentence; `read_vidstg` reads both again.

    Raises:
        ValueError: It is not known how many frames or pixels a video has.
    """
    names = {kind: name for name, kind in VIDSTG_KINDS.items()}
    videos: list[dict[str, Any]] = []
    tracks: dict[str, dict[str, Any]] = {}
    for sample in samples:
        tube, size, begin = sample.tube, sample.size, sample.start
        if size is None or tube.video_frames is None:
            raise ValueError(f"{sample.video}: its size and number of frames are not known")
        known = tracks.setdefault(sample.video, {})
        target = len(known)
        frames = np.arange(tube.start, tube.end)
        known[str(target)] = {
            str(frame + begin): {"bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))}
            for frame, box in zip(frames.tolist(), tube.at(frames).round(2).tolist(), strict=True)
        }
        asked: dict[str, list[Any]] = {name: [] for name in VIDSTG_KINDS}
        asked[names[sample.kind]].append({"description": sample.sentence, "target_id": target})
        videos.append(
            {
                "vid": sample.video,
                "frame_count": begin + tube.video_frames,
                "fps": sample.rate,
                "width": size[0],
                "height": size[1],
                "used_segment": {"begin_fid": begin, "end_fid": begin + tube.video_frames},
                "temporal_gt": {"begin_fid": begin + tube.start, "end_fid": begin + tube.end},
                **asked,
            }
        )
    return {"videos": videos, "trajectories": tracks}


def tube_line(sample: Annotation) -> str:
    """An annotation as one of our JSON lines, without its line break; `read_tubes` reads it again."""
    rate, frames = sample.rate or 1.0, np.arange(sample.tube.start, sample.tube.end)
    boxes = [
        {"t": round(frame / rate, 4), "xyxy": box}
        for frame, box in zip(frames.tolist(), sample.tube.at(frames).round(2).tolist(), strict=True)
    ]
    limits = {"start": round(sample.tube.start / rate, 4), "end": round(sample.tube.end / rate, 4)}
    entry = {"video": sample.video, "query": sample.sentence, **limits, "fps_source": rate, "size": sample.size}
    return json.dumps({**entry, "boxes": boxes}, ensure_ascii=False)


def read_mot(path: Path) -> dict[int, FrameTube]:
    """Tubes of a MOT file by their track; frames that a track leaves out lie between those that it has.

    Raises:
        InputError: It cannot be read, or a line is none of MOT's.
    """
    rows: dict[int, list[list[float]]] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            frame, track, left, top, width, height = (float(x) for x in line.split(",")[:6])
            rows.setdefault(int(track), []).append([int(frame) - 1, left, top, left + width, top + height])
        except (ValueError, OverflowError):
            raise InputError(
                f"{path}: line {number} is no row of MOT", hint="frame,track,left,top,width,height,..."
            ) from None
    return {track: _filled(np.array(sorted(found))) for track, found in rows.items()}


def mot_rows(frames: NDArray[np.int64], boxes: NDArray[np.floating], track: int, score: float) -> list[list[float]]:
    """Rows of a MOT file: frame (from 1), track, left, top, width, height, confidence, -1, -1, -1."""
    placed = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).round(2).tolist()
    rows = zip(frames.tolist(), placed, strict=True)
    return [[frame + 1, track, *box, round(score, 4), -1, -1, -1] for frame, box in rows]


def _filled(rows: Boxes) -> FrameTube:
    """A tube of rows (K, 5) of a frame and its corners, rising; boxes of frames between two rows lie between theirs."""
    every = np.arange(int(rows[0, 0]), int(rows[-1, 0]) + 1)
    boxes = np.stack([np.interp(every, rows[:, 0], side) for side in rows[:, 1:].T], 1)
    return FrameTube(int(every[0]), int(every[-1]) + 1, boxes)


def _by_key(found: list[Annotation], truths: list[Annotation]) -> dict[str, FrameTube]:
    """Tubes that were counted in frames by their own times, under the key of the truth with that video and sentence."""
    keys = {(Path(truth.video).name, truth.sentence): truth for truth in truths}
    tubes = {}
    for sample in found:
        truth = keys.get((Path(sample.video).name, sample.sentence))
        tubes[truth.key if truth else sample.key] = sample.tube
    return tubes


def _collected(entries: Iterable[tuple[str, E]], read: Callable[[str, E], list[Annotation]]) -> Annotations:
    samples, bad = [], []
    for name, entry in entries:
        try:
            samples += read(name, entry)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:  # int() of an infinity
            bad.append(f"{name}: {one_line(error)}")
    return Annotations(samples, bad)


def _corners(boxes: Any) -> Boxes:
    """(N, 4) of left, top, width, height to corners."""
    array = np.array(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], 1)


def _xyxy(box: Any) -> list[float]:
    box = box.get("bbox", box) if isinstance(box, Mapping) else box
    return [float(box[key]) for key in ("xmin", "ymin", "xmax", "ymax")] if isinstance(box, Mapping) else list(box)
