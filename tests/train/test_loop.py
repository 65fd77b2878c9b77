"""The loop: it learns, it goes on after a kill as if nothing had been, it says what is wrong."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import zoo
from zoo.data.datasets import load_pictures
from zoo.errors import InputError, IntegrityError, UsageError, ZooError
from zoo.hub.checkpoint import read_contents
from zoo.train.loop import train
from zoo.train.measure import accuracy
from zoo.train.recipe import load_recipe

SMALL = (
    "schedule.epochs=3",
    "schedule.batch_size=16",
    "schedule.warmup=0",
    "schedule.evaluate_every=1",
    "data.crop_epochs=1",
    "data.held_out=16",
    "precision=no",
)


def small(*overrides):
    return load_recipe("reste_resnet20_cifar", SMALL + overrides)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def saved(out):
    """When the state of a run was last written."""
    state = out / "last.safetensors"
    return state.stat().st_mtime_ns if state.exists() else 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_root):
    out = tmp_path_factory.mktemp("finished")
    seen = []
    file = train(small(), out, data=data_root, device="cpu", report=seen.append)
    return out, file, seen


def test_loss_falls_and_the_log_tells(finished):
    out, _, seen = finished
    log = lines(out)
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["held_out_top1"] > 30  # chance is 10
    assert {"estimating_error", "gradient_stability", "lr", "rate"} <= log[0].keys()
    assert [progress.epoch for progress in seen if progress.figures] == [1, 2, 3]


def test_finished_checkpoint_is_packed_says_where_it_came_from_and_predicts(finished, data_root):
    out, file, _ = finished
    facts = read_contents(file).facts
    assert facts["architecture"] == "reste_resnet20_cifar"
    assert facts["format"] == "reste-packed-v1"
    assert facts["recipe"]["seed"] == 0
    assert facts["environment"]["torch"] == torch.__version__
    assert facts["metrics"]["held_out_top1"] == lines(out)[-1]["held_out_top1"]
    assert load_file(file)["layer1.0.conv1.weight_packed"].dtype == torch.uint8
    model = zoo.create_model("reste_resnet20_cifar", checkpoint_path=file)
    assert accuracy(model, load_pictures("cifar10", "test", data_root), zoo.card("reste_resnet20_cifar").input) > 30


def test_kill_at_random_steps_ends_with_the_same_bits(finished, tmp_path, data_root):
    """SIGKILL may come anywhere: in a step, in a write, before the first checkpoint."""
    _, expected, _ = finished
    # saving at every step is part of the recipe; it must not change the result
    recipe = (*SMALL, "schedule.save_every=1")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from zoo.train.loop import train\nfrom zoo.train.recipe import load_recipe\n"
        f"recipe = load_recipe('reste_resnet20_cifar', {recipe!r})\n"
        "train(recipe, Path(sys.argv[1]), data=Path(sys.argv[2]), device='cpu')"
    )
    rng = random.Random(0)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for kill in (True, True, True, False):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(data_root)],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        if kill:
            before, deadline = saved(tmp_path), time.monotonic() + 120
            while saved(tmp_path) == before and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(rng.random() * 0.3)  # this process has saved something; strike at a random moment after
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=240)
    assert process.returncode == 0
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(expected)
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert torch.equal(ours[key], theirs[key]), key
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2, 3]


def test_interrupt_saves_and_the_next_call_goes_on(finished, tmp_path, data_root):
    _, expected, _ = finished

    def stop(progress):
        if progress.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(small(), tmp_path, data=data_root, device="cpu", report=stop)
    ours = load_file(train(small(), tmp_path, data=data_root, device="cpu"))
    assert all(torch.equal(ours[key], value) for key, value in load_file(expected).items())


def test_parts_of_a_batch_add_up_to_its_gradient(tmp_path, data_root):
    """Batch norm sees the parts apart, so the losses of an untrained network agree to a few per cent, not exactly."""
    base = ("schedule.epochs=1", "optimizer.lr=1e-9", "data.held_out=0", "data.crop=0", "data.crop_epochs=0")
    train(small(*base), tmp_path / "whole", data=data_root, device="cpu")
    train(small(*base, "schedule.accumulate=2"), tmp_path / "parts", data=data_root, device="cpu")
    assert lines(tmp_path / "parts")[0]["loss"] == pytest.approx(lines(tmp_path / "whole")[0]["loss"], rel=0.1)


def test_another_recipe_does_not_take_the_folder(finished, data_root):
    out, _, _ = finished
    with pytest.raises(UsageError, match="another recipe"):
        train(small("seed=1"), out, data=data_root, device="cpu")


def test_loss_that_is_no_number_keeps_the_last_state(tmp_path, data_root):
    with pytest.raises(ZooError, match="loss is nan in epoch 1"):
        train(small("optimizer.lr=1e30", "optimizer.name=sgd"), tmp_path, data=data_root, device="cpu")
    assert not (tmp_path / "model.safetensors").exists()


def test_cut_state_is_named(tmp_path, data_root, finished):
    out, _, _ = finished
    for name in ("recipe.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    state = (out / "last.safetensors").read_bytes()
    (tmp_path / "last.safetensors").write_bytes(state[: len(state) // 2])
    with pytest.raises(IntegrityError, match="no state of this run"):
        train(small(), tmp_path, data=data_root, device="cpu")


def test_folder_that_cannot_be_made(tmp_path, data_root):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        train(small(), tmp_path / "file" / "run", data=data_root, device="cpu")


def test_batch_larger_than_the_data(tmp_path, data_root):
    with pytest.raises(UsageError, match="fewer than a batch"):
        train(small("schedule.batch_size=512"), tmp_path, data=data_root, device="cpu")


def test_data_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="CIFAR10 is not under"):
        train(small(), tmp_path / "run", data=tmp_path, device="cpu")
