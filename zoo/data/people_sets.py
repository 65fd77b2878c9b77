"""Sets of drawn people on disk, in the folder layouts of SYSU-MM01, RegDB and HITSZ-VCM, shape maps beside them."""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import Image

from zoo.data.people import INFRARED, VISIBLE, Renderer, person, picture, shot, shown
from zoo.data.reid_sets import LAYOUTS, SHAPE_FOLDERS
from zoo.errors import InputError, UsageError

__all__ = ["PRESETS", "Layout", "Looks", "Preset", "write_people"]

Layout = Literal["sysu", "regdb", "vcm"]
Looks = Literal["thermal", "nir", "mixed"]
CAMERAS = tuple(sorted(VISIBLE + INFRARED))
TRIALS = 10  # splits of RegDB
PAIRS = 10  # of RegDB, an identity
FIRST_TEST = 100  # test identities begin behind the next multiple of it


@dataclass(frozen=True)
class Preset:
    """How many people and pictures.

    Attributes:
        train: Identities that are learnt from.
        val: Further identities to choose settings on; the published protocols learn from them as well.
        test: Identities of the test.
        visible: Pictures a visible camera, of a training and of a test identity.
        infrared: The same an infrared camera.
        size: Height and width in pixels.
    """

    train: int
    val: int
    test: int
    visible: tuple[int, int]
    infrared: tuple[int, int]
    size: tuple[int, int]

    @property
    def train_ids(self) -> range:
        return range(1, self.train + 1)

    @property
    def val_ids(self) -> range:
        return range(self.train + 1, self.train + self.val + 1)

    @property
    def test_ids(self) -> range:
        first = -(-(self.train + self.val) // FIRST_TEST) * FIRST_TEST
        return range(first + 1, first + self.test + 1)


PRESETS = {
    "tiny": Preset(12, 4, 8, (2, 2), (2, 2), (64, 32)),
    "small": Preset(48, 16, 32, (8, 4), (12, 8), (96, 48)),
    "std": Preset(296, 99, 96, (10, 10), (10, 10), (288, 144)),
}


@dataclass(frozen=True)
class Made:
    """One picture to draw: where it goes, who is on it, how.

    Attributes:
        path: Below the photographs' and the maps' folder alike.
        pid: Identity.
        camera: Its number.
        number: Of the picture, or of the tracklet.
        frame: Of a tracklet; None for a picture by itself.
        infrared: What it is seen in, where the camera does not say.
    """

    path: str
    pid: int
    camera: int
    number: int
    frame: int | None = None
    infrared: bool | None = None


def write_people(
    out: Path,
    preset: str = "small",
    *,
    layout: Layout = "sysu",
    renderer: Looks = "thermal",
    seed: int = 1,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Draw a set into a folder; the same arguments give the same files. Pictures that are there already are kept.

    Args:
        out: Folder that gets `SYSU-MM01` and `SYSU_MM01_SHAPE`, or those of the other layouts, and `people.json`.
        preset: "tiny", "small" or "std".
        layout: "sysu", "regdb" or "vcm".
        renderer: What infrared is: "thermal", "nir", or "mixed", which takes turns from picture to picture.
        seed: Of people, places and shots.
        workers: Processes that draw; 0 draws in this one.
        progress: Called with the pictures done and all of them.

    Returns:
        What was written: the arguments, folders, identities a part, and the number of pictures.

    Raises:
        UsageError: No such preset, layout or renderer, or the folder holds a set of other arguments.
        InputError: A file cannot be written.
    """
    for what, name, known in (
        ("preset", preset, PRESETS),
        ("layout", layout, SHAPE_FOLDERS),
        ("renderer", renderer, get_args(Looks)),
    ):
        if name not in known:
            raise UsageError(f"no {what} {name!r}", hint=f"one of {', '.join(known)}")
    if seed < 0 or workers < 0:
        raise UsageError("seed and workers are not negative", hint="leave them out for the defaults")
    sizes = PRESETS[preset]
    made, lists = {"sysu": _sysu, "regdb": _regdb, "vcm": _vcm}[layout](sizes)
    facts = {
        "preset": preset,
        "layout": layout,
        "renderer": renderer,
        "seed": seed,
        "size": list(sizes.size),
        "photographs": LAYOUTS[layout],
        "shapes": SHAPE_FOLDERS[layout],
        "identities": {part: len(getattr(sizes, f"{part}_ids")) for part in ("train", "val", "test")},
        "pictures": len(made),
    }
    try:
        _claim(out, facts)
        for name, text in lists.items():
            path = out / LAYOUTS[layout] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        draw = partial(_draw, out, layout, sizes.size, seed, renderer)
        for done, _ in enumerate(_each(draw, made, workers), 1):
            progress(done, len(made))
    except OSError as error:
        raise InputError(
            f"{out} cannot be written: {error.strerror}", hint="make room, or choose another place"
        ) from None
    return facts


def _claim(out: Path, facts: dict[str, Any]) -> None:
    """Keep two sets out of one folder."""
    note = out / "people.json"
    text = json.dumps(facts, indent=1) + "\n"
    if note.exists() and note.read_text(encoding="utf-8") != text:
        raise UsageError(f"{out} holds drawn people of other settings", hint="choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(text, encoding="utf-8")


def _each(draw: Callable[[Made], None], made: list[Made], workers: int) -> Iterator[None]:
    if workers == 0:
        yield from map(draw, made)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(draw, made, chunksize=32)


def _draw(out: Path, layout: Layout, size: tuple[int, int], seed: int, looks: Looks, one: Made) -> None:
    photograph, shape = out / LAYOUTS[layout] / one.path, out / SHAPE_FOLDERS[layout] / one.path
    if photograph.exists() and shape.exists():
        return
    renderer: Renderer = ("thermal", "nir")[(one.pid + one.number) % 2] if looks == "mixed" else looks
    pixels, mask = _pictured(size, seed, renderer, one)
    for path, array in ((photograph, pixels), (shape, mask)):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}")  # a drawing that is stopped leaves no half picture under its name
        Image.fromarray(array).save(part, path.suffix[1:].replace("jpg", "jpeg"), quality=95, subsampling=0)
        part.replace(path)


def _pictured(
    size: tuple[int, int], seed: int, renderer: Renderer, one: Made
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Photograph and shape map."""
    if one.frame is None and one.infrared is None:
        return picture(seed, one.pid, one.camera, one.number, size, renderer)
    who = person(seed, one.pid)
    view = shot(default_rng([seed, one.pid, one.camera, one.number]), who.sizes["stature"])
    if one.frame is not None:  # a frame later the gait has gone on and the person has turned a little
        view = replace(view, phase=view.phase + 0.45 * one.frame, yaw=view.yaw + 0.02 * one.frame)
    noise = default_rng([seed, one.pid, one.camera, one.number, one.frame or 0, one.infrared or 0])
    return shown(who, view, noise, seed, one.camera, size, renderer, one.infrared)


def _sysu(sizes: Preset) -> tuple[list[Made], dict[str, str]]:
    made = [
        Made(f"cam{camera}/{pid:04d}/{number:04d}.jpg", pid, camera, number)
        for is_test, ids in ((False, (*sizes.train_ids, *sizes.val_ids)), (True, sizes.test_ids))
        for pid in ids
        for camera in CAMERAS
        for number in range(1, (sizes.infrared if camera in INFRARED else sizes.visible)[is_test] + 1)
    ]
    lists = {
        f"exp/{part}_id.txt": ",".join(map(str, getattr(sizes, f"{part}_ids"))) + "\n"
        for part in ("train", "val", "test")
    }
    return made, lists


def _regdb(sizes: Preset) -> tuple[list[Made], dict[str, str]]:
    """Pairs of one pose before one camera; each trial halves the identities anew."""
    ids = [*sizes.train_ids, *sizes.val_ids, *sizes.test_ids]
    names = {"visible": "Visible/{:03d}/v_{:02d}.bmp", "thermal": "Thermal/{:03d}/t_{:02d}.bmp"}
    made = [
        Made(name.format(pid, number), pid, 1, number, infrared=modality == "thermal")
        for modality, name in names.items()
        for pid in ids
        for number in range(1, PAIRS + 1)
    ]
    lists = {}
    for trial in range(1, TRIALS + 1):
        order = default_rng(trial).permutation(ids)
        halves = {"train": sorted(order[: len(ids) // 2]), "test": sorted(order[len(ids) // 2 :])}
        for (part, half), (modality, name) in ((h, n) for h in halves.items() for n in names.items()):
            lines = [
                f"{name.format(pid, number)} {label}\n"
                for label, pid in enumerate(half)
                for number in range(1, PAIRS + 1)
            ]
            lists[f"idx/{part}_{modality}_{trial}.txt"] = "".join(lines)
    return made, lists


def _vcm(sizes: Preset) -> tuple[list[Made], dict[str, str]]:
    """A tracklet of each identity before each camera, 12 to 24 frames long; infrared ones are the queries."""
    made: list[Made] = []
    lists: dict[str, str] = {}
    for part, folder, ids in (
        ("train", "Train", (*sizes.train_ids, *sizes.val_ids)),
        ("test", "Test", tuple(sizes.test_ids)),
    ):
        names: list[str] = []
        tracks: list[str] = []
        for pid, camera in ((pid, camera) for pid in ids for camera in CAMERAS):
            infrared = camera in INFRARED
            first = len(names) + 1
            for frame in range(int(default_rng([pid, camera]).integers(12, 25))):
                file = f"{frame + 1:04d}.jpg"
                names.append(f"{pid:04d}M{int(infrared)}D{camera}T1F{file}\n")
                path = f"{folder}/{pid:04d}/{'ir' if infrared else 'rgb'}/D{camera}/{file}"
                made.append(Made(path, pid, camera, 1, frame))
            tracks.append(f"{1 if infrared else 2} {first} {len(names)} {pid} {camera}\n")
        lists[f"info/{part}_name.txt"] = "".join(names)
        lists[f"info/track_{part}_info.txt"] = "".join(tracks)
        if part == "test":
            lists["info/query_IDX.txt"] = _numbers(at for at, row in enumerate(tracks, 1) if row.startswith("1 "))
    return made, lists


def _numbers(values: Iterable[int]) -> str:
    return " ".join(map(str, values)) + "\n"
