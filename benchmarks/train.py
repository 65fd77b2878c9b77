"""What `zoo train` costs beside a bare loop of timm's parts, `zoo eval` beside the bare network, and loading alone.

    python benchmarks/train.py [--side 64] [--batch-size 16] [--rounds 3] [--device cpu]

timm's loop has the steps of its train script: its data loader, model, optimizer and scheduler, with the same batch,
size, augmentation (random crop, mirror), precision and threads. Both read the same folder of JPEG files in this
process, in turns. Timed are the steps 21 to 40 of an epoch: starting, measuring and saving are not part of it. On the
CPU the seconds are those of this thread, so that other work on the machine does not count; the ratio is the median.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import timm.data
import timm.optim
import timm.scheduler
import torch
from machine import machine
from PIL import Image
from safetensors.torch import save_file

import zoo
from zoo.data.sources import Samples, open_data
from zoo.hub.checkpoint import facts_for
from zoo.layers.packing import FORMAT, pack
from zoo.registry.labels import label_names
from zoo.tasks.evaluate import evaluate
from zoo.train.feed import Learnt
from zoo.train.loop import WATCH, Progress, train
from zoo.train.networks import input_of
from zoo.train.recipe import Augment, Data, Optimizer, Recipe, Schedule

CLASSES = 10
STEPS = 2 * WATCH + 1  # zoo train reports behind the steps 20 and 40
SCALE = (0.25, 1.0)
EVALUATED = {"reste_resnet20_cifar": 8192, "reste_resnet18_cifar": 512}  # pictures


def pictures(folder: Path, count: int, side: int) -> None:
    """A folder of JPEG files, a sixth larger than the network's size."""
    rng = np.random.default_rng(0)
    for i in range(count):
        place = folder / "train" / f"class{i % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((side * 7 // 6,) * 2, Image.Resampling.BICUBIC).save(place / f"{i}.jpg", quality=90)


def recipe_for(args: argparse.Namespace) -> Recipe:
    return Recipe(
        model="timm:resnet18",
        data=Data(name="set", size=args.side),
        augment=Augment(scale=SCALE),
        schedule=Schedule(epochs=1, batch_size=args.batch_size),
        optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=0.05),
    )


def zoo_round(args: argparse.Namespace, folder: Path, clock: Callable[[], float]) -> float:
    """Seconds a step of `zoo train`."""
    marks: dict[int, float] = {}

    def report(at: Progress) -> None:
        marks.setdefault(at.step, clock())

    with tempfile.TemporaryDirectory() as out:
        train(recipe_for(args), Path(out), data=folder, device=args.device, workers=0, report=report)
    return (marks[2 * WATCH] - marks[WATCH]) / WATCH


def timm_round(args: argparse.Namespace, folder: Path, clock: Callable[[], float]) -> float:
    """Seconds a step of timm's parts."""
    device = torch.device("cuda" if args.device == "auto" and torch.cuda.is_available() else "cpu")
    dataset = timm.data.create_dataset("", root=str(folder / "set" / "train"))
    loader = timm.data.create_loader(
        dataset,
        (3, args.side, args.side),
        args.batch_size,
        is_training=True,
        scale=SCALE,
        color_jitter=None,
        interpolation="bicubic",
        num_workers=0,
        use_prefetcher=False,
        persistent_workers=False,
    )
    model = timm.create_model("resnet18", num_classes=CLASSES).to(device).train()
    optimizer = timm.optim.create_optimizer_v2(model, "adamw", 1e-3, 0.05, fused=True)
    scheduler, _ = timm.scheduler.create_scheduler_v2(optimizer, "cosine", 1, updates_per_epoch=STEPS)
    criterion = torch.nn.CrossEntropyLoss()
    for step, (images, labels) in enumerate(itertools.islice(loader, 2 * WATCH), 1):
        loss = criterion(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step_update(step)
        if step == WATCH:
            loss.item()  # waits for a GPU
            start = clock()
    loss.item()
    return (clock() - start) / WATCH


def loading(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """CPU microseconds a picture: all, and by what."""
    recipe, input = recipe_for(args), input_of("timm:resnet18")
    data = open_data("set", "train", folder)
    assert isinstance(data, Samples)
    learnt = Learnt(data, recipe, input)
    learnt[0, 0]  # imports
    count = 8 * args.batch_size
    clock = time.thread_time
    start = clock()
    for step in range(8):
        learnt[0, step]
    seconds = {"all": clock() - start}
    start = clock()
    images = [data.image(i) for i in range(count)]
    seconds["reading and decoding"] = clock() - start
    from timm.data.transforms import RandomResizedCropAndInterpolation

    cut = RandomResizedCropAndInterpolation(args.side, SCALE, interpolation="bicubic")
    start = clock()
    for image in images:
        np.asarray(cut(image)).copy()
    seconds["random crop and resize"] = clock() - start
    seconds["chance, mirror, stacking"] = 2 * seconds["all"] - sum(seconds.values())
    return {name: 1e6 * value / count for name, value in seconds.items()}


def evaluation(name: str, folder: Path, count: int) -> float:
    """Share of the bare network's throughput that `zoo eval` reaches once it has started, with random weights."""
    place = folder / name / "cifar10"
    place.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    np.savez(place / "test.npz", images=images, labels=np.arange(count) % 10, names=label_names("cifar10"))
    weights = place / "weights.safetensors"
    network = zoo.create_model(name)
    for parameter in network.parameters():
        parameter.data[parameter == 0] = 1e-9  # of millions of random weights one may be 0, which has no sign to pack
    save_file(pack(network, torch.float32), weights, facts_for(name, {"num_classes": 10}, FORMAT))
    options = {"checkpoint_path": weights, "device": "cpu", "batch_size": 64}
    model, x = zoo.pipeline(name, **options).model, torch.rand(64, 3, 32, 32)
    ratios = []
    for _ in range(5):
        start = time.thread_time()
        with torch.inference_mode():
            for _ in range(count // 64):
                model(x)
        bare = time.thread_time() - start
        start = time.thread_time()
        found = open_data("cifar10", "test", place)
        zoo.pipeline(name, **options)
        starting = time.thread_time() - start
        start = time.thread_time()
        evaluate(name, "cifar10", root=place, workers=0, **options)
        ratios.append(bare / (time.thread_time() - start - starting))
        assert len(found) == count
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="auto or cpu")
    args = parser.parse_args()
    on_gpu = args.device == "auto" and torch.cuda.is_available()
    clock = time.perf_counter if on_gpu else time.thread_time
    print(machine(), torch.cuda.get_device_name() if on_gpu else "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures(folder / "set", STEPS * args.batch_size, args.side)
        ratios, rates = [], []
        for _ in range(args.rounds):
            theirs, ours = timm_round(args, folder, clock), zoo_round(args, folder, clock)
            ratios.append(theirs / ours)
            rates.append((args.batch_size / theirs, args.batch_size / ours))
        theirs, ours = (statistics.median(rate) for rate in zip(*rates, strict=True))
        print(f"timm's loop   {theirs:8.1f} images/s, resnet18 at {args.side} px, batch {args.batch_size}")
        print(f"zoo train     {ours:8.1f} images/s   ratio {statistics.median(ratios):.3f}")
        parts = loading(args, folder)
        print(f"loading alone {1e6 / parts['all']:8.1f} images/s and core")
        for part, microseconds in list(parts.items())[1:]:
            print(f"  {part:24s} {microseconds:6.0f} us a picture, {100 * microseconds / parts['all']:3.0f}%")
        for name, count in EVALUATED.items():
            print(f"zoo eval      {evaluation(name, folder, count):8.2f} of the bare network, {name}")


if __name__ == "__main__":
    main()
