"""Tubes as files: drawn into the video, cut out of it, as sheets, as predictions, as a detector's training set."""

import json
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.tubes import challenge_dict, mot_rows
from zoo.data.video import Frame, VideoReader, VideoWriter
from zoo.errors import InputError, UsageError
from zoo.hub.checkpoint import write_whole
from zoo.metrics.grounding import FrameTube
from zoo.results.tube import Tube
from zoo.tasks.draw import kind_of_picture
from zoo.viz.tube import COLOURS, draw_box, draw_progress

__all__ = ["FORMATS", "check_free", "check_kinds", "crop_video", "export_frames", "render", "save_tubes"]

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv")
FORMATS = ("json", "jsonl", "csv", "challenge", "mot")
AROUND = 1.25  # a cut-out shows this many times the largest box


def check_free(paths: Sequence[Path | None], *, force: bool = False) -> None:
    """Refuse to write over what is there, before any work is done.

    Raises:
        UsageError: Something is there, or its folder is not.
    """
    for path in paths:
        if path is None:
            continue
        if path.exists() and not force:
            raise UsageError(f"{path} is there already", hint="--force replaces it, another name keeps it")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"{path.parent} is no folder", hint="make it first")


def check_kinds(
    videos: Sequence[Path | None] = (),
    pictures: Sequence[Path | None] = (),
    tubes: Path | None = None,
    form: str | None = None,
) -> None:
    """Refuse names that stand for no such kind of file, before any work is done.

    Raises:
        UsageError: One does not.
    """
    for video in filter(None, videos):
        _check_video(video)
    for picture in filter(None, pictures):
        kind_of_picture(picture)
    if tubes:
        _form_of(tubes, form)


def render(tubes: Sequence[Tube], out: Path, *, step: Callable[[], None] = lambda: None) -> int:
    """Write the video with the tubes drawn into it, its sound kept; returns the number of frames.

    Args:
        tubes: Of one video, each in a colour of its own.
        out: .mp4, .mov or .mkv.
        step: Called after each frame.

    Raises:
        UsageError: No such kind of video, or the file is the source.
        InputError: The video cannot be read, or `out` cannot be written.
    """
    source = _source(tubes, out)
    good = [tube for tube in tubes if tube.span]
    colours = [colour for _, colour in zip(good, cycle(COLOURS), strict=False)]
    with VideoReader(source) as reader:
        length = _length(reader, good)
        spans = [(tube.span.start / length, tube.span.end / length) for tube in good if tube.span]
        with VideoWriter(out, reader.size, reader.rate, sound_of=source, preset="veryfast") as writer:
            count = 0
            for frame in reader:
                if isinstance(frame, InputError):
                    break
                pixels = frame.pixels.copy()
                for tube, colour in zip(good, colours, strict=True):
                    box = tube.box_at(frame.time)
                    if box is not None and tube.span:
                        draw_box(pixels, box, f"{tube.span.score:.2f}  {tube.query}", colour)
                draw_progress(pixels, min(1.0, frame.time / length), spans, colours)
                writer.write(Frame(pixels, frame.time))
                count += 1
                step()
    return count


def crop_video(tube: Tube, out: Path) -> int:
    """Write the span alone, cut out around who is meant, without sound; returns the number of frames.

    Raises:
        UsageError: No such kind of video, or the file is the source.
        InputError: There is no tube, or a video cannot be read or written.
    """
    source = _source([tube], out)
    if tube.span is None or tube.size is None:
        raise InputError(f"{tube.query!r} was not found, so nothing is cut out", hint="ask for somebody else")
    sides = (tube.boxes[:, 2:] - tube.boxes[:, :2]).max(0) * AROUND
    width, height = (int(min(limit, max(16, round(float(side))))) for limit, side in zip(tube.size, sides, strict=True))
    count = 0
    with VideoReader(source) as reader, VideoWriter(out, (width, height), reader.rate) as writer:
        first = None
        for frame in reader:
            if isinstance(frame, InputError) or frame.time >= tube.span.end:
                break
            box = tube.box_at(frame.time)
            if box is None:
                continue
            first = frame.time if first is None else first
            writer.write(Frame(_cut_out(frame.pixels, box, width, height), frame.time - first))
            count += 1
    return count


def save_tubes(tubes: Sequence[Tube], out: Path, form: str | None = None) -> None:
    """Write tubes for other programs.

    Args:
        tubes: What was found.
        out: File.
        form: One of `FORMATS`; by default what the name ends in.

    Raises:
        UsageError: No such form, or several sentences in one that holds one a video.
        InputError: It cannot be written.
    """
    chosen = _form_of(out, form)
    found = [tube for tube in tubes if tube.span]
    if chosen == "challenge" and len(found) > 1:
        raise UsageError("the challenge's form holds one sentence a video", hint="--format jsonl")
    write_whole(out, _TEXT[chosen](found).encode(errors="backslashreplace"))


def export_frames(tubes: Sequence[Tube], folder: Path, form: str, *, force: bool = False) -> int:
    """Write the frames of tubes with their boxes, as a detector's training set; returns the number of pictures.

    Args:
        tubes: What was found; each sentence is a class.
        folder: Made if missing; `images/` and, beside them, labels.
        form: "yolo" for a text file a picture, "coco" for one `annotations.json`.
        force: Write into a folder that holds something.

    Raises:
        UsageError: No such form, or the folder holds something.
        InputError: Nothing was found, or it cannot be read or written.
    """
    if form not in ("yolo", "coco"):
        raise UsageError(f"no form {form!r} to export", hint="yolo or coco")
    good = [tube for tube in tubes if tube.span and tube.pictures]
    if not good:
        raise InputError("nothing was found, so there is nothing to export", hint="ask for somebody else")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise UsageError(f"{folder} holds something already", hint="choose another, or add --force")
    names = list(dict.fromkeys(tube.query for tube in good))
    marks: dict[int, list[tuple[int, NDArray[np.float32]]]] = {}
    for tube in good:
        for frame, box in zip(tube.frames.tolist(), tube.boxes, strict=True):
            marks.setdefault(frame, []).append((names.index(tube.query), box))
    numbers = sorted(marks)
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for at in range(0, len(numbers), PICTURES):
            few = numbers[at : at + PICTURES]
            assert good[0].pictures is not None
            for number, picture in zip(few, good[0].pictures(few), strict=True):
                picture.save(folder / "images" / f"{number:06d}.jpg", quality=92)
        size = good[0].size or (1, 1)
        (_write_yolo if form == "yolo" else _write_coco)(folder, marks, names, size)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}", hint="check the folder") from None
    return len(numbers)


PICTURES = 200  # held in memory at once


def _write_yolo(folder: Path, marks: dict[int, Any], names: list[str], size: tuple[int, int]) -> None:
    (folder / "labels").mkdir(exist_ok=True)
    for number, boxes in marks.items():
        lines = []
        for name, box in boxes:
            left, top, right, bottom = box / np.array(size * 2)
            middle = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
            lines.append(f"{name} {' '.join(f'{x:.6f}' for x in middle)}\n")
        (folder / "labels" / f"{number:06d}.txt").write_text("".join(lines))
    listed = "\n".join(f"  {i}: {json.dumps(name)}" for i, name in enumerate(names))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images\nval: images\nnames:\n{listed}\n")


def _write_coco(folder: Path, marks: dict[int, Any], names: list[str], size: tuple[int, int]) -> None:
    images = [
        {"id": number, "file_name": f"images/{number:06d}.jpg", "width": size[0], "height": size[1]} for number in marks
    ]
    boxes = [(number, name, box) for number, found in marks.items() for name, box in found]
    annotations = [
        {
            "id": i,
            "image_id": number,
            "category_id": name,
            "bbox": [round(float(x), 2) for x in (*box[:2], *(box[2:] - box[:2]))],
            "area": round(float((box[2:] - box[:2]).prod()), 2),
            "iscrowd": 0,
        }
        for i, (number, name, box) in enumerate(boxes, 1)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document))


def _form_of(out: Path, form: str | None) -> str:
    chosen = form or out.suffix.removeprefix(".")
    if chosen not in FORMATS:
        raise UsageError(f"{out}: no form {chosen!r}", hint=f"--format {', '.join(FORMATS)}")
    return chosen


def _check_video(out: Path) -> None:
    if out.suffix.lower() not in VIDEOS:
        raise UsageError(f"{out} is no video's name", hint=f"call it {', '.join(VIDEOS)}")


def _source(tubes: Sequence[Tube], out: Path) -> str:
    _check_video(out)
    (source,) = {tube.source for tube in tubes}
    if out.exists() and out.samefile(source):
        raise UsageError(f"{out} is the video itself", hint="choose another name")
    return source


def _length(reader: VideoReader, tubes: Sequence[Tube]) -> float:
    """Seconds of the video, as its file says, and at least to the end of every span."""
    said = float(reader.frames / reader.rate) if reader.frames else 0.0
    return max([said, 1 / float(reader.rate), *(tube.span.end for tube in tubes if tube.span)])


def _cut_out(pixels: NDArray[np.uint8], box: NDArray[np.floating], width: int, height: int) -> NDArray[np.uint8]:
    """A part of a size around the middle of a box, moved inside where it reaches over the edge."""
    middle = (box[:2] + box[2:]) / 2
    left = int(np.clip(round(float(middle[0]) - width / 2), 0, pixels.shape[1] - width))
    top = int(np.clip(round(float(middle[1]) - height / 2), 0, pixels.shape[0] - height))
    return pixels[top : top + height, left : left + width]


def _as_json(tubes: Sequence[Tube]) -> str:
    return json.dumps([tube.to_dict() for tube in tubes], indent=1, ensure_ascii=False) + "\n"


def _as_lines(tubes: Sequence[Tube]) -> str:
    return "".join(json.dumps({"video": tube.source, **tube.to_dict()}, ensure_ascii=False) + "\n" for tube in tubes)


def _as_rows(tubes: Sequence[Tube]) -> str:
    lines = ["query,frame,t,left,top,right,bottom,interpolated"]
    for tube in tubes:
        query = '"' + tube.query.replace('"', '""') + '"'
        for frame, time, box, between in zip(tube.frames, tube.times, tube.boxes, tube.interpolated, strict=True):
            lines.append(f"{query},{frame},{time:.4f},{','.join(f'{x:.2f}' for x in box)},{int(between)}")
    return "\n".join(lines) + "\n"


def _as_challenge(tubes: Sequence[Tube]) -> str:
    return json.dumps(challenge_dict({Path(tube.source).name: _in_frames(tube) for tube in tubes})) + "\n"


def _as_mot(tubes: Sequence[Tube]) -> str:
    rows = [
        row
        for track, tube in enumerate(tubes, 1)
        if tube.span
        for row in mot_rows(tube.frames, tube.boxes, track, tube.span.score)
    ]
    return "".join(",".join(f"{x:g}" for x in row) + "\n" for row in rows)


def _in_frames(tube: Tube) -> FrameTube:
    first = int(tube.frames[0])
    return FrameTube(first, first + len(tube), tube.boxes.astype(np.float64))


_TEXT: dict[str, Callable[[Sequence[Tube]], str]] = {
    "json": _as_json,
    "jsonl": _as_lines,
    "csv": _as_rows,
    "challenge": _as_challenge,
    "mot": _as_mot,
}
