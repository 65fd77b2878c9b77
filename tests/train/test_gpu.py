"""The loop on a GPU: one process, and Accelerate's FSDP with the same recipe."""

import json
import os
import subprocess
import sys

import pytest

from zoo.train.loop import train
from zoo.train.recipe import load_recipe

SMALL = (
    "schedule.epochs=3",
    "schedule.batch_size=16",
    "schedule.warmup=0",
    "schedule.evaluate_every=1",
    "data.crop=0",
    "data.crop_epochs=0",
    "data.still_epochs=0",
    "data.held_out=16",
    "optimizer.ema=0.5",
)


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_learns(precision, tmp_path, data_root):
    train(load_recipe("reste_resnet20_cifar", (*SMALL, f"precision={precision}")), tmp_path, data=data_root)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


@pytest.mark.gpu
def test_sharded_by_accelerate(tmp_path, data_root):
    command = ["-m", "zoo", "train", "reste_resnet20_cifar", *SMALL, "method=plain", "method_args={}"]
    launch = ["-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "1"]
    subprocess.run(
        [sys.executable, *launch, *command, "--data", str(data_root), "--out", str(tmp_path)],
        check=True,
        env=os.environ,
    )
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
