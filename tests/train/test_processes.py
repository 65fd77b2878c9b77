"""Two processes on one machine train, measure and save like one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from zoo.train.loop import train
from zoo.train.networks import new_network
from zoo.train.recipe import Data, Optimizer, Recipe, Schedule

HERE = Path(__file__).parent
# one step of SGD without momentum: the weights move by the gradient. Layer norm sees each picture alone, which batch
# norm would not
RECIPE = Recipe(
    model="timm:test_vit",
    model_args={"img_size": 32},
    data=Data(name="cifar10", held_out=13),  # an odd number: the last batches are uneven
    schedule=Schedule(epochs=1, batch_size=80),
    optimizer=Optimizer(name="sgd", lr=0.5, momentum=0.0, ema=0.5),
)


def test_two_processes_are_one(tmp_path, data_root):
    (tmp_path / "recipe.json").write_text(RECIPE.to_json())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "two_processes.py"), str(tmp_path), str(data_root)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('"passed": true') == 2
    train(RECIPE, tmp_path / "one", data=data_root, device="cpu")
    one, two = (load_file(tmp_path / run / "last.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    torch.manual_seed(RECIPE.seed)
    first = new_network(RECIPE, {"num_classes": 10})[0].state_dict()
    moves = []
    for key, value in one.items():
        # gradients of 2 x 40 pictures are summed in another order than those of 1 x 80: a few units in the last place
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=2e-6, msg=key)
        if key.startswith("model."):
            moves.append(float((value - first[key.removeprefix("model.")]).abs().max()))
    assert min(moves) > 1e-5  # every gradient is there, and larger than what it may differ by
    assert max(moves) > 1e-3
    lines = [json.loads((tmp_path / run / "metrics.jsonl").read_text()) for run in ("one", "two")]
    assert lines[0]["held_out_top1"] == lines[1]["held_out_top1"]  # each of 13 pictures counts once
    assert abs(lines[0]["loss"] - lines[1]["loss"]) < 0.1  # the log tells the first process's mean
