"""The backlog with tiny settings on the CPU: cut off, gone on with, collected."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import typer
from safetensors.torch import load_file

from zoo.cli.app import commands
from zoo.train.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
TINY = ("schedule.epochs=2", "schedule.batch_size=16", "schedule.warmup=0", "data.held_out=0", "precision=no")


def backlog(data, out, *options):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_backlog.py"), "--data", str(data), "--out", str(out)]
    settings = ["--device", "cpu", "--only", "reste_resnet20_cifar", "--set", *TINY]
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
    figures = json.loads((collected / "reste_resnet20_cifar_figures.json").read_text())
    assert figures["pictures"] == 40
    assert figures["dataset"] == "cifar10 test"
    assert (collected / "reste_resnet20_cifar.curves.png").exists()
    third = backlog(data_root, tmp_path)
    assert third.stdout.count("done ") == 2
    assert "starts" not in third.stdout


def test_every_job_is_understood(tmp_path):
    spec = importlib.util.spec_from_file_location("gpu_backlog", ROOT / "benchmarks" / "gpu_backlog.py")
    backlog_ = sys.modules["gpu_backlog"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(backlog_)
    settings = argparse.Namespace(out=tmp_path, data=tmp_path, device="cpu", tests="gpu", set=TINY, only=[])
    found = backlog_.jobs(settings)
    assert len({job.name for job in found}) == len(found)
    for job in found:
        kind, words = job.command[0], list(job.command[1:])
        if kind != "-m":
            assert Path(kind).is_file()
        elif words.pop(0) == "zoo":
            command = typer.main.get_command(commands())
            while hasattr(command, "commands"):
                command = command.commands[words.pop(0)]
            context = command.make_context(job.name, words)
            if context.info_name in {starter.name for starter in backlog_.STARTERS}:
                load_recipe(context.params["recipe"], tuple(context.params["overrides"]))
