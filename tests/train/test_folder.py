"""The run's folder: whose it is, and what it says."""

import json

import pytest

from zoo.errors import InputError, UsageError
from zoo.train import folder
from zoo.train.recipe import load_recipe


@pytest.fixture
def recipe():
    return load_recipe("reste_resnet20_cifar")


def test_a_run_from_before_a_key_existed_goes_on(tmp_path, recipe):
    fields = json.loads(recipe.to_json())
    del fields["augment"], fields["optimizer"]["ema"]
    (tmp_path / "recipe.json").write_text(json.dumps(fields))
    assert not folder.claim(tmp_path, recipe)
    (tmp_path / "last.safetensors").touch()
    assert folder.claim(tmp_path, recipe)


@pytest.mark.parametrize("other", ['{"model": "reste_resnet20_cifar"}', "no JSON"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, recipe, other):
    (tmp_path / "recipe.json").write_text(other)
    with pytest.raises(UsageError, match="another recipe"):
        folder.claim(tmp_path, recipe)
    assert (tmp_path / "recipe.json").read_text() == other


def test_a_place_that_cannot_be_written_to(recipe):
    """/proc takes no files, whoever asks."""
    with pytest.raises((InputError, UsageError), match=r"cannot be (made|written)"):
        folder.claim(folder.Path("/proc/self/task"), recipe)


def test_lines_of_epochs_behind_the_checkpoint_are_dropped(tmp_path):
    for epoch in (1, 2, 3):
        folder.append_metrics(tmp_path, {"epoch": epoch, "loss": 1.0})
    folder.forget_after(tmp_path, 2)
    assert [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_starts_are_noted_one_after_another(tmp_path, recipe):
    folder.note_start(tmp_path, recipe, 1, 0, 0)
    folder.note_start(tmp_path, recipe, 2, 3, 17)
    starts = json.loads((tmp_path / "environment.json").read_text())
    assert [(start["processes"], start["from_epoch"], start["from_step"]) for start in starts] == [
        (1, 0, 0),
        (2, 3, 17),
    ]
    assert {"torch", "python", "commit", "seed", "command"} <= starts[0].keys()
