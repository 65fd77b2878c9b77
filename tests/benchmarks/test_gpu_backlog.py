"""The backlog with tiny settings on the CPU: cut off, gone on with, collected."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
TINY = ("schedule.epochs=2", "schedule.batch_size=16", "schedule.warmup=0", "data.held_out=0", "precision=no")


def backlog(data, out, *options):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_backlog.py"), "--data", str(data), "--out", str(out)]
    settings = ["--device", "cpu", "--only", "reste_resnet20_cifar", "dilateformer_nothing", "--set", *TINY]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *settings, *options], capture_output=True, text=True, env=environment)


def test_cut_off_gone_on_with_and_collected(data_root, tmp_path):
    first = backlog(data_root, tmp_path, "--minutes", "0.02")
    assert first.returncode == 75, first.stdout + first.stderr
    assert "starts    reste_resnet20_cifar" in first.stdout
    assert "waits     reste_resnet20_cifar_figures" in first.stdout
    second = backlog(data_root, tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    collected = tmp_path / "collected"
    assert load_file(collected / "reste_resnet20_cifar.safetensors")["layer1.0.conv1.weight_packed"].any()
    figures = json.loads((collected / "figures.json").read_text())["reste_resnet20_cifar"]
    assert figures["pictures"] == 40
    assert figures["dataset"] == "cifar10 test"
    assert (collected / "reste_resnet20_cifar.curves.png").exists()
    third = backlog(data_root, tmp_path)
    assert third.stdout.count("done ") == 2
    assert "starts" not in third.stdout
