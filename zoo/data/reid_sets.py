"""Sets of people on disk: SYSU-MM01, RegDB, HITSZ-VCM, Market-1501, a table of one's own, and what a path gives away.

The sets themselves are given out against a signed agreement or a form by their authors; nothing here fetches them.
"""

import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from zoo.data.images import SUFFIXES
from zoo.data.texts import read_lines, read_table
from zoo.errors import InputError, UsageError, one_line

__all__ = [
    "INFRARED_CAMERAS",
    "LAYOUTS",
    "SHAPE_FOLDERS",
    "Clue",
    "Portrait",
    "Test",
    "clue",
    "folder_of",
    "identities",
    "labelled_lines",
    "layout_of",
    "lines",
    "market_test",
    "pictures",
    "read_labels",
    "regdb_test",
    "sysu_test",
    "table_test",
    "vcm_test",
]

Mode = Literal["all", "indoor"]
LAYOUTS = {"sysu": "SYSU-MM01", "regdb": "RegDB", "vcm": "HITSZ-VCM", "market": "Market-1501"}
SHAPE_FOLDERS = {"sysu": "SYSU_MM01_SHAPE", "regdb": "RegDB_shape", "vcm": "HITSZ-VCM_shape"}
MARKERS = {  # by which a layout is known
    "sysu": ("exp/test_id.txt", "cam1"),
    "regdb": ("idx", "Visible", "Thermal"),
    "vcm": ("info/track_test_info.txt", "Test"),
    "market": ("query", "bounding_box_test"),
}
INFRARED_CAMERAS = (3, 6)  # of SYSU-MM01
GALLERY_CAMERAS: dict[Mode, tuple[int, ...]] = {"all": (1, 2, 4, 5), "indoor": (1, 2)}
PERMUTATIONS = 10  # of an identity and camera in rand_perm_cam.mat
SHORTEST = 12  # frames of a tracklet that counts
MODALITY_WORDS = {
    "infrared": ("infrared", "thermal", "nir", "ir"),
    "visible": ("visible", "rgb", "colour", "color"),
}


@dataclass(frozen=True)
class Portrait:
    """A picture of a person, or a tracklet of them, with what is known of it.

    Attributes:
        path: The picture; of a tracklet, what it is called.
        pid: Identity.
        camera: Number of the camera.
        modality: "visible" or "infrared".
        frames: Pictures of a tracklet.
    """

    path: str
    pid: int
    camera: int
    modality: str
    frames: tuple[str, ...] = ()


@dataclass(frozen=True)
class Test:
    """What is asked and what is searched."""

    queries: list[Portrait]
    gallery: list[Portrait]


@dataclass(frozen=True)
class Clue:
    """What a path gives away of the picture in it; None where it says nothing."""

    label: str | None = None
    camera: str | None = None
    modality: str | None = None


def folder_of(root: Path, layout: str) -> Path:
    """Where a layout lies: the folder itself, or one of the set's name in it.

    Raises:
        InputError: It is not there.
    """
    for folder in (root, root / LAYOUTS[layout]):
        if (folder / MARKERS[layout][0]).exists():
            return folder
    raise InputError(
        f"{root} is no {LAYOUTS[layout]}: there is no {MARKERS[layout][0]} in it",
        hint=f"zoo reid check-data {root} --layout {layout} says what belongs there",
    )


def layout_of(root: Path) -> str | None:
    """Which layout a folder has, if any."""
    for layout, markers in MARKERS.items():
        if any(all((folder / name).exists() for name in markers) for folder in (root, root / LAYOUTS[layout])):
            return layout
    return None


def sysu_test(
    root: Path, *, mode: Mode = "all", shots: int = 1, trial: int = 0, permutations: Path | None = None
) -> Test:
    """Infrared queries and a drawn visible gallery of SYSU-MM01's test identities.

    Args:
        root: The set.
        mode: "all" searches cameras 1, 2, 4 and 5, "indoor" 1 and 2.
        shots: Pictures of an identity a camera: 1 or 10.
        trial: Which of the ten galleries, from 0.
        permutations: The data set authors' `rand_perm_cam.mat`, whose first pictures are taken. Without it they are
            drawn as most published code draws them: by Python's generator, seeded with the trial's number.

    Raises:
        InputError: The set, or the file, is not what it should be.
    """
    folder = folder_of(root, "sysu")
    ids = identities(folder / "exp" / "test_id.txt")
    draw = _stored(permutations, trial) if permutations else _drawn(random.Random(trial))
    gallery = [
        Portrait(str(path), pid, camera, "visible")
        for pid in ids
        for camera in GALLERY_CAMERAS[mode]
        if (files := pictures(folder / f"cam{camera}" / f"{pid:04d}"))
        for path in draw(files, pid, camera, shots)
    ]
    queries = [
        Portrait(str(path), pid, camera, "infrared")
        for pid in ids
        for camera in INFRARED_CAMERAS
        for path in pictures(folder / f"cam{camera}" / f"{pid:04d}")
    ]
    return _some(Test(queries, gallery), folder)


Draw = Callable[[list[Path], int, int, int], list[Path]]


def _drawn(rng: random.Random) -> Draw:
    def draw(files: list[Path], pid: int, camera: int, shots: int) -> list[Path]:
        return [rng.choice(files)] if shots == 1 else rng.sample(files, min(shots, len(files)))

    return draw


def _stored(path: Path, trial: int) -> Draw:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UsageError(
            f"{path} needs scipy to be read", hint="pip install scipy, or leave --gallery-file out"
        ) from None
    try:
        cells = loadmat(path, squeeze_me=True)["rand_perm_cam"]
        orders = {camera: list(np.atleast_1d(cells[camera - 1])) for camera in range(1, len(cells) + 1)}
    except Exception as error:  # scipy's reader raises whatever the bytes make of them
        raise InputError(f"{path} is no rand_perm_cam.mat: {error}", hint="it comes with SYSU-MM01") from None

    def draw(files: list[Path], pid: int, camera: int, shots: int) -> list[Path]:
        try:
            order = np.reshape(orders[camera][pid - 1], (PERMUTATIONS, -1))[trial].astype(int).tolist()
        except (KeyError, IndexError, ValueError, TypeError):
            raise InputError(
                f"{path} has no permutation {trial} for identity {pid} and camera {camera}",
                hint="use the set's own file",
            ) from None
        if sorted(order) != list(range(1, len(files) + 1)):
            raise InputError(
                f"{path} orders {len(order)} pictures of identity {pid}, camera {camera}; {len(files)} are there",
                hint="zoo reid check-data says what is missing",
            )
        return [files[i - 1] for i in order[:shots]]

    return draw


def regdb_test(root: Path, *, trial: int = 1) -> Test:
    """Visible queries and thermal gallery of a split of RegDB; swap them for the other direction.

    Args:
        root: The set.
        trial: Which of the ten splits, from 1.

    Raises:
        InputError: The set is not what it should be.
    """
    folder = folder_of(root, "regdb")
    sides = [
        [
            Portrait(str(folder / name), label, camera, modality)
            for name, label in labelled_lines(folder / "idx" / f"test_{side}_{trial}.txt")
        ]
        for side, camera, modality in (("visible", 1, "visible"), ("thermal", 2, "infrared"))
    ]
    return _some(Test(*sides), folder)


def vcm_test(root: Path, *, frames: int = 6) -> Test:
    """Infrared query tracklets and all other test tracklets of HITSZ-VCM.

    Args:
        root: The set.
        frames: Taken of each tracklet: the first of as many equal parts, the last one repeated where it is short.

    Raises:
        InputError: The set is not what it should be.
    """
    folder = folder_of(root, "vcm")
    names = lines(folder / "info" / "test_name.txt")
    queried = {int(number) for line in lines(folder / "info" / "query_IDX.txt") for number in line.split()}
    test = Test([], [])
    for number, line in enumerate(lines(folder / "info" / "track_test_info.txt"), 1):
        try:
            modality, first, last, pid, camera = (int(float(value)) for value in line.split())
            files = [str(folder / "Test" / _vcm_path(name)) for name in names[first - 1 : last]]
            if len(files) != last - first + 1:
                raise ValueError(f"{len(names)} frames are named")
        except ValueError as error:
            raise InputError(
                f"line {number} of track_test_info.txt in {folder}: {error}", hint="fetch it again"
            ) from None
        if len(files) >= SHORTEST:
            kind = "infrared" if modality == 1 else "visible"
            portrait = Portrait(f"tracklet {number}", pid, camera, kind, tuple(_spread(files, frames)))
            (test.queries if number in queried else test.gallery).append(portrait)
    return _some(test, folder)


def _spread(files: Sequence[str], parts: int) -> list[str]:
    """The first frame of each of equal parts."""
    size = -(-len(files) // parts)
    return [files[min(i * size, len(files) - 1)] for i in range(parts)]


def _vcm_path(name: str) -> str:
    """A coded frame name, such as 0001M1D3T1F0001.jpg, as a path."""
    camera = name[name.index("D") : name.index("T")]
    return f"{name[:4]}/{'ir' if name[5] == '1' else 'rgb'}/{camera}/{name[name.index('F') + 1 :]}"


def market_test(root: Path) -> Test:
    """Queries and gallery in the manner of Market-1501; boxes without a person, identity -1, are left out.

    Raises:
        InputError: The set is not what it should be.
    """
    folder = folder_of(root, "market")
    sides = []
    for name in ("query", "bounding_box_test"):
        named = [(path, re.match(r"(-?\d+)_c(\d+)", path.name)) for path in pictures(folder / name)]
        sides.append(
            [
                Portrait(str(path), int(found[1]), int(found[2]), "visible")
                for path, found in named
                if found and found[1] != "-1"
            ]
        )
    return _some(Test(*sides), folder)


def table_test(path: Path) -> Test:
    """Queries and gallery of a table with the columns path, pid, cam, modality and role ("query" or "gallery").

    Paths are relative to the table's folder.

    Raises:
        InputError: It cannot be read, or a row lacks something.
    """
    test = Test([], [])
    for number, row in enumerate(read_table(path, "give a CSV file"), 2):
        try:
            portrait = Portrait(
                str(path.parent / row["path"]), int(row["pid"]), int(row["cam"]), _modality(row["modality"])
            )
            {"query": test.queries, "gallery": test.gallery}[row["role"]].append(portrait)
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"line {number} of {path}: {one_line(error)}",
                hint="columns: path, pid, cam, modality, role (query or gallery)",
            ) from None
    return _some(test, path)


def read_labels(path: Path) -> dict[str, Clue]:
    """What a table with the columns path and any of pid, cam, modality says; by absolute path.

    Raises:
        InputError: It cannot be read, or has no paths.
    """
    try:
        return {
            os.path.abspath(path.parent / row["path"]): Clue(  # noqa: PTH100 - Path.absolute leaves .. in
                row.get("pid") or None,
                row.get("cam") or None,
                _modality(row["modality"]) if row.get("modality") else None,
            )
            for row in read_table(path, "give a CSV file")
        }
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: {one_line(error)}", hint="columns: path, and any of pid, cam, modality") from None


def clue(path: str) -> Clue:
    """Identity, camera and modality as far as a path gives them away, by the naming rules of the published sets.

    A folder called infrared, thermal, nir or ir, or visible, rgb, colour or color, gives the modality of what is in it.
    """
    *folders, name = PurePath(path).parts
    last = folders[-2:]
    if len(last) == 2 and (found := re.fullmatch(r"cam(\d)", last[0])) and re.fullmatch(r"\d{4}", last[1]):
        modality = "infrared" if int(found[1]) in INFRARED_CAMERAS else "visible"
        return Clue(str(int(last[1])), found[1], modality)
    named = _modality_of(folders)
    if market := re.match(r"(\d+)_c(\d+)s\d", name):
        return Clue(str(int(market[1])), market[2], named)
    if len(folders) > 2 and folders[-2] in ("ir", "rgb") and (camera := re.fullmatch(r"D(\d+)", folders[-1])):
        return Clue(str(int(folders[-3])) if folders[-3].isdigit() else None, camera[1], named)
    return Clue(modality=named)


def _modality_of(folders: Sequence[str]) -> str | None:
    """By the innermost folder that names one."""
    for folder in reversed(folders):
        for modality, words in MODALITY_WORDS.items():
            if folder.lower() in words:
                return modality
    return None


def _modality(text: str) -> str:
    for modality, words in MODALITY_WORDS.items():
        if text.strip().lower() in words:
            return modality
    raise ValueError(f"no modality {text!r}; visible or infrared")


def _some(test: Test, folder: Path) -> Test:
    if not test.queries or not test.gallery:
        raise InputError(
            f"{folder} gives {len(test.queries)} queries and {len(test.gallery)} gallery pictures",
            hint=f"zoo reid check-data {folder} says what is missing",
        )
    return test


def pictures(folder: Path) -> list[Path]:
    """Pictures of a folder by name; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def identities(path: Path) -> list[int]:
    """Identity numbers of a comma-separated list, rising."""
    text = ",".join(lines(path))
    try:
        return sorted(int(number) for number in text.split(",") if number.strip())
    except ValueError as error:
        raise InputError(f"{path}: {error}", hint="identity numbers with commas between them") from None


def labelled_lines(path: Path) -> list[tuple[str, int]]:
    """Lines of a path and a label.

    Raises:
        InputError: It cannot be read, or a line is something else.
    """
    pairs = [line.rsplit(maxsplit=1) for line in lines(path)]
    for number, pair in enumerate(pairs, 1):
        if len(pair) != 2 or not pair[1].isdigit():
            raise InputError(f"line {number} of {path} is no path and label", hint="fetch the list again")
    return [(name, int(label)) for name, label in pairs]


def lines(path: Path) -> list[str]:
    """Lines of a list that say something.

    Raises:
        InputError: It cannot be read.
    """
    return read_lines(path, "it comes with the set")
