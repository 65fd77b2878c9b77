"""SGIEL with and without its shape losses, on drawn people: does shape erasing help where shape is not all there is?

    zoo reid synth --out DIR
    python experiments/sgiel_ablation.py --data DIR --out runs/sgiel_ablation --seeds 0 1 2

Both train the same small network by the recipe `sgiel_pico_people`, with the same seeds, identities, order of pictures
and augmentation. Without the shape losses nothing is left but identity, triplet and mutual losses, and no shape map is
looked at. What is reported is the teacher after the last epoch, on test identities that neither saw: infrared queries
against ten drawn single-shot galleries. Runs that are finished are not run again, a killed one goes on.
"""

import argparse
import json
import statistics
from pathlib import Path

from people_table import Drawn, network

from zoo.train.loop import train
from zoo.train.recipe import load_recipe

VARIANTS = {"all losses": True, "without shape": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of zoo reid synth")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and table.md")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of the recipe")
    args = parser.parse_args()

    drawn = Drawn(args.data, json.loads((args.data / "people.json").read_text())["seed"])
    rows: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    for seed in args.seeds:
        for name, with_shape in VARIANTS.items():
            rows[name].append(one_run(args, drawn, with_shape, seed))
        table = write_table(rows)
        (args.out / "table.md").write_text(table, encoding="utf-8")
        print(table, flush=True)


def one_run(args: argparse.Namespace, drawn: Drawn, with_shape: bool, seed: int) -> list[float]:
    """Rank-1, mAP and mINP in per cent."""
    folder = args.out / f"{'all' if with_shape else 'plain'}_{seed}"
    result = folder / "result.json"
    if not result.exists():
        overrides = (f"method_args.shape={str(with_shape).lower()}", f"seed={seed}", *args.set)
        file = train(load_recipe("sgiel_pico_people", overrides), folder, data=args.data, device="cpu")
        scores = drawn.score(network("sgiel_pico", file, drawn))
        result.write_text(json.dumps([float(value) for value in scores]))
    return json.loads(result.read_text())


def write_table(rows: dict[str, list[list[float]]]) -> str:
    lines = ["| losses | R-1, mean ± deviation | mAP | mINP | R-1 of each seed |", "|---|---|---|---|---|"]
    for name, runs in rows.items():
        cells = [
            f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else float('nan'):.1f}"
            for values in zip(*runs, strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {', '.join(f'{run[0]:.1f}' for run in runs)} |")
    gains = [a[0] - b[0] for a, b in zip(*rows.values(), strict=True)]
    lines += ["", f"With minus without, seed by seed: {', '.join(f'{gain:+.1f}' for gain in gains)} points of R-1."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
