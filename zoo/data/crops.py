"""Crops of persons in visible and infrared, in the folder layouts of SYSU-MM01 and RegDB, shape maps beside them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo import settings
from zoo.errors import InputError, UsageError

__all__ = ["CROP_SETS", "Crops", "open_crops"]

SYSU_INFRARED = (3, 6)
SYSU_CAMERAS = (1, 2, 3, 4, 5, 6)
REGDB_TRIALS = 10


@dataclass(frozen=True)
class Crops:
    """Photographs of persons, in the order of their files.

    Attributes:
        photographs: (N,) files.
        shapes: (N,) files of their body-shape maps; whether they exist is found out when they are read.
        ids: (N,) int64 identities as the set numbers them.
        cameras: (N,) int64.
        infrared: (N,) whether a photograph is infrared.
    """

    photographs: tuple[Path, ...]
    shapes: tuple[Path, ...]
    ids: NDArray[np.int64]
    cameras: NDArray[np.int64]
    infrared: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.photographs)

    def where(self, chosen: NDArray[np.bool_]) -> "Crops":
        """Those for which `chosen`, (N,), is true."""
        places = np.flatnonzero(chosen)
        return Crops(
            tuple(self.photographs[place] for place in places),
            tuple(self.shapes[place] for place in places),
            self.ids[places],
            self.cameras[places],
            self.infrared[places],
        )

    def of(self, ids: Iterable[int]) -> "Crops":
        """Those of these identities."""
        return self.where(np.isin(self.ids, np.fromiter(ids, np.int64)))


def open_crops(name: str, split: str, root: Path | None = None) -> Crops:
    """One part of a set.

    Args:
        name: "sysu-mm01", a folder `SYSU-MM01` with `SYSU_MM01_SHAPE` beside it, or "regdb", `RegDB` with
            `RegDB_shape`.
        split: Of SYSU-MM01 "train", "val", "test", or several joined by "+"; of RegDB the trial, 1 to 10, and the half:
            "1/train", "1/test".
        root: Folder that holds the set, by default the data folder of the settings.

    Raises:
        UsageError: No such set or part.
        InputError: The folders or lists are not there, or say something else than they should.
    """
    if name not in CROP_SETS:
        raise UsageError(f"no set of crops {name!r}", hint=f"one of {', '.join(CROP_SETS)}")
    crops = CROP_SETS[name](root or settings.data_root(), split)
    if not len(crops):
        raise InputError(f"{name} has no pictures for {split}", hint="check the folders: zoo reid check-data")
    return crops


def _sysu(root: Path, split: str) -> Crops:
    folder, shapes = root / "SYSU-MM01", root / "SYSU_MM01_SHAPE"
    wanted: list[int] = []
    for part in split.split("+"):
        if part not in ("train", "val", "test"):
            raise UsageError(f"sysu-mm01 has no part {part!r}", hint="train, val, test, or train+val")
        wanted += _numbers(folder / "exp" / f"{part}_id.txt")
    rows = [
        (path.relative_to(folder), pid, camera)
        for pid in sorted(set(wanted))
        for camera in SYSU_CAMERAS
        for path in sorted((folder / f"cam{camera}" / f"{pid:04d}").glob("*.jpg"))
    ]
    cameras = np.array([camera for _, _, camera in rows], np.int64)
    return Crops(
        tuple(folder / path for path, _, _ in rows),
        tuple(shapes / path for path, _, _ in rows),
        np.array([pid for _, pid, _ in rows], np.int64),
        cameras,
        np.isin(cameras, SYSU_INFRARED),
    )


def _regdb(root: Path, split: str) -> Crops:
    """Visible pictures are of camera 1, thermal ones of camera 2."""
    folder, shapes = root / "RegDB", root / "RegDB_shape"
    trial, _, half = split.partition("/")
    if half not in ("train", "test") or trial not in map(str, range(1, REGDB_TRIALS + 1)):
        raise UsageError(f"regdb has no part {split!r}", hint=f"1/train to {REGDB_TRIALS}/train, or .../test")
    rows: list[tuple[str, int, bool]] = []
    for infrared, modality in enumerate(("visible", "thermal")):
        path = folder / "idx" / f"{half}_{modality}_{trial}.txt"
        for number, line in enumerate(_lines(path), 1):
            file, _, label = line.rpartition(" ")
            if not file or not label.isdigit():
                raise InputError(f"{path}:{number}: not `relative/path label`", hint="mend the list")
            rows.append((file, int(label), bool(infrared)))
    infrared_rows = np.array([infrared for _, _, infrared in rows], np.bool_)
    return Crops(
        tuple(folder / file for file, _, _ in rows),
        tuple(shapes / file for file, _, _ in rows),
        np.array([label for _, label, _ in rows], np.int64),
        1 + infrared_rows.astype(np.int64),
        infrared_rows,
    )


CROP_SETS: dict[str, Callable[[Path, str], Crops]] = {"sysu-mm01": _sysu, "regdb": _regdb}


def _lines(path: Path) -> list[str]:
    """Lines of a list that say something.

    Raises:
        InputError: There is none.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"there is no list {path}", hint="--data DIR is the folder that holds the set; zoo reid synth DIR draws one"
        ) from None


def _numbers(path: Path) -> list[int]:
    text = ",".join(_lines(path))
    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise InputError(f"{path} is no list of identities: {text[:40]!r}", hint="numbers with commas") from None
