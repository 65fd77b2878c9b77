"""Two processes on one machine train like one."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SETTINGS = (
    "schedule.epochs=1",
    "schedule.batch_size=16",
    "schedule.warmup=0",
    "data.crop=0",
    "data.crop_epochs=0",
    "data.held_out=0",
    "precision=no",
    "optimizer.lr=1e-9",
)


@pytest.mark.slow
def test_two_processes_see_the_whole_batch(tmp_path, data_root):
    """Almost without moving, so that the mean loss of the epoch compares; batch norm sees half a batch each."""
    command = ["-m", "zoo", "train", "reste_resnet20_cifar", *SETTINGS, "--data", str(data_root), "--device", "cpu"]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    subprocess.run([sys.executable, *command, "--out", str(tmp_path / "one")], check=True, capture_output=True)
    subprocess.run([sys.executable, *launch, *command, "--out", str(tmp_path / "two")], check=True, capture_output=True)
    losses = [
        json.loads((tmp_path / run / "metrics.jsonl").read_text().splitlines()[-1])["loss"] for run in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.15)
    one, two = (load_file(tmp_path / run / "model.safetensors") for run in ("one", "two"))
    assert torch.equal(one["conv1.weight"], two["conv1.weight"])
