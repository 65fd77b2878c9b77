"""Two further checks of drawn people: colours count within a modality, and the erased feature knows less of shape.

    zoo reid synth --out people
    python experiments/people_checks.py --data people --network sgiel_pico

First, each visible camera's pictures are asked among each other visible camera's by their colours, and infrared ones
among visible ones by the same. Second, a linear regression learns every person's shape factors from pictures of the
training identities, once from the network's whole feature and once from the part outside its shape subspace, and is
measured on those of the test identities: R^2 is the share of the factors' variance that it explains, below 0 where the
mean says more.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from people_table import Drawn, Embedded, euclidean, histograms, read

import zoo
from zoo.data.crops import Crops
from zoo.data.people import person
from zoo.data.transforms import Preprocess
from zoo.layers.subspace import outside
from zoo.metrics.reid import reid_scores

RIDGE = 100.0  # of features with deviation 1, some 2,000 of them


def colours(crops: Crops) -> np.ndarray:
    """(N, 18) mean colours of six bands of the body, less their camera's mean, by its deviation."""
    pictures, weights = read(crops.photographs) / 255, read(crops.shapes)[..., None] / 255
    bands = [
        (part * weight).sum((1, 2)) / (weight.sum((1, 2)) + 1e-3)
        for part, weight in zip(np.array_split(pictures, 6, 1), np.array_split(weights, 6, 1), strict=True)
    ]
    found = np.hstack(bands)
    for camera in np.unique(crops.cameras):
        own = found[crops.cameras == camera]
        found[crops.cameras == camera] = (own - own.mean(0)) / own.std(0)
    return found


def from_camera_to_camera(vectors: Embedded, queries: Crops, gallery: Crops) -> np.ndarray:
    """Rank-1, mAP and mINP in per cent: a camera's pictures asked among another's, mean over all pairs of cameras."""
    rows = []
    for a in np.unique(queries.cameras):
        for b in np.setdiff1d(gallery.cameras, a):
            asked, there = queries.cameras == a, gallery.cameras == b
            similarity = vectors[0][asked] @ vectors[1][there].T
            scores = reid_scores(-similarity, queries.ids[asked], gallery.ids[there], protocol="regdb")
            rows.append((scores.rank(1), scores.mAP, scores.mINP))
    return 100 * np.mean(rows, 0)


def features(model: torch.nn.Module, preprocess: Preprocess, crops: Crops, modality: str) -> torch.Tensor:
    """(N, D) behind the neck, not normalised."""
    with torch.no_grad():
        batches = torch.from_numpy(read(crops.photographs)).split(128)
        maps = (model.forward_features(preprocess.normalise(batch), modality) for batch in batches)
        return torch.cat([model.forward_head(x, modality) for x in maps])


def explained(learnt: np.ndarray, told: np.ndarray, asked: np.ndarray, truth: np.ndarray) -> float:
    """R^2 of a linear regression with a small ridge, over all factors together."""
    centre, spread = learnt.mean(0), learnt.std(0) + 1e-9
    x, y = (learnt - centre) / spread, told - told.mean(0)
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
    predicted = (asked - centre) / spread @ weights + told.mean(0)
    return 1 - float(((truth - predicted) ** 2).sum() / ((truth - truth.mean(0)) ** 2).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of zoo reid synth")
    parser.add_argument("--seed", type=int, default=1, help="that the people were drawn with")
    parser.add_argument("--network", default="sgiel_pico")
    parser.add_argument("--checkpoint", type=Path, help="its weights, in place of its own")
    args = parser.parse_args()
    drawn = Drawn(args.data, args.seed)

    print("| scorer | visible to visible R-1 / mAP / mINP | infrared to visible |\n|---|---|---|")
    chance = np.random.default_rng(0)
    scorers = {
        "random": lambda crops: chance.normal(size=(len(crops), 50)),
        "RGB histogram": histograms,
        "mean colours of six bands of the body": colours,
    }
    for name, one in scorers.items():
        cells = [
            from_camera_to_camera(euclidean((one(queries), one(drawn.pool))), queries, drawn.pool)
            for queries in (drawn.pool, drawn.queries)
        ]
        print(f"| {name} | {' | '.join(' / '.join(f'{value:.1f}' for value in cell) for cell in cells)} |", flush=True)

    model = zoo.create_model(args.network, pretrained=args.checkpoint is None, checkpoint_path=args.checkpoint).eval()
    preprocess = Preprocess(zoo.card(args.network).input)
    subspace = model.projections["photograph"].detach()
    print("\n| R^2 of the shape factors | whole feature | erased feature |\n|---|---|---|")
    for modality, test in (("visible", drawn.pool), ("infrared", drawn.queries)):
        learnt = drawn.learnt.where(drawn.learnt.infrared == (modality == "infrared"))
        known, asked = (features(model, preprocess, crops, modality) for crops in (learnt, test))
        factors = [
            np.stack([person(args.seed, int(pid)).shape_factors() for pid in side.ids]) for side in (learnt, test)
        ]
        whole = explained(known.numpy(), factors[0], asked.numpy(), factors[1])
        erased = explained(outside(known, subspace).numpy(), factors[0], outside(asked, subspace).numpy(), factors[1])
        print(f"| {modality} | {whole:.3f} | {erased:.3f} |", flush=True)


if __name__ == "__main__":
    main()
