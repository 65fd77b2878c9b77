"""Crops of persons to learn from, visible and infrared, out of SYSU-MM01 and RegDB, with shape maps beside them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo import settings
from zoo.data.reid_sets import INFRARED_CAMERAS, SHAPE_FOLDERS, folder_of, identities, labelled_lines, pictures
from zoo.errors import InputError, UsageError

__all__ = ["CROP_SETS", "Crops", "open_crops"]

CAMERAS = (1, 2, 3, 4, 5, 6)  # of SYSU-MM01
TRIALS = 10  # of RegDB


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
        name: "sysu-mm01" or "regdb"; the shape maps lie in `SYSU_MM01_SHAPE` or `RegDB_shape` beside its folder.
        split: Of SYSU-MM01 "train", "val", "test", or several joined by "+"; of RegDB the trial, 1 to 10, and the half:
            "1/train", "1/test".
        root: The set's folder or the one it lies in, by default the data folder of the settings.

    Raises:
        UsageError: No such set or part.
        InputError: The folders or lists are not there, or say something else than they should.
    """
    if name not in CROP_SETS:
        raise UsageError(f"no set of crops {name!r}", hint=f"one of {', '.join(CROP_SETS)}")
    crops = CROP_SETS[name](root or settings.data_root(), split)
    if not len(crops):
        raise InputError(f"{name} has no pictures for {split}", hint="zoo reid check-data says what is missing")
    return crops


def _sysu(root: Path, split: str) -> Crops:
    folder = folder_of(root, "sysu")
    wanted: list[int] = []
    for part in split.split("+"):
        if part not in ("train", "val", "test"):
            raise UsageError(f"sysu-mm01 has no part {part!r}", hint="train, val, test, or train+val")
        wanted += identities(folder / "exp" / f"{part}_id.txt")
    rows = [
        (path.relative_to(folder), pid, camera, camera in INFRARED_CAMERAS)
        for pid in sorted(set(wanted))
        for camera in CAMERAS
        for path in pictures(folder / f"cam{camera}" / f"{pid:04d}")
    ]
    return _crops(folder, folder.parent / SHAPE_FOLDERS["sysu"], rows)


def _regdb(root: Path, split: str) -> Crops:
    """Visible pictures are of camera 1, thermal ones of camera 2."""
    trial, _, half = split.partition("/")
    if half not in ("train", "test") or trial not in map(str, range(1, TRIALS + 1)):
        raise UsageError(f"regdb has no part {split!r}", hint=f"1/train to {TRIALS}/train, or .../test")
    folder = folder_of(root, "regdb")
    rows: list[tuple[Path, int, int, bool]] = []
    for camera, modality in ((1, "visible"), (2, "thermal")):
        path = folder / "idx" / f"{half}_{modality}_{trial}.txt"
        rows += [(Path(file), label, camera, camera == 2) for file, label in labelled_lines(path)]
    return _crops(folder, folder.parent / SHAPE_FOLDERS["regdb"], rows)


def _crops(folder: Path, shapes: Path, rows: list[tuple[Path, int, int, bool]]) -> Crops:
    """Rows of path below both folders, identity, camera, and whether it is infrared."""
    return Crops(
        tuple(folder / path for path, *_ in rows),
        tuple(shapes / path for path, *_ in rows),
        np.array([pid for _, pid, _, _ in rows], np.int64),
        np.array([camera for _, _, camera, _ in rows], np.int64),
        np.array([infrared for *_, infrared in rows], np.bool_),
    )


CROP_SETS: dict[str, Callable[[Path, str], Crops]] = {"sysu-mm01": _sysu, "regdb": _regdb}
