"""Is a set of people whole? Folders, lists and counts as they should be, or what is missing, before hours are spent."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.reid_sets import (
    INFRARED_CAMERAS,
    LAYOUTS,
    SHAPE_FOLDERS,
    folder_of,
    identities,
    labelled_lines,
    layout_of,
    lines,
    market_test,
    pictures,
    regdb_test,
    sysu_test,
    vcm_test,
)
from zoo.errors import InputError, UsageError

__all__ = ["Finding", "check_set"]

TRIALS = 10
HOW = {  # the published sets are given out by their authors only
    "sysu": "SYSU-MM01 is given out against a signed agreement by its authors (github.com/wuancong/SYSU-MM01)",
    "regdb": "RegDB is given out on request by its authors (Dongguk University)",
    "vcm": "HITSZ-VCM is given out by its authors (github.com/VCM-project233/MITML)",
    "market": "Market-1501 is given out by its authors",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: It.
        found: What is there.
        expected: What should be; None where that is not known.
        is_fault: Whether a training or a test would go wrong.
    """

    what: str
    found: int | str
    expected: int | str | None = None
    is_fault: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"what": self.what, "found": self.found, "expected": self.expected, "is_fault": self.is_fault}


def check_set(root: Path, layout: str | None = None) -> tuple[str, list[Finding]]:
    """Look at a set without decoding pictures.

    Args:
        root: The set's folder, or the one that holds it.
        layout: "sysu", "regdb", "vcm" or "market"; by default what the folder looks like.

    Returns:
        The layout, and what was found.

    Raises:
        UsageError: The folder looks like none, or there is no such layout.
    """
    kind = layout or layout_of(root)
    if kind is None:
        raise UsageError(
            f"{root} has the layout of none of {', '.join(LAYOUTS)}",
            hint="--layout NAME says what is missing; pictures without one need no layout: zoo reid index",
        )
    if kind not in _CHECKS:
        raise UsageError(f"no layout {kind!r}", hint=f"one of {', '.join(LAYOUTS)}")
    try:
        folder = folder_of(root, kind)
    except InputError as error:
        return kind, [Finding(error.message.partition(": ")[2], "missing", HOW[kind], True)]
    published = not (folder.parent / "people.json").exists()
    findings = list(_guarded(_CHECKS[kind](folder, published)))
    return kind, findings + list(_shapes(folder, kind))


def _guarded(findings: Iterator[Finding]) -> Iterator[Finding]:
    """A list that cannot be read is a finding as well."""
    try:
        yield from findings
    except InputError as error:
        yield Finding(error.message, "broken", None, True)


def _count(what: str, found: int, expected: int, published: bool) -> Finding:
    """Compared with the published set; a drawn one has counts of its own."""
    return Finding(what, found, expected if published else None, found == 0 or (published and found != expected))


def _sysu(folder: Path, published: bool) -> Iterator[Finding]:
    everyone: set[int] = set()
    for part, count in (("train", 296), ("val", 99), ("test", 96)):
        ids = identities(folder / "exp" / f"{part}_id.txt")
        yield _count(f"{part} identities", len(ids), count, published)
        both = everyone & set(ids)
        if both:
            yield Finding(f"identities of {part} in another part", len(both), 0, True)
        everyone |= set(ids)
    counts = {
        camera: sum(len(pictures(folder / f"cam{camera}" / f"{pid:04d}")) for pid in everyone) for camera in range(1, 7)
    }
    infrared = sum(counts[camera] for camera in INFRARED_CAMERAS)
    yield _count("visible pictures", sum(counts.values()) - infrared, 30071, published)
    yield _count("infrared pictures", infrared, 15792, published)
    for camera, count in counts.items():
        if not count:
            yield Finding(f"pictures of camera {camera}", 0, None, True)
    test = sysu_test(folder)
    yield _count("queries", len(test.queries), 3803, published)
    yield _count("gallery, all-search, single-shot", len(test.gallery), 301, published)


def _regdb(folder: Path, published: bool) -> Iterator[Finding]:
    for trial in range(1, TRIALS + 1):
        test = regdb_test(folder, trial=trial)
        for what, side in (("visible", test.queries), ("thermal", test.gallery)):
            yield _count(f"trial {trial}, {what} test pictures", len(side), 2060, published)
        train = {name for name, _ in labelled_lines(folder / "idx" / f"train_visible_{trial}.txt")}
        both = train & {str(Path(one.path).relative_to(folder)) for one in test.queries}
        if both:
            yield Finding(f"trial {trial}, pictures in both halves", len(both), 0, True)
        absent = [one.path for one in (*test.queries, *test.gallery) if not Path(one.path).is_file()]
        if absent:
            yield Finding(f"trial {trial}, files that are listed and missing", f"{len(absent)}: {absent[0]}", 0, True)


def _vcm(folder: Path, published: bool) -> Iterator[Finding]:
    frames = {part: lines(folder / "info" / f"{part}_name.txt") for part in ("train", "test")}
    tracks = {part: lines(folder / "info" / f"track_{part}_info.txt") for part in ("train", "test")}
    yield _count("frames", sum(map(len, frames.values())), 463259, published)
    yield _count("tracklets", sum(map(len, tracks.values())), 21863, published)
    yield _count("train identities", len({name[:4] for name in frames["train"]}), 500, published)
    test = vcm_test(folder)
    yield Finding("query tracklets", len(test.queries))
    yield Finding("gallery tracklets", len(test.gallery))
    absent = [path for one in (*test.queries, *test.gallery) for path in one.frames if not Path(path).is_file()]
    if absent:
        yield Finding("test frames that are listed and missing", f"{len(absent)}: {absent[0]}", 0, True)


def _market(folder: Path, published: bool) -> Iterator[Finding]:
    test = market_test(folder)
    yield Finding("queries", len(test.queries))
    yield Finding("gallery pictures", len(test.gallery))
    strangers = {one.pid for one in test.queries} - {one.pid for one in test.gallery}
    if strangers:
        yield Finding("query identities that the gallery lacks", len(strangers), 0, False)


def _shapes(folder: Path, layout: str) -> Iterator[Finding]:
    """Whether each photograph has its body-shape map, where there are any."""
    name = SHAPE_FOLDERS.get(layout)
    if name is None:
        return
    shapes = folder.parent / name
    if not shapes.is_dir():
        yield Finding(f"shape maps, {name} beside it", "none", "needed to train, not to search or test")
        return
    lacking = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (".jpg", ".bmp", ".png") and not (shapes / path.relative_to(folder)).is_file()
    ]
    yield Finding("photographs without a shape map", len(lacking), 0, bool(lacking))


_CHECKS = {"sysu": _sysu, "regdb": _regdb, "vcm": _vcm, "market": _market}
