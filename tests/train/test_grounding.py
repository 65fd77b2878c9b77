"""Training on drawn scenes: lessons depend on seed, epoch and step alone, and what is absent teaches no box."""

import json

import pytest
import torch

pytest.importorskip("accelerate")

import zoo
from zoo.errors import UsageError
from zoo.train.course import Place
from zoo.train.loop import train
from zoo.train.methods import new_method
from zoo.train.recipe import load_recipe

SHORT = (
    "data.split=val",
    "data.eval_split=",
    "schedule.epochs=2",
    "schedule.batch_size=25",
    "schedule.warmup=0",
    "schedule.save_every=0",
    "method_args.static_epochs=1",
    "method_args.static_batch=4",
    "model_args={dim = 16, heads = 2, depth = 1, hidden = 16, map_dim = 8}",
)


def course(*overrides):
    recipe = load_recipe("stvgformer_tiny", (*SHORT[:-1], *overrides))
    return new_method(recipe.method, **recipe.method_args).course(recipe, Place(None, torch.device("cpu")))


def test_a_lesson_is_the_same_whenever_it_is_asked_for():
    for epoch in (0, 1):
        late = next(iter(course().batches(epoch, 2)))
        early = list(course().batches(epoch, 0))[2]
        torch.testing.assert_close(late.frames, early.frames)
        assert late.sentences == early.sentences
        torch.testing.assert_close(late.boxes, early.boxes)


def test_stills_come_first_and_films_after_them():
    stills, films = (next(iter(course().batches(epoch, 0))) for epoch in (0, 1))
    assert stills.frames.shape == (4, 1, 3, 64, 64)
    assert films.frames.shape == (25, 10, 3, 64, 64)
    assert stills.marked.all()
    assert [len(part.frames) for part in films.parts(5)] == [5] * 5
    lengths = films.marked.sum(1)
    torch.testing.assert_close((films.spans[:, 1] - films.spans[:, 0]).long(), lengths)


def test_who_is_absent_has_no_box():
    films = next(iter(course("method_args.absent=1.0").batches(1, 0)))
    assert not films.marked.any()
    assert not films.spans[:, :2].any()
    taught = course("method_args.absent=1.0")
    loss = taught.loss(zoo.create_model("stvgformer_tiny"), films)
    assert torch.isfinite(loss)


def test_a_training_runs_and_its_file_can_be_used(tmp_path):
    recipe = load_recipe("stvgformer_tiny", SHORT)
    file = train(recipe, tmp_path / "run", device="cpu")
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in logged] == [1, 2]
    model = zoo.create_model("stvgformer_tiny", checkpoint_path=file)
    assert model.dim == 16


def test_sets_that_do_not_exist():
    with pytest.raises(UsageError, match="no split"):
        course("data.split=dev")
