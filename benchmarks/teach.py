"""What teaching and a taught model cost: parameters, answers with many tasks, the heads' training, a whole lesson.

    python benchmarks/teach.py size
    python benchmarks/teach.py answer [--tasks 1 2 5 10] [--rounds 7]
    python benchmarks/teach.py heads --data FOLDER    # FOLDER: round1, round2 and test of experiments/ham_rounds.py
    python benchmarks/teach.py lesson --data FOLDER   # FOLDER: round1, round2, round3 of the same
    python benchmarks/teach.py all --data FOLDER

One thread; CPU time of the thread, so that other work on the machine counts less. `answer` compares the released code's
arrangement (tasks' copies in one batch, adapters one after another, norms apart, default layout) with the network that
pipelines run; the two take turns, and the ratio is the median over rounds. `heads` compares training the heads on
pictures mirrored and sent through the network anew each time, as released, with training them on kept features.
"""

import argparse
import copy
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev

import msgspec
import numpy as np
import torch
from machine import machine
from torch import Tensor, nn

from zoo.data.sources import open_data
from zoo.data.transforms import Preprocess
from zoo.models import acl
from zoo.models.acl import ACL, heads_loss
from zoo.registry.names import load_card
from zoo.tasks.extractor import adapted_shapes, default_stages, open_extractor
from zoo.tasks.teachable import cropped
from zoo.train.learners import NewTask, Settings, adapters
from zoo.train.teach import Start, prepare, teach

CPU = torch.device("cpu")


def sizes() -> None:
    """Parameters that a task of two classes adds."""
    print("| extractor | parameters | adapters a task | share | head of two classes |\n|---|---|---|---|---|")
    built = {name: getattr(acl, f"acl_{name}")(task_sizes=[2]) for name in acl.STAGES}
    for name, network in {"lite0_extractor": small(1), **built}.items():
        own = count(network.adapters)
        whole = count(network.backbone)
        print(f"| {name} | {whole:,} | {own:,} | {100 * own / whole:.1f}% | {count(network.heads):,} |")


def answer(tasks: list[int], rounds: int) -> None:
    """Time of an answer against the number of tasks."""
    print("| extractor, pixels, batch | tasks | plain features, ms | released, ms | ours, ms | ours / released |")
    print("|---|---|---|---|---|---|")
    for name, build, side, batch in (
        ("lite0_extractor", small, 96, 1),
        ("lite0_extractor", small, 144, 1),
        ("lite0_extractor", small, 144, 8),
        ("resnet18", lambda count: acl.acl_resnet18(task_sizes=[2] * count), 64, 1),
        ("resnet18", lambda count: acl.acl_resnet18(task_sizes=[2] * count), 224, 1),
    ):
        for number in tasks:
            torch.manual_seed(0)
            network = build(number)
            x = torch.randn(batch, 3, side, side)
            ours = network.optimized(x[:1])
            with torch.inference_mode():
                expected, given = network.features(x), ours.features(x)
                assert (given - expected).abs().max() < 1e-4 * expected.abs().max()
                alone, released, fast = turns(
                    rounds,
                    lambda n=network, x=x: n.plain_features(x),
                    lambda n=network, x=x: n(x),
                    lambda n=ours, x=x: n(x),
                )
            ratio = median(f / r for f, r in zip(fast, released, strict=True))
            cells = f"{median(alone):.1f} | {median(released):.1f} | {median(fast):.1f} | **{ratio:.2f}**"
            print(f"| {name}, {side}, {batch} | {number} | {cells} |", flush=True)


def heads(data: Path, side: int = 96, most: int = 100, seeds: int = 3) -> None:
    """The second stage as released and ours: seconds, and accuracy on the test pictures."""
    network, task = two_tasks(data, side, most)
    images, labels = adapters.balanced_set(network, task)
    tested, truth = pictures(data / "test", side, ("nv", "vasc", "mel", "df"))
    figures: dict[str, list[tuple[float, float]]] = {"released": [], "ours": []}
    for seed in range(seeds):
        for row, spent in figures.items():
            own = copy.deepcopy(network)
            torch.manual_seed(seed)
            own.heads[-1].reset_parameters()
            begun = time.thread_time()
            if row == "ours":
                fast = own.optimized(task.prepared(images[:1]))
                adapters.learn_heads(own, adapters.kept_features(fast, images, task), labels, seeded(task, seed))
            else:
                heads_as_released(own, images, labels, task, seed)
            seconds = time.thread_time() - begun
            with torch.inference_mode():
                answers = torch.cat([own.choose(task.prepared(part)).classes for part in tested.split(32)])
            spent.append((seconds, float((answers == truth).double().mean())))
    ours, released = (figures[row] for row in ("ours", "released"))
    print(f"heads of two tasks on {len(labels)} pictures of {side}x{side}, 50 epochs, {seeds} seeds")
    print("| | seconds | accuracy of four classes |\n|---|---|---|")
    for row, runs in figures.items():
        right = [100 * value for _, value in runs]
        print(f"| {row} | {median(seconds for seconds, _ in runs):.2f} | {mean(right):.1f} ± {stdev(right):.1f} |")
    ratio = median(slow / fast for (slow, _), (fast, _) in zip(released, ours, strict=True))
    print(f"{ratio:.0f} times as fast, computing the kept features included")


def heads_as_released(network: ACL, images: Tensor, labels: Tensor, task: NewTask, seed: int) -> None:
    """Every picture mirrored or not and through the network in every epoch; the backbone takes part in each step."""
    network.eval()
    optimizer = torch.optim.Adam(network.heads.parameters(), lr=adapters.HEAD_RATE)
    chance = np.random.default_rng(seed)
    for epoch in range(adapters.HEAD_EPOCHS):
        optimizer.param_groups[0]["lr"] = adapters.stepped(
            adapters.HEAD_RATE, adapters.HEAD_DROPS, epoch, adapters.HEAD_EPOCHS
        )
        for rows in torch.from_numpy(chance.permutation(len(labels))).split(task.settings.batch_size):
            x = images[rows]
            mirrored = torch.from_numpy(chance.random(len(rows)) < 0.5)
            x = torch.where(mirrored[:, None, None, None], x.flip(2), x)
            with torch.no_grad():
                features = network.features(task.prepared(x))
            loss = heads_loss(network.heads_of(features), labels[rows], network.task_sizes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def lesson(data: Path, side: int = 96, each: int = 100) -> None:
    """A task of five classes of a hundred pictures, from files to the written model, on top of a first task."""
    rounds = {"round1": ("nv", "vasc"), "round2": ("mel", "df"), "round3": ("akiec", "bcc", "bkl")}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for part, names in rounds.items():
            for name in names:
                task = "first" if name in ("vasc", "df") else "second"
                link(sorted((data / part / name).iterdir())[:each], place / task / name)
        model = place / "model.zoo"
        options = {"device": "cpu", "val": 0.0}
        teach(prepare(model, place / "first", start=Start(size=side), settings=Settings(epochs=1), **options))
        begun, clock = time.thread_time(), time.monotonic()
        ready = prepare(model, place / "second", **options)
        teach(ready)
        spent, passed = time.thread_time() - begun, time.monotonic() - clock
    shown = (
        f"{ready.task.classes} classes, {len(ready.task.images)} pictures of {side}x{side}, {adapters.EPOCHS} epochs"
    )
    print(f"{shown}: {spent:.0f} s of one core, {passed:.0f} s on the clock of a shared machine")


def small(tasks: int) -> ACL:
    """The bundled extractor with its default adapters."""
    extractor = open_extractor("lite0_extractor")
    stages = default_stages(extractor.network)
    *maps, (width,) = adapted_shapes(extractor.network, stages, load_card("lite0_extractor.in1k").input.size)
    return ACL(extractor.network, stages, [shape[0] for shape in maps], width, [2] * tasks)


def two_tasks(data: Path, side: int, most: int) -> tuple[ACL, NewTask]:
    """A network whose second task's adapters are trained and whose heads are not, and that task."""
    input = sized(side)
    network = small(0)
    learner = adapters.Learner()
    first = new_task(*pictures(data / "round1", side, ("nv", "vasc"), most), input, (), ())
    learner.learn(network, first)
    kept = torch.cat([first.images[first.labels == k][:20] for k in range(2)])
    images, labels = pictures(data / "round2", side, ("mel", "df"), most)
    second = new_task(images, labels + 2, input, kept, torch.tensor([0] * 20 + [1] * 20))
    torch.manual_seed(0)
    network.keep_heads()
    network.add_task(2)
    adapters.learn_adapters(network, nn.Linear(network.num_features, 3), second)
    return network.eval(), second


def new_task(images, labels, input, kept, kept_labels) -> NewTask:
    kept = kept if len(kept) else images[:0]
    kept_labels = kept_labels if len(kept_labels) else labels[:0]
    return NewTask(images, labels, 2, kept, kept_labels, 20, input, Settings(epochs=6), CPU)


def seeded(task: NewTask, seed: int) -> NewTask:
    return replace(task, settings=Settings(seed=seed))


def sized(side: int):
    return msgspec.structs.replace(load_card("lite0_extractor.in1k").input, size=(3, side, side), crop_pct=1.0)


def pictures(folder: Path, side: int, names: tuple[str, ...], most: int = 1000) -> tuple[Tensor, Tensor]:
    """Pictures of some classes, numbered as named."""
    data = open_data(str(folder.absolute()), "train")
    numbers = torch.tensor([names.index(name) if name in names else -1 for name in data.names])[data.labels]
    rows = torch.cat([(numbers == k).nonzero().flatten()[:most] for k in range(len(names))])
    images, _, _ = cropped(data[rows], Preprocess(sized(side)))
    return images, numbers[rows]


def link(paths: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in paths:
        (folder / path.name).symlink_to(path.resolve())


def turns(rounds: int, *calls) -> list[list[float]]:
    """Milliseconds of the thread, the calls taking turns."""
    spent: list[list[float]] = [[] for _ in calls]
    for at in range(rounds + 1):
        for times, call in zip(spent, calls, strict=True):
            begun = time.thread_time()
            call()
            if at:
                times.append(1000 * (time.thread_time() - begun))
    return spent


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("size", "answer", "heads", "lesson", "all"))
    parser.add_argument("--data", type=Path, help="folder that experiments/ham_rounds.py made")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.what in ("heads", "lesson", "all") and args.data is None:
        parser.error("--data FOLDER")
    torch.set_num_threads(1)
    print(machine())
    if args.what in ("size", "all"):
        sizes()
    if args.what in ("answer", "all"):
        answer(args.tasks, args.rounds)
    if args.what in ("lesson", "all"):
        lesson(args.data)
    if args.what in ("heads", "all"):
        heads(args.data)


if __name__ == "__main__":
    main()
