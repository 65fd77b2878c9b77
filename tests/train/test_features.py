"""What a recipe may ask for: it trains, and a run that is stopped ends as one that was not."""

import json
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import zoo
from zoo.data.datasets import dataset_names, load_pictures
from zoo.errors import InputError, UsageError, ZooError
from zoo.tasks.evaluate import evaluate
from zoo.train.checkpoint import load_run, save_run
from zoo.train.loop import train
from zoo.train.methods import Method, new_method
from zoo.train.recipe import Augment, Data, Distill, Optimizer, Recipe, Schedule, load_recipe, recipe_names

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VIT = {"img_size": 32, "drop_rate": 0.1, "drop_path_rate": 0.1}


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data_root):
    """The small set as files, in parts train and val."""
    root = tmp_path_factory.mktemp("files")
    for part, split, count in (("train", "train", 48), ("val", "test", 20)):
        pictures = load_pictures("cifar10", split, data_root)
        for i in range(count):
            place = root / part / pictures.names[pictures.labels[i]]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures.images[i].numpy()).save(place / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(zoo.create_model("reste_resnet20_cifar").state_dict(), path)
    return path


def everything(folder, teacher, **changes):
    """All at once, on a network with dropout and drop path."""
    return Recipe(
        **{
            "model": "timm:test_vit",
            "model_args": VIT,
            "data": Data(name=str(folder), eval_split="val", size=32, held_out=8),
            "augment": Augment(
                scale=(0.5, 1.0), auto="rand-m5-mstd0.5-inc1", jitter=0.2, erase=0.3, mixup=0.5, cutmix=0.5, repeats=2
            ),
            "schedule": Schedule(epochs=2, batch_size=8, accumulate=2, warmup=1, min_lr=1e-5),
            "optimizer": Optimizer(
                name="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.8, clip_norm=1.0, ema=0.99
            ),
            "distill": Distill(teacher="reste_resnet20_cifar", checkpoint=str(teacher), weight=0.3),
            "method_args": {"smoothing": 0.1},
            "checkpointing": True,
            **changes,
        }
    )  # fmt: skip


def test_everything_at_once_survives_a_stop_in_the_middle_of_an_epoch(folder, teacher, tmp_path, monkeypatch):
    recipe = everything(folder, teacher)
    whole = train(recipe, tmp_path / "whole", device="cpu", workers=0, tensorboard=True)
    monkeypatch.setattr("zoo.train.loop.WATCH", 1)  # every step reports, so that the stop can come at any

    def stop(at):
        if (at.epoch, at.step) in ((1, 2), (2, 4)):
            signal.raise_signal(signal.SIGINT)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "parts", device="cpu", workers=0, report=stop)
    parts = train(recipe, tmp_path / "parts", device="cpu", workers=0)
    for name in ("model.safetensors", "best.safetensors", "last.safetensors"):
        ours, theirs = load_file(parts.with_name(name)), load_file(whole.with_name(name))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    starts = json.loads((tmp_path / "parts" / "environment.json").read_text())
    assert [(start["from_epoch"], start["from_step"]) for start in starts] == [(0, 0), (0, 2), (1, 4)]
    assert [line["epoch"] for line in lines(tmp_path / "parts")] == [1, 2]
    assert {"held_out_top1", "val_top1", "val_top5"} <= lines(tmp_path / "parts")[-1].keys()
    assert list((tmp_path / "whole").glob("events.*"))
    with Image.open(tmp_path / "whole" / "curves.png") as picture:
        assert min(picture.size) > 200
    with safe_open(whole.with_name("best.safetensors"), "pt") as file:
        facts = json.loads(file.metadata()["zoo"])
    assert facts["architecture"] == "test_vit"
    assert facts["recipe"]["optimizer"]["ema"] == 0.99
    assert facts["epoch"] in (1, 2)
    assert facts["labels"] == sorted(NAMES)


def test_the_best_network_is_measured_again_by_eval(folder, tmp_path):
    """The figure in the log is that of `zoo eval` on the file, classes in the order of the training's folders."""
    recipe = load_recipe(
        "reste_resnet20_cifar",
        (
            f"data.name={json.dumps(str(folder))}", "data.eval_split=val", "data.held_out=0", "schedule.epochs=2",
            "schedule.batch_size=16", "schedule.warmup=0", "data.crop=0", "data.crop_epochs=0", "optimizer.ema=0.5",
            "schedule.evaluate_every=1", "precision=no", "data.still_epochs=0",
        ),
    )  # fmt: skip
    train(recipe, tmp_path, device="cpu", workers=0)
    best = tmp_path / "best.safetensors"
    found = evaluate("reste_resnet20_cifar", str(folder), split="val", checkpoint_path=best, device="cpu")
    assert found.top1 == pytest.approx(max(line["val_top1"] for line in lines(tmp_path)))


def learns_from_pictures(name):
    """Methods with a course of their own have tests of their own."""
    recipe = load_recipe(name)
    return type(new_method(recipe.method, **recipe.method_args)).course is Method.course


@pytest.mark.parametrize("name", [name for name in recipe_names() if learns_from_pictures(name)])
def test_every_recipe_learns(name, tmp_path):
    """A few steps on ten colours: the loss falls. Networks for large pictures get small ones where they can."""
    recipe = load_recipe(name)
    data = recipe.data.name
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (10, 1, 1, 3))
    side = 32 if data in dataset_names() else recipe.data.size or 64
    for part, count in (("train", 32), (recipe.data.eval_split or "test", 10)):
        labels = np.arange(count) % 10
        images = np.clip(colours[labels] + rng.normal(0, 20, (count, side, side, 3)), 0, 255).astype(np.uint8)
        if data in dataset_names():
            (tmp_path / data).mkdir(exist_ok=True)
            np.savez(tmp_path / data / f"{part}.npz", images=images, labels=labels, names=NAMES)
            continue
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = tmp_path / data / part / NAMES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.png")
    epochs = 3
    short = load_recipe(
        name,
        (
            f"schedule.epochs={epochs}", "schedule.batch_size=8", "schedule.accumulate=1", "schedule.warmup=0",
            f"schedule.evaluate_every={epochs}", f"optimizer.lr={min(recipe.optimizer.lr, 0.02)}", "data.held_out=0",
            "data.crop=0", "data.crop_epochs=0",
            "data.still_epochs=0", "precision=no", "compile=false", "augment.mixup=0.0", "augment.cutmix=0.0",
        ),
    )  # fmt: skip
    train(short, tmp_path / "run", data=tmp_path, device="cpu", workers=0)
    losses = [line["loss"] for line in lines(tmp_path / "run")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("share", "passes"), [(0.2, True), (0.01, False)])
def test_damaged_pictures_are_tolerated_up_to_a_share(share, passes, folder, teacher, tmp_path):
    copy = tmp_path / "data"
    for path in (folder / "train").rglob("*.png"):
        place = copy / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        (place / path.name).write_bytes(content[:60] if path.name in ("03.png", "17.png") else content)
    recipe = everything(
        copy, teacher, distill=None, augment=Augment(), checkpointing=False,
        data=Data(name=str(copy), size=32, bad_share=share), schedule=Schedule(epochs=1, batch_size=8),
    )  # fmt: skip
    if passes:
        train(recipe, tmp_path / "run", device="cpu", workers=0)
        assert lines(tmp_path / "run")[-1]["bad_files"] == 2
    else:
        with pytest.raises(InputError, match=r"of 48 pictures cannot be read, more than 0\.01"):
            train(recipe, tmp_path / "run", device="cpu", workers=0)
    assert ".png is" in (tmp_path / "run" / "bad_files.txt").read_text()


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    save_run(tmp_path / "last.safetensors", model, optimizer, None, {"epoch": 1})
    good = (tmp_path / "last.safetensors").read_bytes()
    model.weight.data[0, 0] = float("nan")
    with pytest.raises(ZooError, match=r"model\.weight is not finite"):
        save_run(tmp_path / "last.safetensors", model, optimizer, None, {"epoch": 2})
    assert (tmp_path / "last.safetensors").read_bytes() == good
    assert load_run(tmp_path / "last.safetensors", model, optimizer)["epoch"] == 1
    assert model.weight.isfinite().all()


FULL_DISK = """
import resource, sys
from pathlib import Path
from zoo.train.loop import train
from zoo.train.recipe import load_recipe
recipe = load_recipe("reste_resnet20_cifar", ("schedule.epochs=3", "schedule.batch_size=16", "schedule.warmup=0",
    "data.crop=0", "data.crop_epochs=0", "data.held_out=0", "precision=no"))
def fill(progress):  # the first checkpoint has been written; from now on a file may hold no more than that
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    train(recipe, Path(sys.argv[1]), data=Path(sys.argv[2]), device="cpu", report=fill)
except Exception as error:
    print(type(error).__name__, error)
    print(error.hint)
"""


def test_full_disk_keeps_the_last_checkpoint(tmp_path, data_root):
    """A limit on a file's length stands in for the disk's end: writing fails in its middle in both cases."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(data_root)], capture_output=True, text=True, check=True
    )
    assert resource.RLIMIT_FSIZE is not None
    assert "last.safetensors cannot be written: File too large" in done.stdout
    assert "make room" in done.stdout
    assert not list(tmp_path.glob(".*.part"))
    with safe_open(tmp_path / "last.safetensors", "pt") as file:
        assert json.loads(file.metadata()["zoo"])["epoch"] == 1
    assert len(lines(tmp_path)) == 2  # the second epoch's line is dropped when the run goes on


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "rest"}, "no method 'rest'"),
        ({"model": "timm:resnet19"}, "timm has no model"),
    ],
)
def test_names_are_checked_before_the_data_is_touched(changes, says, tmp_path, teacher):
    recipe = everything(tmp_path / "no data", teacher, **changes)
    with pytest.raises(UsageError, match=says):
        train(recipe, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
