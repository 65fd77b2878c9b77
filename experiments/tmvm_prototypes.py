"""Four prototypes against one, and with and without the variance loss, on the generated retrieval protocol.

    python experiments/tmvm_prototypes.py --out runs/tmvm_prototypes --epochs 10 --seeds 0 1 2

All train from random weights by the recipe `tmvm_tiny` with the same epochs, seeds, order of clips and augmentation;
they differ in `model_args` and `method_args` alone. What is reported is the last epoch's figures on the 200 test clips,
with no selection. Runs that are finished are not run again, a killed one goes on.
"""

import argparse
import json
import statistics
from pathlib import Path

from zoo.train.loop import train
from zoo.train.recipe import load_recipe

ARMS = {
    "K=1, no mask": ("model_args.prototypes=1", 'model_args.mask_kind="none"'),
    "K=4, no variance loss": ("method_args.variance=0.0",),
    "K=4, variance loss 1": (),
    "K=4, variance loss 1 on masks": ('method_args.variance_on="masks"',),
}
FIGURES = ("t2v_r1", "t2v_r5", "t2v_r10", "t2v_mdr", "t2v_mnr", "prototype_variance")
HEADS = ("R@1", "R@5", "R@10", "MdR", "MnR", "variance of prototypes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and table.md")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    args = parser.parse_args()

    rows: dict[str, list[dict[str, float]]] = {name: [] for name in args.arms}
    for seed in args.seeds:
        for name in args.arms:
            rows[name].append(one_run(args, name, seed))
            print(f"{name}, seed {seed}: {rows[name][-1]}", flush=True)
            (args.out / "table.md").write_text(table(rows, args.epochs), encoding="utf-8")
    print(table(rows, args.epochs))


def one_run(args: argparse.Namespace, arm: str, seed: int) -> dict[str, float]:
    """Figures of the last epoch."""
    folder = args.out / f"arm{list(ARMS).index(arm)}_{seed}"
    if not (folder / "model.safetensors").exists():
        overrides = (f"schedule.epochs={args.epochs}", f"schedule.evaluate_every={args.epochs}", f"seed={seed}")
        train(load_recipe("tmvm_tiny", (*overrides, *ARMS[arm])), folder, device="cpu")
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {key.removeprefix("test_"): value for key, value in last.items() if key.startswith("test_")}


def table(rows: dict[str, list[dict[str, float]]], epochs: int) -> str:
    """Means and, behind them, the smallest and largest over the seeds; and how often each prototype answers."""
    lines = [
        f"{epochs} epochs; mean (smallest to largest) over seeds, text to video\n",
        f"| | seeds | {' | '.join(HEADS)} | share of queries a prototype answers, first seed |",
        f"|---|---|{'---|' * (len(HEADS) + 1)}",
    ]
    for name, runs in rows.items():
        if runs:
            cells = [_cell([run[key] for run in runs]) for key in FIGURES]
            usage = ", ".join(f"{value:.0%}" for key, value in sorted(runs[0].items()) if key.startswith("usage_"))
            lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {usage} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    digits = 1 if max(values) >= 1 else 4
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
