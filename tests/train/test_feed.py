"""Batches: functions of their place, shared out without overlap, whatever prepares them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo.data.datasets import Pictures
from zoo.data.sources import open_data
from zoo.errors import ZooError
from zoo.registry.card import Input
from zoo.train.feed import NOBODY, Feed, Learnt, Measured, seed_everything, share
from zoo.train.recipe import Augment, Data, Recipe, Schedule

INPUT = Input(size=(3, 16, 16))
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8))
    return Pictures(images, torch.arange(24) % 3, NAMES)


@pytest.fixture(scope="module")
def files(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for i, (image, label) in enumerate(zip(arrays.images, arrays.labels, strict=True)):
        (folder / NAMES[label]).mkdir(exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / NAMES[label] / f"{i:02d}.png")
    return folder


def recipe(augment=Augment(), **data):  # noqa: B008 - frozen
    return Recipe(
        model="timm:test_resnet",
        data=Data(name="files", **data),
        augment=augment,
        schedule=Schedule(epochs=4, batch_size=8),
    )


STRONG = Augment(scale=(0.3, 1.0), auto="rand-m9-mstd0.5-inc1", jitter=0.3)


@given(count=st.integers(0, 50), world=st.integers(1, 7))
def test_processes_share_every_picture_once(count, world):
    parts = [share(count, rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1  # or the last would wait for the others
    real = torch.cat(parts)
    assert sorted(real[real != NOBODY].tolist()) == list(range(count))
    assert (real == NOBODY).sum() < max(world, 1)


@pytest.mark.parametrize(
    "augment", [Augment(), STRONG, Augment(auto="rand-m9", repeats=2)], ids=["plain", "strong", "auto"]
)
@pytest.mark.parametrize("form", ["arrays", "files"])
def test_parts_of_two_processes_are_the_batch_of_one(form, augment, arrays, files):
    data = arrays if form == "arrays" else open_data(str(files), "train")
    whole = Learnt(data, recipe(augment), INPUT)[1, 2]
    parts = [Learnt(data, recipe(augment), INPUT, rank, 2)[1, 2] for rank in range(2)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.images, whole.images[rank::2])
        assert torch.equal(part.labels, whole.labels[rank::2])


def test_an_epoch_shows_every_picture_once(files):
    data = open_data(str(files), "train")
    learnt = Learnt(data, recipe(padding=0, flip=False), INPUT)
    seen = torch.cat([learnt[0, step].images for step in range(3)])
    assert len({image.numpy().tobytes() for image in seen}) == 24
    assert not torch.equal(learnt[0, 0].images, learnt[1, 0].images)  # epochs differ


def test_nothing_before_a_step_decides_what_is_in_it(files):
    learnt = Learnt(open_data(str(files), "train"), recipe(STRONG), INPUT)
    seed_everything(1)
    first = learnt[0, 1]
    seed_everything(2)
    learnt[0, 0]
    assert torch.equal(first.images, learnt[0, 1].images)
    assert not torch.equal(first.images, learnt[1, 1].images)


def test_repeated_augmentation_shows_a_picture_again_but_changed(arrays):
    learnt = Learnt(arrays, recipe(Augment(repeats=4), padding=4), INPUT)
    batch = learnt[0, 0]
    assert torch.equal(batch.labels[:4], batch.labels[0].expand(4))
    assert len({image.numpy().tobytes() for image in batch.images[:4]}) > 1


def test_small_squares_then_still_pictures(arrays):
    learnt = Learnt(arrays, recipe(crop=8, crop_epochs=1, still_epochs=1, flip=False), INPUT)
    assert learnt[0, 0].images.shape == (8, 8, 8, 3)
    known = {image.numpy().tobytes() for image in arrays.images}
    assert {image.numpy().tobytes() for image in learnt[3, 0].images} <= known


def test_another_picture_stands_in_for_a_bad_file(files, tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        for path in (files / name).iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    bad = next((tmp_path / "b").iterdir())
    bad.write_bytes(bad.read_bytes()[:40])
    learnt = Learnt(open_data(str(tmp_path), "train"), recipe(), INPUT)
    batches = [learnt[0, step] for step in range(3)]
    faults = [fault for batch in batches for fault in batch.bad]
    assert len(faults) == 1
    assert bad.name in faults[0]
    assert all(batch.images.any() for batch in batches)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ZooError, match=r"11 pictures in a row cannot be read; .*\.png is empty"):
        list(Feed(learnt)([(0, 0)]))


def test_measured_pictures_are_the_cards(files, arrays):
    from_files = Measured(open_data(str(files), "train"), 16, Input(size=(3, 16, 16), crop_pct=1.0))
    batch = from_files[torch.tensor([0, 5, NOBODY])]
    assert batch.labels.tolist() == [*open_data(str(files), "train").labels[[0, 5]].tolist(), NOBODY]
    known = {image.numpy().tobytes() for image in arrays.images}
    assert {image.numpy().tobytes() for image in batch.images[:2]} <= known


def test_a_worker_gives_the_same_batches(files):
    learnt = Learnt(open_data(str(files), "train"), recipe(STRONG), INPUT)
    keys = [(epoch, step) for epoch in range(2) for step in range(3)]
    for key, batch in zip(keys, Feed(learnt, workers=1)(keys), strict=True):
        assert torch.equal(batch.images, learnt[key].images)


DEATH = """
import os, signal, sys
from zoo.data.sources import open_data
from zoo.errors import ZooError
from zoo.registry.card import Input
from zoo.train.feed import Feed, Learnt
from zoo.train.recipe import Data, Recipe, Schedule

if __name__ == "__main__":
    recipe = Recipe(model="timm:test_resnet", data=Data(name="files"), schedule=Schedule(epochs=4, batch_size=8))
    feed = Feed(Learnt(open_data(sys.argv[1], "train"), recipe, Input(size=(3, 16, 16))), workers=1)
    try:
        batches = feed([(0, 0)] * 300)
        next(batches)
        os.kill(feed._loader._iterator._workers[0].pid, signal.SIGKILL)
        list(batches)
    except ZooError as error:
        print(error.message)
"""


def test_the_death_of_a_worker_is_told(files, tmp_path):
    """In a process of its own: torch raises from a signal handler, wherever that process then is."""
    script = tmp_path / "death.py"
    script.write_text(DEATH)
    done = subprocess.run([sys.executable, script, files], capture_output=True, text=True, timeout=120, check=False)
    assert "a process that prepares pictures died" in done.stdout, done.stderr
