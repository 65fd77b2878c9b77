"""Adaptive distillation on CIFAR-100, task by task: each part switched off in turn, beside the usual reference rows.

    python experiments/distill_cifar100.py --data DIR --out runs/distill    # b50, 5 tasks of 10, on a GPU
    python experiments/distill_cifar100.py --data DIR --out runs/small --device cpu --base 10 --step 10 --tasks 3 \
        --pictures 100 --memory 200 --depth 20 --epochs 20                  # small, hours of one core

Class orders are NumPy's legacy permutations of the seeds 1993, 1994 and 1995; the first is the field's. The recipe is
the usual one: SGD 0.1, batch 128, a tenth of the rate after half and three quarters of the epochs, shifts and mirrors.
After each task the network answers by its head and by the nearest mean of its exemplars (iCaRL's rule). Tasks that are
finished are not learned again, one that is cut off goes on from its last epoch. Writes results.json, table.md and
curves.png.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from zoo.data.datasets import Pictures, load_pictures
from zoo.data.exemplars import Memory, class_means, nearest_mean
from zoo.data.transforms import Preprocess
from zoo.hub.checkpoint import write_whole
from zoo.metrics.continual import accuracy, average_incremental, final_average, forgetting, task_matrix
from zoo.models.distilled import CifarResNet, Distilled, default_levels
from zoo.registry.card import Input
from zoo.train.learners import NewTask, Settings
from zoo.train.learners.distill import Learner
from zoo.viz.curves import chart

ROWS = {
    "fine-tuning": {"kd": 0.0, "integrate": "off", "unsure": "off", "cutmix": False, "align": False, "memory": 0},
    "replay": {"kd": 0.0, "integrate": "off", "unsure": "off", "cutmix": False},
    "replay + distillation": {"integrate": "off", "unsure": "off", "cutmix": False},
    "ours": {},
    "without integration (same level)": {"integrate": "same_level"},
    "without uncertainty": {"unsure": "off"},
    "without CutMix": {"cutmix": False},
    "only integration": {"unsure": "off", "cutmix": False},
    "only uncertainty": {"integrate": "off", "cutmix": False},
    "only CutMix": {"integrate": "off", "unsure": "off"},
}
INPUT = Input(size=(3, 32, 32), mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761), crop_pct=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-100")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", type=int, default=50, help="classes of the first task")
    parser.add_argument("--step", type=int, default=10, help="classes of each further task")
    parser.add_argument("--tasks", type=int, default=6, help="the first one included")
    parser.add_argument("--pictures", type=int, default=500, help="training pictures of a class")
    parser.add_argument("--memory", type=int, default=2000, help="pictures kept in all")
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1993, 1994, 1995])
    parser.add_argument("--rows", nargs="+", default=[*ROWS], choices=[*ROWS, "joint"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, dict]] = {}
    for seed in args.seeds:
        for row in args.rows:
            results.setdefault(row, {})[str(seed)] = one_run(args, row, seed)
            write_whole(args.out / "results.json", json.dumps(results, indent=1).encode())
    table = write_table(results)
    (args.out / "table.md").write_text(table, encoding="utf-8")
    draw(results).save(args.out / "curves.png")
    print(table)


def one_run(args: argparse.Namespace, row: str, seed: int) -> dict:
    """Figures of a row on a class order; each finished task is kept beside them."""
    folder = args.out / row.replace(" ", "_") / str(seed)
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [args.base, *[args.step] * (args.tasks - 1)]
    sizes = [sum(sizes)] if row == "joint" else sizes
    order = np.random.RandomState(seed).permutation(100)[: sum(sizes)]
    learnt, tested = (ordered(load_pictures("cifar100", split, args.data), order) for split in ("train", "test"))
    learnt = learnt[torch.cat([(learnt.labels == k).nonzero()[:, 0][: args.pictures] for k in range(sum(sizes))])]
    switches = dict(ROWS.get(row, ROWS["fine-tuning"]))
    memory = Memory(switches.pop("memory", args.memory))
    learner = Learner(epochs=args.epochs, rate=0.1, **switches)
    torch.manual_seed(seed)
    body = CifarResNet(args.depth, num_classes=0)
    levels = default_levels(body)
    network = Distilled(body, levels=levels, channels=(16, 32, 64)).to(args.device)
    truths, heads, means = [], [], []
    for at, size in enumerate(sizes):
        first, file = sum(sizes[:at]), folder / f"task{at}.safetensors"
        if file.exists():
            state = load_file(file)
            rows = torch.split(state.pop("memory.rows"), state.pop("memory.counts").tolist())
            network.add_task(size)
            network.load_state_dict(state)
            memory = Memory(memory.limit, rows=rows)
        else:
            task = task_of(args, learnt, memory, first, size, seed, folder / "lesson.safetensors", f"{row} {seed} {at}")
            learner.learn(network, task)
            memory = remembered(network, learnt, memory, first, size, args.device)
            kept = {"memory.rows": memory.labelled()[0], "memory.counts": torch.tensor([len(r) for r in memory.rows])}
            state = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
            write_whole(file, save({**state, **kept}))
            (folder / "lesson.safetensors").unlink(missing_ok=True)
        seen = tested[tested.labels < first + size]
        features = described(network, seen.images, args.device)
        truths.append(seen.labels.numpy())
        heads.append(network.head.cpu()(features).argmax(1).detach().numpy())
        network.to(args.device)
        if memory.limit and all(len(rows) for rows in memory.rows):
            centres = class_means([described(network, learnt.images[rows], args.device) for rows in memory.rows])
            means.append(nearest_mean(features, centres)[0].numpy())
    figures = {
        "head": figures_of(truths, heads, sizes),
        "nearest mean": figures_of(truths, means, sizes) if means else None,
    }
    write_whole(folder / "result.json", json.dumps(figures).encode())
    print(row, seed, json.dumps(figures["head"]["curve"]), flush=True)
    return figures


def ordered(pictures: Pictures, order: np.ndarray) -> Pictures:
    """The pictures of the classes in an order, numbered in it."""
    numbers = torch.full((100,), -1)
    numbers[torch.from_numpy(order)] = torch.arange(len(order))
    labels = numbers[pictures.labels]
    names = tuple(pictures.names[k] for k in order)
    return Pictures(pictures.images[labels >= 0], labels[labels >= 0], names)


def task_of(
    args: argparse.Namespace, learnt: Pictures, memory: Memory, first: int, size: int, seed: int, state: Path, what: str
) -> NewTask:
    rows, labels = memory.labelled()
    mine = (learnt.labels >= first) & (learnt.labels < first + size)
    return NewTask(
        learnt.images[mine],
        learnt.labels[mine],
        size,
        learnt.images[rows],
        labels,
        memory.quota(max(1, first)),
        INPUT,
        Settings(batch_size=128, seed=seed),
        torch.device(args.device),
        state,
        lambda line, done: print(what, line, flush=True),
    )


def remembered(network: Distilled, learnt: Pictures, memory: Memory, first: int, size: int, device: str) -> Memory:
    """The memory after a task, chosen by herding."""
    rows = [(learnt.labels == label).nonzero()[:, 0] for label in range(first, first + size)]
    return memory.after(rows, [described(network, learnt.images[mine], device) for mine in rows])


@torch.no_grad()
def described(network: Distilled, images: Tensor, device: str) -> Tensor:
    """(N, D) features on the CPU."""
    normalise = Preprocess(INPUT).normalise
    network.eval()
    found = [network.describe(normalise(part.to(device))).cpu() for part in torch.split(images, 500)]
    return torch.cat(found) if found else torch.zeros(0, network.num_features)


def figures_of(truths: list, answers: list, sizes: list[int]) -> dict:
    """Per cent: the curve, its mean, its end, forgetting, and accuracy on old and on new classes after each task."""
    matrix = task_matrix(truths, answers, sizes)
    curve = [accuracy(truth, answer) for truth, answer in zip(truths, answers, strict=True)]
    ends = np.cumsum(sizes)
    old = [accuracy(t[t < e], a[t < e]) for t, a, e in zip(truths[1:], answers[1:], ends[:-1], strict=True)]
    new = [matrix[at, at] for at in range(len(truths))]
    return {
        "curve": [100 * value for value in curve],
        "average": 100 * average_incremental(curve),
        "last": 100 * curve[-1],
        "final_average": 100 * final_average(matrix),
        "forgetting": 100 * forgetting(matrix),
        "old": [100 * value for value in old],
        "new": [100 * float(value) for value in new],
    }


def write_table(results: dict[str, dict[str, dict]]) -> str:
    lines = [
        "| row | average incremental accuracy | last | forgetting | old classes, last task | new classes, last task "
        "| average, nearest mean |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, runs in results.items():
        heads = [run["head"] for run in runs.values()]
        old = [head["old"][-1] for head in heads if head["old"]]
        cells = [
            *(spread([head[key] for head in heads]) for key in ("average", "last", "forgetting")),
            spread(old),
            spread([head["new"][-1] for head in heads]),
            spread([run["nearest mean"]["average"] for run in runs.values() if run["nearest mean"]]),
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean and deviation."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def draw(results: dict[str, dict[str, dict]]):
    """Accuracy on all classes learned so far after each task, a line a row."""
    series = {}
    for row, runs in results.items():
        mean = np.mean([run["head"]["curve"] for run in runs.values()], axis=0)
        series[row] = [(at + 1, float(value)) for at, value in enumerate(mean)]
    return chart(series, title="accuracy on the classes learned so far, per cent", across="task")


if __name__ == "__main__":
    main()
