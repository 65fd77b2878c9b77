"""What hand-made scorers find among drawn people, and what a network does: is the drawn protocol what it should be?

    zoo reid synth --out thermal && zoo reid synth --out nir --renderer nir
    python experiments/people_table.py --data thermal nir --network sgiel_pico

Infrared queries of the test identities against single-shot galleries, SYSU-MM01's all-search, mean of ten drawn
galleries. Hand-made scorers that learn do so from the training identities, and are told every person's factors, which
a network has to find by itself. Shares in per cent; beside each row how far it is from the protocol's first prototype,
whose drawing was another.
"""

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.data.crops import Crops, open_crops
from zoo.data.people import person
from zoo.data.reid_sets import sysu_test
from zoo.metrics.reid import reid_scores

GREY = np.array([0.299, 0.587, 0.114])
RIDGE = 1.0
TRIALS = 10
PROTOTYPE = {
    "random": ((3.7, 7.0, 4.4), (3.7, 7.0, 4.4)),
    "RGB histogram": ((2.9, 7.1, 4.9), (3.0, 7.2, 5.0)),
    "standardised grey pixels": ((3.0, 7.6, 5.5), (3.3, 8.8, 7.0)),
    "silhouette pixels": ((11.1, 11.8, 5.9), (11.5, 12.1, 6.0)),
    "silhouette row profile": ((18.3, 17.1, 8.1), (18.5, 17.2, 8.1)),
    "HOG + ridge to the shape factors": ((18.8, 23.1, 15.6), (15.6, 20.7, 14.2)),
    "HOG + ridge to the other shared factors": ((17.1, 20.6, 13.8), (10.9, 17.1, 13.0)),
    "HOG + ridge to both": ((22.4, 25.5, 16.5), (16.4, 21.9, 15.4)),
}
Embedded = tuple[np.ndarray, np.ndarray]  # queries and gallery, compared by inner product


class Drawn:
    """A set on disk: pictures of the training and the test identities, and the ten galleries."""

    def __init__(self, root: Path, seed: int) -> None:
        self.seed = seed
        self.learnt, self.test = open_crops("sysu-mm01", "train+val", root), open_crops("sysu-mm01", "test", root)
        self.queries = self.test.where(self.test.infrared)
        self.pool = self.test.where(~self.test.infrared)
        place = {str(path): row for row, path in enumerate(self.pool.photographs)}
        self.galleries = [
            np.array([place[portrait.path] for portrait in sysu_test(root, trial=trial).gallery])
            for trial in range(TRIALS)
        ]

    def score(self, vectors: Embedded) -> np.ndarray:
        """Rank-1, mAP and mINP in per cent, mean over the galleries."""
        queries, gallery = vectors
        rows = []
        for drawn in self.galleries:
            scores = reid_scores(
                -(queries @ gallery[drawn].T),
                self.queries.ids,
                self.pool.ids[drawn],
                self.queries.cameras,
                self.pool.cameras[drawn],
                "sysu",
            )
            rows.append((scores.rank(1), scores.mAP, scores.mINP))
        return 100 * np.mean(rows, 0)

    def of_both(self, one: Callable[[Crops], np.ndarray]) -> Embedded:
        return one(self.queries), one(self.pool)


@cache
def read(paths: tuple[Path, ...]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def euclidean(vectors: Embedded) -> Embedded:
    """Made so that the inner product falls as the distance grows."""
    queries, gallery = vectors
    return (
        np.hstack([queries, np.ones((len(queries), 1))]),
        np.hstack([2 * gallery, -(gallery**2).sum(1, keepdims=True)]),
    )


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def histograms(crops: Crops) -> np.ndarray:
    images = read(crops.photographs)
    counts = [[np.histogram(image[:, :, c], 16, (0, 256))[0] for c in range(3)] for image in images]
    return np.array(counts).reshape(len(images), -1) / images[0, :, :, 0].size


def grey_pixels(crops: Crops) -> np.ndarray:
    x = (read(crops.photographs) @ GREY).reshape(len(crops), -1)
    return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)


def masks(crops: Crops) -> np.ndarray:
    return read(crops.shapes) / 255


def profile(crops: Crops) -> np.ndarray:
    mask = masks(crops)
    rows = mask.sum(2)
    return np.hstack([-np.sort(-rows, 1), rows, 0.3 * mask.sum(1)])


@cache
def hogs(paths: tuple[Path, ...]) -> np.ndarray:
    """Histograms of gradients: cells of 8x8 pixels, 9 directions without sign, linear votes; the root of shares."""
    found = []
    for image in read(paths) @ GREY:
        down, across = np.gradient(image)
        size, angle = np.hypot(down, across), np.arctan2(down, across) % np.pi / np.pi * 9
        low = np.floor(angle).astype(int)
        cells = np.zeros((image.shape[0] // 8, image.shape[1] // 8, 9))
        rows, columns = np.indices(image.shape) // 8
        np.add.at(cells, (rows, columns, low % 9), size * (1 - (angle - low)))
        np.add.at(cells, (rows, columns, (low + 1) % 9), size * (angle - low))
        found.append(np.sqrt(cells.ravel() / cells.sum()))
    return np.stack(found)


def ridge(drawn: Drawn, factors: Callable[[int], np.ndarray]) -> Embedded:
    """A ridge regression a modality from gradients to factors; predictions by their deviation on what was learnt."""
    told = []
    for infrared, asked in ((True, drawn.queries), (False, drawn.pool)):
        learnt = drawn.learnt.where(drawn.learnt.infrared == infrared)
        x, y = hogs(learnt.photographs), np.stack([factors(int(pid)) for pid in learnt.ids])
        centre = x.mean(0)
        weights = np.linalg.solve(
            (x - centre).T @ (x - centre) + RIDGE * np.eye(x.shape[1]), (x - centre).T @ (y - y.mean(0))
        )
        spread = ((x - centre) @ weights).std(0) + 1e-9
        told.append(unit((hogs(asked.photographs) - centre) @ weights / spread))
    return told[0], told[1]


def network(name: str, checkpoint: Path | None, drawn: Drawn) -> Embedded:
    import torch

    import zoo
    from zoo.data.transforms import Preprocess

    model = zoo.create_model(name, pretrained=checkpoint is None, checkpoint_path=checkpoint).eval()
    preprocess = Preprocess(zoo.card(name).input)

    def embed(crops: Crops) -> np.ndarray:
        modality = "infrared" if crops.infrared[0] else "visible"
        with torch.no_grad():
            batches = torch.from_numpy(read(crops.photographs)).split(128)
            return torch.cat([model.embed(preprocess.normalise(batch), modality) for batch in batches]).numpy()

    return drawn.of_both(embed)


def scorers(drawn: Drawn) -> dict[str, Embedded]:
    chance = np.random.default_rng(0)

    def shape(pid: int) -> np.ndarray:
        return person(drawn.seed, pid).shape_factors()

    def shared(pid: int) -> np.ndarray:
        return person(drawn.seed, pid).shared_factors()

    return {
        "random": drawn.of_both(lambda crops: chance.normal(size=(len(crops), 50))),
        "RGB histogram": euclidean(drawn.of_both(histograms)),
        "standardised grey pixels": euclidean(drawn.of_both(grey_pixels)),
        "silhouette pixels": euclidean(drawn.of_both(lambda crops: masks(crops).reshape(len(crops), -1))),
        "silhouette row profile": euclidean(drawn.of_both(profile)),
        "HOG + ridge to the shape factors": ridge(drawn, shape),
        "HOG + ridge to the other shared factors": ridge(drawn, shared),
        "HOG + ridge to both": ridge(drawn, lambda pid: np.concatenate([shape(pid), shared(pid)])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of zoo reid synth: thermal [nir]")
    parser.add_argument("--seed", type=int, default=1, help="that the people were drawn with")
    parser.add_argument("--network", help="a network to measure beside them")
    parser.add_argument("--checkpoint", type=Path, help="its weights, in place of its own")
    parser.add_argument("--only-network", action="store_true")
    args = parser.parse_args()
    for column, root in enumerate(args.data):
        drawn = Drawn(root, args.seed)
        print(f"\n| {root.name}, {len(drawn.queries)} queries | R-1 | mAP | mINP | from the prototype |")
        print("|---|---|---|---|---|")
        rows = {} if args.only_network else scorers(drawn)
        if args.network:
            rows[args.network] = network(args.network, args.checkpoint, drawn)
        for name, vectors in rows.items():
            scores = drawn.score(vectors)
            before = PROTOTYPE.get(name)
            beside = "" if before is None else ", ".join(f"{v:+.1f}" for v in scores - np.array(before[column]))
            print(f"| {name} | {' | '.join(f'{value:.1f}' for value in scores)} | {beside} |", flush=True)


if __name__ == "__main__":
    main()
