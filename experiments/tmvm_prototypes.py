"""Four prototypes against one, and with and without the variance loss, on the generated retrieval protocol.

    python experiments/tmvm_prototypes.py --out runs/tmvm_prototypes --epochs 10 --seeds 0 1 2

All train from random weights by the recipe `tmvm_tiny` with the same epochs, seeds, order of clips and augmentation;
they differ in `model_args` and `method_args` alone. What is reported is the last epoch's figures on the 200 test clips,
with no selection. Runs that are finished are not run again, a killed one goes on; the table has all that are finished.
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
    "K=4, variance loss": (),
    "K=4, variance loss on masks": ('method_args.variance_on="masks"',),
}
MODEL = "model.safetensors"  # the last that a run writes
FIGURES = ("t2v_r1", "t2v_r5", "t2v_r10", "t2v_mdr", "t2v_mnr", "prototype_variance")
HEADS = ("R@1", "R@5", "R@10", "MdR", "MnR", "variance of prototypes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and table.md")
    parser.add_argument("--epochs", type=int, default=10, help="at least 2: the first warms up")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    args = parser.parse_args()

    for seed in args.seeds:
        for arm in args.arms:
            one_run(args, arm, seed)
            (args.out / "table.md").write_text(table(args.out, args.epochs), encoding="utf-8")
            print(table(args.out, args.epochs), flush=True)


def one_run(args: argparse.Namespace, arm: str, seed: int) -> None:
    """Train, unless it is finished."""
    folder = args.out / f"{list(ARMS).index(arm)}_{seed}"
    if not (folder / MODEL).exists():
        overrides = (f"schedule.epochs={args.epochs}", f"schedule.evaluate_every={args.epochs}", f"seed={seed}")
        train(load_recipe("tmvm_tiny", (*overrides, *ARMS[arm])), folder, device="cpu")


def figures(folder: Path) -> dict[str, float]:
    """Of a run's last epoch."""
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {key.removeprefix("test_"): value for key, value in last.items() if key.startswith("test_")}


def table(out: Path, epochs: int) -> str:
    """Means and, behind them, the smallest and largest over the seeds; and how often each prototype answers."""
    lines = [
        f"{epochs} epochs; mean (smallest to largest) over seeds, text to video\n",
        f"| | seeds | {' | '.join(HEADS)} | share of queries each prototype answers, seed by seed |",
        f"|---|---|{'---|' * (len(HEADS) + 1)}",
    ]
    for number, name in enumerate(ARMS):
        runs = [figures(path.parent) for path in sorted(out.glob(f"{number}_*/{MODEL}"))]
        if runs:
            cells = [_cell([run[key] for run in runs]) for key in FIGURES]
            usage = "; ".join(_usage(run) for run in runs)
            lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {usage} |")
    return "\n".join(lines) + "\n"


def _usage(run: dict[str, float]) -> str:
    return " ".join(f"{100 * value:.0f}" for key, value in sorted(run.items()) if key.startswith("usage_"))


def _cell(values: list[float]) -> str:
    digits = 1 if max(values) >= 1 else 4
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
