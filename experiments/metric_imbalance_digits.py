"""Two stages against one on scikit-learn's digits with a long tail: 275 pictures, 90 of a digit down to 3 of another.

    python experiments/metric_imbalance_digits.py --out runs/digits    # a minute of one CPU core; goes on when cut off

ResNet-8 at 16 pixels, 30 epochs, three seeds; tested on 70 further pictures of each class. The table goes to table.md.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.data.balance import long_tail_counts
from zoo.train.conduct import conduct
from zoo.train.recipe import load_recipe

LARGEST, RATIO, TESTED = 90, 30, 70
SETTINGS = (
    "data.eval_split=test",
    "model=distill_resnet32_cifar",
    "model_args.depth=8",
    "init=",
    "precision=no",
    "data.size=16",
    "data.flip=false",
    "augment.scale=[0.7, 1.0]",
    "augment.jitter=0",
    "schedule.epochs=30",
    "schedule.batch_size=32",
    "optimizer.lr=0.05",
    "method_args.upside_down=false",
    "method_args.runs=3",
    "method_args.validation=0.0",
    "method_args.pick=last",
)
ROWS = (
    "ce",
    "balanced_softmax",
    "ce+crt",
    "ce+ncm",
    "ce+tau",
    "ce+triplet",
    "ce+triplet+ncm",
    "ce+triplet+crt",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pictures = (args.out / "pictures").absolute()
    if not pictures.exists():
        write_digits(pictures)
    rows = ", ".join(f'"{row}"' for row in ROWS)
    recipe = load_recipe("metric_imbalance", (f"data={pictures}", *SETTINGS, f"method_args.rows=[{rows}]"))
    conduct(recipe, args.out / "run", device="cpu", workers=0, say=lambda line: print(line, flush=True))


def write_digits(folder: Path) -> None:
    """Folders of digits, a long tail over the classes in a random order to learn from, as many of each to test on."""
    from sklearn.datasets import load_digits

    digits, chance = load_digits(), np.random.default_rng(0)
    counts = long_tail_counts(10, LARGEST, RATIO)
    for place, digit in enumerate(chance.permutation(10)):
        rows = chance.permutation(np.flatnonzero(digits.target == digit))
        for split, some in (("train", rows[: counts[place]]), ("test", rows[LARGEST:][:TESTED])):
            inner = folder / split / str(digit)
            inner.mkdir(parents=True)
            for row in some:
                pixels = Image.fromarray((digits.images[row] * 15.9).astype(np.uint8))
                pixels.resize((16, 16)).convert("RGB").save(inner / f"{row}.png")


if __name__ == "__main__":
    main()
