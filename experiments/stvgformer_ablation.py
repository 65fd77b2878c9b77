"""What each direction between the streams is worth: networks trained with both, one or none, over three seeds.

python experiments/stvgformer_ablation.py --out DIR

A run that is stopped goes on with the same command. Each of the twelve trainings takes about twelve minutes of one core
(2 epochs of stills, 4 of films); the table in experiments/stvgformer_ablation.md is printed at the end from those that
are done. All of a seed see the same films in the same order, so differences are paired by seed.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from zoo.data.zooclips_ground import SPLITS
from zoo.models.stvgformer import STVGFormer
from zoo.tasks.ground import ground_pipeline
from zoo.tasks.ground_score import by_kind, score_scenes
from zoo.train.loop import train
from zoo.train.recipe import load_recipe

VARIANTS = {"both": (True, True), "none": (False, False), "s2d alone": (True, False), "d2s alone": (False, True)}
SEEDS = (0, 1, 2)
SHORT = ("schedule.epochs=6", "method_args.static_epochs=2", "data.eval_split=")
COLUMNS = ("m_vIoU", "vIoU@0.5", "m_tIoU", "m_sIoU", "SD m_vIoU")


def measured(out: Path, variant: str, seed: int) -> dict[str, float]:
    """Train one, unless that is done, and score it on the test scenes."""
    s2d, d2s = (str(on).lower() for on in VARIANTS[variant])
    folder = out / f"{variant.replace(' ', '_')}_{seed}"
    done = folder / "test.json"
    if not done.exists():
        recipe = load_recipe("stvgformer_tiny", (*SHORT, f"seed={seed}", f"model_args={{s2d = {s2d}, d2s = {d2s}}}"))
        file = train(recipe, folder, device="cpu")
        model: STVGFormer = ground_pipeline("stvgformer_tiny", checkpoint_path=file, device="cpu").model
        figures = by_kind(*score_scenes(model, SPLITS["test"], torch.device("cpu")))
        done.write_text(json.dumps(figures))
    figures = json.loads(done.read_text())
    return {**figures["all"], "SD m_vIoU": figures["SD"]["m_vIoU"]}


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Mean and standard deviation over seeds; below, the loss against both, paired by seed."""
    lines = [f"| | seeds | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for variant, runs in rows.items():
        values = np.array([[run[name] for name in COLUMNS] for run in runs])
        cells = [f"{mean:.1f} ± {spread:.1f}" for mean, spread in zip(values.mean(0), values.std(0), strict=True)]
        lines.append(f"| {variant} | {len(runs)} | {' | '.join(cells)} |")
    both = rows.get("both", [])
    for variant, runs in rows.items():
        if variant != "both" and (pairs := list(zip(both, runs, strict=False))):
            lost = np.array([[with_it[name] - run[name] for name in COLUMNS] for with_it, run in pairs])
            cells = [f"{mean:+.1f} ± {spread:.1f}" for mean, spread in zip(lost.mean(0), lost.std(0), strict=True)]
            lines.append(f"| both less {variant} | {len(pairs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, float]]] = {}
    for variants in (("both", "none"), ("s2d alone", "d2s alone")):  # what acceptance asks for comes first
        for seed in SEEDS:
            for variant in variants:
                rows.setdefault(variant, []).append(measured(out, variant, seed))
                print(table(rows), flush=True)


if __name__ == "__main__":
    main()
