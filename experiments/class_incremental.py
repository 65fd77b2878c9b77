"""Class-incremental CIFAR-100 on a pretrained extractor: what learns by `zoo teach`, beside the usual reference rows.

    python experiments/class_incremental.py --data DIR --out runs/b0          # 10 tasks of 10, on a GPU
    python experiments/class_incremental.py --data DIR --out runs/small --device cpu --step 5 --tasks 4 --pictures 50 \
        --tested 50 --memory 100 --side 64 --epochs 10                        # reduced: half an hour of one core

Every row starts from the same frozen or free extractor and meets the same classes in the same order: NumPy's legacy
permutations of the seeds, 1993 first. `adapters` and `distill` are the methods of `zoo teach`; fine-tuning keeps no
pictures; iCaRL keeps some, distils its older self's logits (softmax, where the paper has sigmoids) and answers by the
nearest mean; joint learns all classes at once and is no continual learner. A row more is a line in `ROWS`.
Tasks that are finished are not learned again, one that is cut off goes on from its last epoch. Writes results.json,
table.md and curves.png.
"""

import argparse
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from zoo.data.datasets import Pictures, load_pictures
from zoo.data.exemplars import Memory, class_means, nearest_mean
from zoo.data.transforms import Preprocess
from zoo.hub.checkpoint import write_whole
from zoo.metrics.continual import accuracy, average_incremental, backward_transfer, forgetting, task_matrix
from zoo.tasks.extractor import Extractor, open_extractor
from zoo.tasks.taught import METHODS
from zoo.train.learners import Learner, NewTask, Settings, adapters, distill
from zoo.viz.curves import chart


@dataclass(frozen=True)
class Row:
    """One learner: its method, its arguments, whether pictures are kept, how it answers."""

    method: str
    learner: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    keeps: bool = True
    by_means: bool = False
    at_once: bool = False

    def new(self) -> Learner:
        return self.learner(**self.arguments)


PLAIN = {"integrate": "off", "unsure": "off", "cutmix": False, "align": False}
ROWS = {
    "adapters": Row("adapters", adapters.Learner),
    "distill": Row("distill", distill.Learner),
    "fine-tuning": Row("distill", distill.Learner, {**PLAIN, "kd": 0.0}, keeps=False),
    "iCaRL": Row("distill", distill.Learner, {**PLAIN, "kd": 1.0}, by_means=True),
    "joint": Row("distill", distill.Learner, {**PLAIN, "kd": 0.0}, keeps=False, at_once=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-100")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--extractor", default="lite0_extractor")
    parser.add_argument("--step", type=int, default=10, help="classes of a task")
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=500, help="training pictures of a class")
    parser.add_argument("--tested", type=int, default=100, help="test pictures of a class")
    parser.add_argument("--memory", type=int, default=2000, help="pictures kept in all")
    parser.add_argument("--side", type=int, default=128, help="what the 32 pixels are enlarged to")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1993, 1994, 1995])
    parser.add_argument("--rows", nargs="+", default=[*ROWS], choices=[*ROWS])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1 if args.device == "cpu" else torch.get_num_threads())

    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, dict]] = {}
    for seed in args.seeds:
        for name in args.rows:
            results.setdefault(name, {})[str(seed)] = one_run(args, name, seed)
            write_whole(args.out / "results.json", json.dumps(results, indent=1).encode())
            (args.out / "table.md").write_text(table_of(results), encoding="utf-8")
            draw(results).save(args.out / "curves.png")
    print(table_of(results))


def one_run(args: argparse.Namespace, name: str, seed: int) -> dict:
    """Figures of a row on a class order; each finished task is kept beside them."""
    row, folder = ROWS[name], args.out / name / str(seed)
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [args.step * args.tasks] if row.at_once else [args.step] * args.tasks
    order = np.random.RandomState(seed).permutation(100)[: sum(sizes)]
    learnt = enlarged(args, "train", order, args.pictures)
    tested = enlarged(args, "test", order, args.tested)
    extractor = open_extractor(args.extractor)
    input = msgspec.structs.replace(extractor.input, size=(3, args.side, args.side), crop_pct=1.0)
    learner = row.new()
    arguments = learner.arguments(extractor, input)
    memory = Memory(args.memory if row.keeps else 0)
    network = METHODS[row.method](extractor.network, [], **arguments)
    truths, answers = [], []
    for at, size in enumerate(sizes):
        first, file = sum(sizes[:at]), folder / f"task{at}.safetensors"
        if file.exists():
            network, memory = restored(file, row, args, extractor, sizes[: at + 1], arguments)
        else:
            task = task_of(args, learnt, memory, first, size, seed, input, folder, f"{name} {seed} task {at + 1}")
            network.to(args.device)
            learner.learn(network, task)
            memory = remembered(network, learnt, memory, first, size, input, args.device)
            keep(file, network, memory)
            (folder / "lesson.safetensors").unlink(missing_ok=True)
        seen = tested[tested.labels < first + size]
        truths.append(seen.labels.numpy())
        answers.append(answered(row, network.to(args.device), learnt, memory, seen.images, input, args.device))
    figures = figures_of(truths, answers, sizes)
    write_whole(folder / "result.json", json.dumps(figures).encode())
    for file in folder.glob("task*.safetensors"):
        file.unlink()
    print(name, seed, json.dumps(figures["curve"]), flush=True)
    return figures


def enlarged(args: argparse.Namespace, split: str, order: np.ndarray, most: int) -> Pictures:
    """The first pictures of each class of an order, numbered in it, brought to the side that was asked for."""
    whole = load_pictures("cifar100", split, args.data)
    rows = torch.cat([(whole.labels == k).nonzero().flatten()[:most] for k in order.tolist()])
    labels = torch.arange(len(order)).repeat_interleave(len(rows) // len(order))
    maps = whole.images[rows].permute(0, 3, 1, 2).float()
    large = torch.cat(
        [F.interpolate(part, size=(args.side, args.side), mode="bicubic") for part in torch.split(maps, 256)]
    )
    images = large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return Pictures(images, labels, tuple(whole.names[k] for k in order))


def task_of(
    args: argparse.Namespace,
    learnt: Pictures,
    memory: Memory,
    first: int,
    size: int,
    seed: int,
    input: Any,
    folder: Path,
    what: str,
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
        input,
        Settings(epochs=args.epochs, seed=seed),
        torch.device(args.device),
        folder / "lesson.safetensors",
        lambda line, done: print(what, line, flush=True),
    )


def remembered(
    network: nn.Module, learnt: Pictures, memory: Memory, first: int, size: int, input: Any, device: str
) -> Memory:
    """The memory after a task, chosen by herding."""
    rows = [(learnt.labels == label).nonzero().flatten() for label in range(first, first + size)]
    return memory.after(rows, [computed(network.describe, learnt.images[mine], input, device) for mine in rows])


def answered(
    row: Row, network: nn.Module, learnt: Pictures, memory: Memory, images: Tensor, input: Any, device: str
) -> np.ndarray:
    network.eval()
    if not row.by_means:
        return computed(lambda x: network.choose(x).classes, images, input, device).numpy()
    kept = [computed(network.describe, learnt.images[rows], input, device) for rows in memory.rows]
    queries = computed(network.describe, images, input, device)
    return nearest_mean(queries, class_means(kept))[0].numpy()


def computed(function: Any, images: Tensor, input: Any, device: str) -> Tensor:
    """A function of all pictures, a few at a time."""
    normalise = Preprocess(input).normalise
    with torch.no_grad():
        return torch.cat([function(normalise(part.to(device))).cpu() for part in torch.split(images, 64)])


def keep(file: Path, network: nn.Module, memory: Memory) -> None:
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    state["memory.rows"] = memory.labelled()[0]
    state["memory.counts"] = torch.tensor([len(rows) for rows in memory.rows])
    write_whole(file, save(state))


def restored(
    file: Path, row: Row, args: argparse.Namespace, extractor: Extractor, sizes: list[int], arguments: dict[str, Any]
) -> tuple[nn.Module, Memory]:
    state = load_file(file)
    rows = torch.split(state.pop("memory.rows"), state.pop("memory.counts").tolist())
    network = METHODS[row.method](extractor.network, sizes, **arguments)
    network.load_state_dict(state)
    return network, Memory(args.memory if row.keeps else 0, rows=rows)


def figures_of(truths: list, answers: list, sizes: list[int]) -> dict:
    """In per cent: accuracy after each task, its mean and its end, forgetting and backward transfer."""
    matrix = task_matrix(truths, answers, sizes)
    curve = [accuracy(truth, answer) for truth, answer in zip(truths, answers, strict=True)]
    return {
        "curve": [100 * value for value in curve],
        "average": 100 * average_incremental(curve),
        "last": 100 * curve[-1],
        "forgetting": 100 * forgetting(matrix),
        "backward transfer": 100 * backward_transfer(matrix),
    }


def table_of(results: dict[str, dict[str, dict]]) -> str:
    names = ("average", "last", "forgetting", "backward transfer")
    lines = [f"| row | seeds | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for row, runs in results.items():
        once = ROWS[row].at_once
        shown = ["-" if once and key != "last" else spread([run[key] for run in runs.values()]) for key in names]
        lines.append(f"| {row} | {len(runs)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean and deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def draw(results: dict[str, dict[str, dict]]):
    """Accuracy on all classes learned so far after each task, a line a row that has tasks, joint as a level."""
    series, length = {}, max(len(run["curve"]) for runs in results.values() for run in runs.values())
    for row, runs in results.items():
        mean = np.mean([run["curve"] for run in runs.values()], axis=0)
        at = range(1, length + 1)
        series[row] = list(zip(at, np.broadcast_to(mean, length).tolist() if ROWS[row].at_once else mean, strict=True))
    return chart(series, title="accuracy on the classes learned so far, per cent", across="task")


if __name__ == "__main__":
    main()
