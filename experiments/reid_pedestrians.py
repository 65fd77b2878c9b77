"""Search on real people: a street seen by one camera, people found by background subtraction, tracked by overlap.

    python experiments/reid_pedestrians.py vtest.avi --out pedestrians

`vtest.avi` comes with OpenCV (Debian: package opencv-doc, examples/data); it is not part of this repository. The clip
has no infrared, so the network that comes with zoo, which learnt from drawn people in visible and infrared pictures, is
asked for what it was never trained to do: visible against visible, real people. A tick marks another crop of the same
track; all else is grey, since nobody labelled who it is. What is seen is in reid_pedestrians.md; nothing is measured.

Needs opencv-python-headless; the crops, a gallery, a contact sheet a query and one page go to --out.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

EVERY = 5  # frames between two crops of a track
SMALLEST, MARGIN = 1200, 6  # pixels: of a blob that is a person, and around it
ASPECT = (1.4, 4.5)  # height over width of somebody upright
OVERLAP = 0.3  # of a box with its track's last one


def overlap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Intersection over union of boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def people(foreground: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes of upright blobs, (x, y, width, height)."""
    mask = cv2.morphologyEx(foreground, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((15, 7), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats((mask > 200).astype(np.uint8))  # below 200 is shadow
    boxes = [tuple(int(value) for value in stats[i, :4]) for i in range(1, count) if stats[i, 4] >= SMALLEST]
    return [box for box in boxes if ASPECT[0] <= box[3] / box[2] <= ASPECT[1]]


def crops(video: Path, out: Path) -> int:
    """Write `track<number>/<frame>.png`; returns how many."""
    reader = cv2.VideoCapture(str(video))
    subtract = cv2.createBackgroundSubtractorMOG2(history=200, varThreshold=25)
    tracks: dict[int, tuple[int, tuple[int, int, int, int]]] = {}  # number to last frame and box
    number, written, newest = 0, 0, 0
    while True:
        there, frame = reader.read()
        if not there:
            break
        boxes = people(subtract.apply(frame))
        tracks = {key: value for key, value in tracks.items() if number - value[0] <= 5}
        for box in boxes:
            near = max(tracks, key=lambda key, box=box: overlap(tracks[key][1], box), default=None)
            if near is None or overlap(tracks[near][1], box) < OVERLAP:
                newest += 1
                near = newest
            tracks[near] = number, box
            if number % EVERY == 0 and number >= 50:  # the background is known by then
                x, y, width, height = box
                part = frame[max(0, y - MARGIN) : y + height + MARGIN, max(0, x - MARGIN) : x + width + MARGIN]
                path = out / f"track{near:03d}" / f"{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), part)
                written += 1
        number += 1
    reader.release()
    return written


def _known(hit):
    """Another track may show the same person: only a crop of the same track is known to be right."""
    return replace(hit, is_right=hit.is_right or None)


def main() -> None:
    from zoo.data.images import expand
    from zoo.data.reid_sets import Clue
    from zoo.index.store import open_or_create
    from zoo.results.ranking import page
    from zoo.tasks.reid import default_model, reid_facts, reid_pipeline
    from zoo.tasks.reid_gallery import Indexing, search_people

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="by default what comes with zoo")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--queries", type=int, default=8)
    args = parser.parse_args()
    written = crops(args.video, args.out / "crops")
    folders = sorted((args.out / "crops").glob("track*"), key=lambda folder: -len(list(folder.iterdir())))
    print(f"{written} crops in {len(folders)} tracks")
    if not folders:
        sys.exit("nobody was found: is this the clip?")
    pipe = reid_pipeline(args.model or default_model(), checkpoint_path=args.checkpoint, modality="visible")
    paths = sorted((args.out / "crops").glob("track*/*.png"))
    labels = {str(path.absolute()): Clue(label=str(int(path.parent.name[5:]))) for path in paths}
    store = open_or_create(str(args.out / "gallery"), reid_facts(pipe, args.checkpoint))
    for _ in Indexing(pipe, store, labels).run(expand([str(args.out / "crops")])):
        pass
    chosen = [sorted(folder.iterdir()) for folder in folders[: args.queries]]
    rankings = list(search_people(pipe, store, [str(files[len(files) // 2]) for files in chosen], 10, labels=labels))
    rankings = [replace(one, hits=tuple(_known(hit) for hit in one)) for one in rankings]
    (args.out / "answers.html").write_text(page(rankings, title="People of one street, visible against visible"))
    for i, ranking in enumerate(rankings):
        ranking.draw().save(args.out / f"answer{i}.png")
        print(ranking.query, "".join("x" if hit.is_right else "." for hit in ranking))


if __name__ == "__main__":
    main()
