"""The ladder block without its parts: no progressive shift, no ladder, no gate, at a small and equal budget.

    python experiments/pslt_ablation.py --data DIR --out runs/pslt_ablation     # 12 runs of some CPU minutes each

All forms train by the recipe `pslt_pico` on CIFAR-10 with the same epochs, seeds, order of pictures and augmentation;
they differ in one of `model_args.shift`, `.ladder` and `.gate`. What is reported is the last epoch's accuracy on the
10,000 test pictures, with no selection, and its difference from the full block, seed by seed. Runs that are finished
are not run again, a killed one goes on.
"""

import argparse
import json
import statistics
from pathlib import Path

from zoo.tasks.evaluate import evaluate
from zoo.train.loop import train
from zoo.train.recipe import load_recipe

FORMS = {
    "full block": (),
    "no progressive shift": ("model_args.shift=false",),
    "no ladder": ("model_args.ladder=false",),
    "no gate": ("model_args.gate=false",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and table.md")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of the recipe")
    args = parser.parse_args()
    results: dict[str, dict[int, float]] = {form: {} for form in FORMS}
    for seed in args.seeds:
        for form in FORMS:
            results[form][seed] = one_run(args, form, seed)
            print(f"{form}, seed {seed}: {results[form][seed]:.2f}", flush=True)
    table = write_table(results, args.epochs)
    (args.out / "table.md").write_text(table, encoding="utf-8")
    print(table)


def one_run(args: argparse.Namespace, form: str, seed: int) -> float:
    """Top-1 on the test pictures, in per cent."""
    folder = args.out / f"{form.replace(' ', '_')}_{seed}"
    result = folder / "result.json"
    if not result.exists():
        overrides = (
            f"schedule.epochs={args.epochs}",
            "schedule.warmup=0",
            "data.held_out=0",
            f"data.crop_epochs={args.epochs}",
            "data.still_epochs=0",
            f"seed={seed}",
            *FORMS[form],
            *args.set,
        )
        file = train(load_recipe("pslt_pico", overrides), folder, data=args.data, device="cpu")
        accuracy = evaluate("pslt_pico", "cifar10", root=args.data, checkpoint_path=file, device="cpu")
        result.write_text(json.dumps({"top1": accuracy.top1}), encoding="utf-8")
    return json.loads(result.read_text(encoding="utf-8"))["top1"]


def write_table(results: dict[str, dict[int, float]], epochs: int) -> str:
    seeds = list(results["full block"])
    lines = [
        f"{epochs} epochs; top-1 on the CIFAR-10 test set, last epoch.",
        "",
        f"| form | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | less than the full block |",
        f"|---|{'---|' * (len(seeds) + 2)}",
    ]
    for form, figures in results.items():
        losses = [results["full block"][seed] - figures[seed] for seed in seeds]
        spread = f" ± {statistics.stdev(losses):.2f}" if len(seeds) > 1 else ""
        less = "" if form == "full block" else f"{statistics.mean(losses):.2f}{spread}"
        cells = [f"{figures[seed]:.2f}" for seed in seeds] + [f"{statistics.mean(figures.values()):.2f}", less]
        lines.append(f"| {form} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
