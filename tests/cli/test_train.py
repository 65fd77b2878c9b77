"""`zoo train` and its neighbours as a user meets them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from zoo.cli.app import commands
from zoo.errors import UsageError
from zoo.train.recipe import recipe_names

SMALL = ("schedule.batch_size=16", "schedule.warmup=0", "data.crop=0", "data.crop_epochs=0", "precision=no")


def run(*args):
    return CliRunner().invoke(commands(), ["train", *map(str, args)])


def test_list_names_recipes_with_their_networks():
    result = run("--list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == recipe_names()
    assert "92.63% top-1" in result.stdout


def test_dry_run_counts_and_estimates(data_root):
    result = run(
        "reste_resnet20_cifar",
        *SMALL,
        "schedule.epochs=3",
        "data.held_out=16",
        "data.still_epochs=0",
        "--data",
        data_root,
        "--dry-run",
    )
    plan = json.loads(result.stdout)
    assert plan["parameters"] == 269_850
    assert (plan["examples"], plan["steps_per_epoch"], plan["steps"]) == (80, 5, 15)
    assert plan["optimizer"]["name"] == "adam"
    memory = plan["memory_bytes"]
    assert memory["weights"] == memory["gradients"] == 4 * 269_850
    assert memory["optimizer"] == 2 * memory["weights"]
    assert memory["total"] == sum(value for key, value in memory.items() if key != "total")
    # each of 19 convolutions keeps its input, 32 x 32 x 16 floats or a quarter or half of it, several times over
    assert 16 * 30 * 2**14 < memory["activations"] < 16 * 200 * 2**16


def test_dry_run_without_the_data(tmp_path):
    plan = json.loads(run("tiny_imagenet", "--data", tmp_path, "--dry-run").stdout)
    assert plan["steps"] is None
    assert plan["parameters"] > 11_000_000


@pytest.mark.parametrize(
    ("args", "says", "hint"),
    [
        (("reste_resnet20_cifar", "schedule.epoch=3"), "schedule.epoch=3: unknown key schedule.epoch", "epochs"),
        (("reste_resnet20_cifar", "epochs=3"), "unknown key epochs", "schedule.epochs"),
        (("reste_resnet20_cifar", "optimizer.name=adamm"), "optimizer.name: Invalid enum value 'adamm'", "adam"),
        (("reste_resnet20_cifar", "optimizer.lr=0"), "optimizer.lr: Expected `float` > 0.0", "dry-run"),
        (("reste_resnet20_cifar", "augment.auto=strong"), "auto is 'strong'", "dry-run"),
        ((), "no recipe", "--list"),
    ],
)
def test_wrong_words_are_named_with_the_nearest_right_one(args, says, hint):
    error = run(*args).exception
    assert isinstance(error, UsageError)
    assert says in error.message
    assert hint in error.hint


def test_interrupt_saves_exits_with_130_and_the_same_command_ends_it(data_root, tmp_path):
    command = [sys.executable, "-m", "zoo", "train", "reste_resnet20_cifar", *SMALL, "data.held_out=0"]
    options = ["--data", str(data_root), "--out", str(tmp_path / "run"), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [*command, "schedule.epochs=500", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    state, deadline = tmp_path / "run" / "last.safetensors", time.monotonic() + 240
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    said, talk = running.communicate(timeout=120)
    assert running.returncode == 130, talk
    assert said == ""
    assert "Traceback" not in talk
    assert "epoch 1/500  step 6/6  loss" in talk  # plain lines: nobody looks at a terminal
    assert "\033" not in talk
    epochs = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert 1 <= epochs < 500
