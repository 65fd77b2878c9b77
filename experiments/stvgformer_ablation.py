"""What each direction between the streams is worth: networks trained with both, one or none, over three seeds.

python experiments/stvgformer_ablation.py --out DIR

A run that is stopped goes on with the same command. Each of the twelve is the whole recipe of the starter's first
training (22 to 30 minutes of a core), with the collaboration blocks' switches set before the first step. The four of a
seed see the same scenes in the same order, so differences are paired by seed. `--variants` and `--seeds` choose a part,
so that several processes can share a folder; the table at the end is of all that is done in it.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from zoo.data.zooclips_ground import KINDS, SPLITS, plan_scene
from zoo.models.stvgformer import STVGFormer
from zoo.tasks.ground import ground_pipeline
from zoo.tasks.ground_score import by_kind, score_scenes
from zoo.train.loop import train
from zoo.train.recipe import load_recipe

VARIANTS = {"both": (True, True), "none": (False, False), "s2d alone": (True, False), "d2s alone": (False, True)}
SEEDS = (0, 1, 2)
FIGURES = ("m_vIoU", "m_tIoU", "m_sIoU")
Row = dict[str, dict[str, float]]  # figures in per cent by kind of film


def folder_of(out: Path, variant: str, seed: int) -> Path:
    return out / f"{variant.replace(' ', '_')}_{seed}"


def measure(folder: Path, variant: str, seed: int, *short: str) -> None:
    """Train one, unless that is done, and score it on the test films, also with sentences of other films."""
    done = folder / "test.json"
    if not done.exists():
        s2d, d2s = (str(on).lower() for on in VARIANTS[variant])
        switches = f"model_args={{s2d = {s2d}, d2s = {d2s}, absence = false}}"  # which this recipe does not teach
        recipe = load_recipe("stvgformer_tiny", ("data.eval_split=", f"seed={seed}", switches, *short))
        figures = scored(train(recipe, folder, device="cpu"), shuffled=variant == "both")
        done.write_text(json.dumps(figures))


def scored(file: Path, *, shuffled: bool) -> Row:
    model: STVGFormer = ground_pipeline("stvgformer_tiny", checkpoint_path=file, device="cpu").model
    test, device = SPLITS["test"], torch.device("cpu")
    figures = by_kind(*score_scenes(model, test, device))
    if shuffled:
        sentences = [plan_scene(seed).sentence for seed in test]
        other = np.random.default_rng(1).permutation(sentences).tolist()
        figures["shuffled"] = by_kind(*score_scenes(model, test, device, sentences=other))["all"]
    return figures


def table(done: dict[str, dict[int, Row]]) -> str:
    """Mean and standard deviation over seeds; below, what both have more than another, paired by seed."""
    kinds = ("all", *KINDS)
    lines = [f"| m_vIoU / m_tIoU / m_sIoU | seeds | {' | '.join(kinds)} |", "|---" * (len(kinds) + 2) + "|"]

    def figures(row: Row) -> np.ndarray:
        return np.array([[row[kind][figure] for figure in FIGURES] for kind in kinds])

    def line(name: str, values: list[np.ndarray], sign: str = "") -> str:
        cells = [
            " / ".join(f"{mean:{sign}.1f} ± {spread:.1f}" for mean, spread in zip(*of_kind, strict=True))
            for of_kind in zip(np.mean(values, 0), np.std(values, 0), strict=True)
        ]
        return f"| {name} | {len(values)} | {' | '.join(cells)} |"

    lines += [line(name, [figures(row) for row in rows.values()]) for name, rows in done.items()]
    both = done.get("both", {})
    for name, rows in done.items():
        pairs = [figures(both[seed]) - figures(row) for seed, row in rows.items() if seed in both]
        if name != "both" and pairs:
            lines.append(line(f"both less {name}", pairs, "+"))
    if both:
        shuffled = [[row["shuffled"][figure] for figure in FIGURES] for row in both.values()]
        means = " / ".join(f"{mean:.1f}" for mean in np.mean(shuffled, 0))
        lines += ["", f"Both, sentences shuffled between films: {means} ({len(both)} seeds)."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="*", type=int, choices=SEEDS, default=SEEDS)
    parser.add_argument("--short", nargs="*", default=[], help="overrides of the recipe, to try the script")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for seed in asked.seeds:
        for variant in asked.variants:
            measure(folder_of(asked.out, variant, seed), variant, seed, *asked.short)
    done = {
        variant: {
            seed: json.loads(file.read_text())
            for seed in SEEDS
            if (file := folder_of(asked.out, variant, seed) / "test.json").exists()
        }
        for variant in VARIANTS
    }
    print(table({variant: rows for variant, rows in done.items() if rows}))


if __name__ == "__main__":
    main()
