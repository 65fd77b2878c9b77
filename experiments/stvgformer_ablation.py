"""What each direction between the streams is worth: networks trained with both, one or none, over three seeds.

python experiments/stvgformer_ablation.py --out DIR

A run that is stopped goes on with the same command. Every seed learns stills once (375 steps, a minute of one core);
from there each of the four learns the same 3,000 films in the same order (750 steps of four films, three minutes), so
differences are paired by seed. That is a seventh of the starter's films, too few to learn time: see the page beside
this. The tables of what is done are printed anew after each training.
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
ONE_EPOCH = ("schedule.epochs=1", "schedule.warmup=0", "data.eval_split=")
STILLS = (*ONE_EPOCH, "method_args.static_epochs=1")
FILMS = (*ONE_EPOCH, "method_args.static_epochs=0", "schedule.batch_size=4", "optimizer.lr=0.0007")
FIGURES = ("m_vIoU", "m_tIoU", "m_sIoU")
Row = dict[str, dict[str, float]]  # figures in per cent by kind of film


def measured(out: Path, variant: str, seed: int, *short: str) -> Row:
    """Train one, unless that is done, and score it on the test films, also with sentences of other films."""
    s2d, d2s = (str(on).lower() for on in VARIANTS[variant])
    folder = out / f"{variant.replace(' ', '_')}_{seed}"
    done = folder / "test.json"
    if not done.exists():
        stills = train(
            load_recipe("stvgformer_tiny", (*STILLS, f"seed={seed}", *short)), out / f"stills_{seed}", device="cpu"
        )
        switches = f"model_args={{s2d = {s2d}, d2s = {d2s}}}"
        recipe = load_recipe("stvgformer_tiny", (*FILMS, f"init={stills}", f"seed={seed}", switches, *short))
        figures = scored(train(recipe, folder, device="cpu"), shuffled=variant == "both")
        done.write_text(json.dumps(figures))
    return json.loads(done.read_text())


def scored(file: Path, *, shuffled: bool) -> Row:
    model: STVGFormer = ground_pipeline("stvgformer_tiny", checkpoint_path=file, device="cpu").model
    test, device = SPLITS["test"], torch.device("cpu")
    figures = by_kind(*score_scenes(model, test, device))
    if shuffled:
        sentences = [plan_scene(seed).sentence for seed in test]
        other = np.random.default_rng(1).permutation(sentences).tolist()
        figures["shuffled"] = by_kind(*score_scenes(model, test, device, sentences=other))["all"]
    return figures


def table(rows: dict[str, list[Row]]) -> str:
    """Mean and standard deviation over seeds; below, what both have more than another, paired by seed."""
    kinds = ("all", *KINDS)
    lines = [f"| m_vIoU / m_tIoU / m_sIoU | seeds | {' | '.join(kinds)} |", "|---" * (len(kinds) + 2) + "|"]

    def line(name: str, values: np.ndarray, sign: str) -> str:
        cells = [
            " / ".join(f"{mean:{sign}.1f} ± {spread:.1f}" for mean, spread in zip(*of_kind, strict=True))
            for of_kind in zip(values.mean(0), values.std(0), strict=True)
        ]
        return f"| {name} | {len(values)} | {' | '.join(cells)} |"

    arrays = {
        name: np.array([[[run[kind][figure] for figure in FIGURES] for kind in kinds] for run in runs])
        for name, runs in rows.items()
    }
    lines += [line(name, values, "") for name, values in arrays.items()]
    both = arrays["both"]
    lines += [
        line(f"both less {name}", both[: len(values)] - values, "+")
        for name, values in arrays.items()
        if name != "both"
    ]
    shuffled = [[run["shuffled"][figure] for figure in FIGURES] for run in rows["both"]]
    means = " / ".join(f"{mean:.1f}" for mean in np.mean(shuffled, 0))
    return "\n".join([*lines, "", f"Both, sentences shuffled between films: {means} ({len(shuffled)} seeds)."])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--short", nargs="*", default=[], help="overrides of both recipes, to try the script")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[Row]] = {}
    for seed in SEEDS:
        for variant in VARIANTS:
            rows.setdefault(variant, []).append(measured(asked.out, variant, seed, *asked.short))
            print(table(rows), flush=True)


if __name__ == "__main__":
    main()
