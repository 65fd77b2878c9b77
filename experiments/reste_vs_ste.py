"""ReSTE against plain straight-through (STE) at a small budget: the paper's claim on ResNet-20, CIFAR-10, 1-bit/1-bit.

    python experiments/reste_vs_ste.py --data DIR --out runs/reste_vs_ste --epochs 6 --seeds 0 1 2

Both estimators train from random weights by the recipe `reste_resnet20_cifar`, with the same epochs, seeds, order of
pictures and augmentation; they differ in `model_args.estimator` alone. All epochs but the last see squares of 24x24
pixels, to afford more of them. What is reported is the last epoch's accuracy on the 10,000
test pictures, with no selection. Runs that are finished are not run again, a killed one goes on.
"""

import argparse
import json
import statistics
from pathlib import Path

from zoo.tasks.evaluate import evaluate
from zoo.train.loop import train
from zoo.train.recipe import load_recipe

ESTIMATORS = {"ReSTE": "reste", "STE": "ste"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and table.md")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of the recipe")
    args = parser.parse_args()

    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ESTIMATORS}
    for seed in args.seeds:
        for name, estimator in ESTIMATORS.items():
            rows[name].append(one_run(args, estimator, seed))
            print(f"{name} seed {seed}: {rows[name][-1]}", flush=True)
    table = write_table(rows, args.epochs, args.seeds)
    (args.out / "table.md").write_text(table, encoding="utf-8")
    print(table)


def one_run(args: argparse.Namespace, estimator: str, seed: int) -> dict[str, float]:
    folder = args.out / f"{estimator}_{seed}"
    overrides = (
        f"schedule.epochs={args.epochs}",
        "schedule.warmup=1",
        "optimizer.lr=0.004",
        "data.held_out=0",
        "data.crop=24",
        f"data.crop_epochs={args.epochs - 1}",
        "data.still_epochs=1",
        f'model_args.estimator="{estimator}"',
        f"seed={seed}",
        *args.set,
    )
    result = folder / "result.json"
    if not result.exists():
        file = train(load_recipe("reste_resnet20_cifar", overrides), folder, data=args.data, device="cpu")
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        accuracy = evaluate("reste_resnet20_cifar", "cifar10", root=args.data, checkpoint_path=file, device="cpu")
        figures = {
            "top1": accuracy.top1,
            "loss": last["loss"],
            "error": last["estimating_error"],
            "stability": last["gradient_stability"],
        }
        result.write_text(json.dumps(figures))
    return json.loads(result.read_text())


def write_table(rows: dict[str, list[dict[str, float]]], epochs: int, seeds: list[int]) -> str:
    lines = [
        f"| estimator | top-1, mean ± std of {len(seeds)} seeds | each seed | training loss | estimating error "
        "| gradient stability |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in rows.items():
        top1 = [run["top1"] for run in runs]
        spread = statistics.stdev(top1) if len(top1) > 1 else float("nan")
        loss, error, stability = (statistics.mean(run[key] for run in runs) for key in ("loss", "error", "stability"))
        each = ", ".join(f"{value:.2f}" for value in top1)
        lines.append(
            f"| {name} | {statistics.mean(top1):.2f} ± {spread:.2f} | {each} | {loss:.3f} | {error:.0f} "
            f"| {stability:.2e} |"
        )
    gains = [a["top1"] - b["top1"] for a, b in zip(rows["ReSTE"], rows["STE"], strict=True)]
    lines.append("")
    lines.append(
        f"ReSTE minus STE, seed by seed, after {epochs} epochs: {', '.join(f'{gain:+.2f}' for gain in gains)} points."
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
