"""Small sets of people in the published layouts, of noise: enough for readers, too little to recognise anybody."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (16, 32)  # width and height


def put(path: Path, infrared: bool = False) -> Path:
    """A picture of noise of its own: coloured, or grey."""
    rng = np.random.default_rng(list(str(path.name).encode()) + list(path.parent.name.encode()))
    pixels = rng.integers(0, 256, (SIZE[1], SIZE[0], 1 if infrared else 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()).save(path)
    return path


def sysu(root: Path, ids=(1, 2, 3, 4), test=(3, 4), count=3) -> Path:
    folder = root / "SYSU-MM01"
    for pid in ids:
        for camera in range(1, 7):
            for number in range(1, count + 1):
                put(folder / f"cam{camera}/{pid:04d}/{number:04d}.jpg", camera in (3, 6))
    parts = {"train": [pid for pid in ids if pid not in test][:1], "test": test}
    parts["val"] = [pid for pid in ids if pid not in test][1:]
    (folder / "exp").mkdir()
    for part, numbers in parts.items():
        (folder / f"exp/{part}_id.txt").write_text(",".join(map(str, numbers)) + "\n")
    (root / "people.json").write_text("{}")
    return folder


def regdb(root: Path) -> Path:
    folder = root / "RegDB"
    lists: dict[str, list[str]] = {}
    for side in ("Visible", "Thermal"):
        for label in range(4):
            for number in range(2):
                name = f"{side}/{label}/{number}.bmp"
                put(folder / name, side == "Thermal")
                for trial in range(1, 11):
                    half = "test" if (label + trial) % 2 else "train"
                    lists.setdefault(f"{half}_{side.lower()}_{trial}", []).append(f"{name} {label}")
    (folder / "idx").mkdir()
    for name, lines in lists.items():
        (folder / f"idx/{name}.txt").write_text("\n".join(lines) + "\n")
    (root / "people.json").write_text("{}")
    return folder


def vcm(root: Path, lengths=(13, 14, 12, 5)) -> Path:
    """Tracklets of two people: infrared and visible of the first, then of the second, the last one too short."""
    folder = root / "HITSZ-VCM"
    names, tracks = [], []
    for number, length in enumerate(lengths):
        pid, infrared = number // 2 + 1, number % 2 == 0
        camera = number + 1
        first = len(names) + 1
        for frame in range(length):
            names.append(f"{pid:04d}M{int(infrared)}D{camera}T1F{frame:04d}.jpg")
            put(folder / f"Test/{pid:04d}/{'ir' if infrared else 'rgb'}/D{camera}/{frame:04d}.jpg", infrared)
        tracks.append(f"{1 if infrared else 2} {first} {len(names)} {pid} {camera}")
    info = {"test_name": names, "track_test_info": tracks, "train_name": names[:1], "track_train_info": tracks[:1]}
    for name, lines in {**info, "query_IDX": ["1 3"]}.items():
        (folder / "info").mkdir(exist_ok=True)
        (folder / f"info/{name}.txt").write_text("\n".join(lines) + "\n")
    (root / "people.json").write_text("{}")
    return folder


def market(root: Path) -> Path:
    for name in ("0001_c1s1_000151_01.jpg", "0002_c2s1_000001_00.jpg"):
        put(root / "query" / name)
    for name in ("0001_c2s1_000001_00.jpg", "0002_c1s1_000001_00.jpg", "-1_c3s1_000001_00.jpg", "0000_c1s1_1_00.jpg"):
        put(root / "bounding_box_test" / name)
    return root
