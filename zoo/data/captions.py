"""Videos with sentences that describe them: published sets by their annotation files, and lists of one's own."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zoo.data.texts import read_json, read_table, read_text
from zoo.data.video import VIDEO_SUFFIXES
from zoo.errors import InputError, UsageError, one_line

__all__ = ["Described", "caption_sets", "load_described", "protocol", "read_pairs"]

OF_THE_SET = "it is a text file of the set, in UTF-8"


@dataclass(frozen=True)
class Described:
    """A video, or a part of it, and sentences that are true of it.

    Attributes:
        video: The file.
        captions: One or more.
        start: Seconds at which the part begins.
        end: Seconds at which it ends; None for the video's end.
    """

    video: str
    captions: tuple[str, ...]
    start: float = 0.0
    end: float | None = None


def read_pairs(path: Path) -> list[Described]:
    """A list of one's own: a JSON object a line with "video", "captions" (or one "caption"), and "start" and "end".

    Paths are relative to the list. Lines of the same video, start and end become one.

    Raises:
        InputError: It cannot be read, or a line is not such an object; says which.
    """
    merged: dict[tuple[str, float, float | None], list[str]] = {}
    for number, line in enumerate(read_text(path, OF_THE_SET).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("no JSON object")
            sentences = row["captions"] if "captions" in row else [row["caption"]]
            end = None if row.get("end") is None else float(row["end"])
            key = (str(path.parent / row["video"]), float(row.get("start", 0.0)), end)
            if not sentences or not all(isinstance(text, str) and text.strip() for text in sentences):
                raise ValueError("captions are sentences")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}:{number}: {one_line(error)}", hint='a line is {"video": "a.mp4", "captions": ["a dog runs"]}'
            ) from None
        merged.setdefault(key, []).extend(sentences)
    if not merged:
        raise InputError(f"{path} has no lines", hint='a line is {"video": "a.mp4", "captions": ["a dog runs"]}')
    return [Described(video, tuple(texts), start, end) for (video, start, end), texts in merged.items()]


def caption_sets() -> list[str]:
    """Names of the published sets that `load_described` knows."""
    return sorted(_SETS)


def protocol(name: str, split: str) -> str:
    """What a figure on a part of a set means, in one line."""
    return _SETS[name].protocols.get(split, f"{name}, {split}") if name in _SETS else f"{name}, {split}, as given"


def load_described(name: str, split: str, root: Path) -> list[Described]:
    """One part of a published set, or of a list of one's own.

    Args:
        name: One of `caption_sets()`, or a folder with `<split>.jsonl`, or such a list.
        split: Part of the set.
        root: Folder that holds the sets.

    Raises:
        UsageError: The set has no such part.
        InputError: It is not there, or an annotation cannot be read.
    """
    if name not in _SETS:
        place = next((base / name for base in (root, Path()) if (base / name).exists()), None)
        if place is None:
            raise InputError(f"{name} is neither a set nor a list", hint=f"{', '.join(caption_sets())}, or FILE.jsonl")
        return read_pairs(place / f"{split}.jsonl" if place.is_dir() else place)
    known = _SETS[name]
    if split not in known.protocols:
        raise UsageError(f"{name} has no part {split!r}", hint=f"one of {', '.join(known.protocols)}")
    folder = root / name if (root / name).is_dir() else root
    try:
        described = known.read(folder, split)
    except (KeyError, TypeError, AttributeError) as error:  # JSON or a table, and not the set's
        raise InputError(
            f"{folder} holds other annotations than {name}'s: {one_line(error)}", hint=OF_THE_SET
        ) from None
    if not described:
        raise InputError(f"{folder}: the annotations name no video of {split}", hint="check the files of the set")
    return described


def _videos(folder: Path) -> dict[str, str]:
    """Every video below a folder by its name without the ending."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    return {path.stem: str(path) for path in files}


def _joined(folder: Path, captions: dict[str, list[str]]) -> list[Described]:
    """Sentences by video, with the files that are there; a video that is not there is named where it is read."""
    files = _videos(folder)
    return [Described(files.get(key, str(folder / f"{key}.mp4")), tuple(texts)) for key, texts in captions.items()]


def _msrvtt(folder: Path, split: str) -> list[Described]:
    """`MSRVTT_data.json`, and for 1k-A `MSRVTT_train.9k.csv` and `MSRVTT_JSFUSION_test.csv`."""
    if split == "test":
        rows = read_table(folder / "MSRVTT_JSFUSION_test.csv", OF_THE_SET)
        return _joined(folder, {row["video_id"]: [row["sentence"]] for row in rows})
    data = read_json(folder / "MSRVTT_data.json", OF_THE_SET)
    part = {"test_full": "test", "train_7k": "train"}.get(split, "")
    if split == "train":
        wanted = {row["video_id"] for row in read_table(folder / "MSRVTT_train.9k.csv", OF_THE_SET)}
    else:
        wanted = {video["video_id"] for video in data["videos"] if video["split"] == part}
    captions: dict[str, list[str]] = {}
    for sentence in data["sentences"]:
        if sentence["video_id"] in wanted:
            captions.setdefault(sentence["video_id"], []).append(sentence["caption"])
    return _joined(folder, captions)


def _msvd(folder: Path, split: str) -> list[Described]:
    """`<split>_list.txt` with a name a line, and `captions.txt` with a name and a sentence a line."""
    wanted = dict.fromkeys(read_text(folder / f"{split}_list.txt", OF_THE_SET).split())
    captions: dict[str, list[str]] = {key: [] for key in wanted}
    for line in read_text(folder / "captions.txt", OF_THE_SET).split("\n"):
        key, _, sentence = line.partition(" ")
        if key in captions and sentence.strip():
            captions[key].append(sentence.strip())
    return _joined(folder, {key: texts for key, texts in captions.items() if texts})


def _didemo(folder: Path, split: str) -> list[Described]:
    """`train_data.json`, `val_data.json`, `test_data.json`; the sentences of a video become one paragraph."""
    captions: dict[str, list[str]] = {}
    for row in read_json(folder / f"{split}_data.json", OF_THE_SET):
        captions.setdefault(Path(row["video"]).stem, []).append(row["description"].strip())
    return _joined(folder, {key: [" ".join(texts)] for key, texts in captions.items()})


def _lsmdc(folder: Path, split: str) -> list[Described]:
    """`LSMDC16_annos_training.csv` and `LSMDC16_challenge_1000_publictect.csv`, columns divided by tabs."""
    name = {"train": "LSMDC16_annos_training.csv", "test": "LSMDC16_challenge_1000_publictect.csv"}[split]
    captions = {}
    for line in read_text(folder / name, OF_THE_SET).split("\n"):
        if line.count("\t") >= 5:
            key, *_, sentence = line.split("\t")
            captions[re.sub(r"\.\w+$", "", key)] = [sentence.strip()]
    return _joined(folder, captions)


@dataclass(frozen=True)
class _Set:
    read: Callable[[Path, str], list[Described]]
    protocols: dict[str, str]


_SETS = {
    "msrvtt": _Set(
        _msrvtt,
        {
            "train": "MSR-VTT 1k-A, the 9,000 training clips, 20 captions each",
            "train_7k": "MSR-VTT, the 6,513 training clips of the full split, 20 captions each",
            "test": "MSR-VTT 1k-A (JSFusion list): 1,000 test clips, one fixed caption each",
            "test_full": "MSR-VTT full split: 2,990 test clips, every caption is a query",
        },
    ),
    "msvd": _Set(
        _msvd,
        {
            "train": "MSVD, the 1,200 training clips",
            "val": "MSVD, the 100 validation clips, every caption is a query",
            "test": "MSVD: 670 test clips, about 40 captions each, every caption is a query; the best one counts back",
        },
    ),
    "didemo": _Set(
        _didemo,
        {
            "train": "DiDeMo, the 8,395 training videos, sentences joined to a paragraph",
            "val": "DiDeMo, the 1,065 validation videos, sentences joined to a paragraph",
            "test": "DiDeMo: 1,004 test videos, all sentences of a video joined to one paragraph query",
        },
    ),
    "lsmdc": _Set(
        _lsmdc,
        {
            "train": "LSMDC, the training clips of the 2016 challenge, one caption each",
            "test": "LSMDC: the 1,000 public test clips of the 2016 challenge, one caption each",
        },
    ),
}
