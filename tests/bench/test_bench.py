"""zoo bench: networks of ours and of timm side by side, as a table and as JSON; bad calls named."""

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zoo.bench.bench import bench, contenders
from zoo.cli.app import commands
from zoo.errors import UnknownName, UsageError


@pytest.fixture(scope="module")
def pair():
    return contenders(("dilateformer_pico", "reste_resnet20_cifar"))


def test_a_row_for_each_network_and_batch_size(pair):
    steps = []
    rows = list(bench(pair, (1, 2), rounds=3, step=lambda: steps.append(1)))
    assert [(row.name, row.batch_size) for row in rows] == [
        ("dilateformer_pico", 1),
        ("reste_resnet20_cifar", 1),
        ("dilateformer_pico", 2),
        ("reste_resnet20_cifar", 2),
    ]
    assert len(steps) == 12
    for row in rows:
        low, high = row.spread
        assert 0 < low <= row.milliseconds <= high
        assert row.rate == pytest.approx(1e3 * row.batch_size / row.milliseconds)
        assert row.size == (3, 32, 32)
        assert row.memory is None
    assert [row.speedup for row in rows[::2]] == [1.0, 1.0]
    assert rows[0].params == 562414


def test_ours_run_as_the_pipeline_runs_them(pair):
    attention, binary = pair
    assert attention.engine == "float"
    assert type(attention.model.fc).__name__ == "Product"  # zoo.optimize was here
    assert binary.params == 269850
    assert contenders(["reste_resnet20_cifar"], engines=["float"])[0].engine == "float"


def test_a_model_of_timm_beside_ours_on_the_command_line():
    call = ["bench", "dilateformer_pico", "test_resnet", "--size", "32", "--rounds", "1"]
    done = CliRunner().invoke(commands(), call)
    assert done.exit_code == 0, done.output
    head, *rows = done.stdout.splitlines()
    assert head.split()[:2] == ["model", "engine"]
    assert [row.split()[0] for row in rows] == ["dilateformer_pico", "test_resnet"] * 2
    assert all(row.endswith("x") for row in rows)


def test_json_goes_to_stdout_alone():
    call = ["bench", "dilateformer_pico", "--rounds", "1", "--batch-size", "3", "--json"]
    done = CliRunner().invoke(commands(), call)
    found = json.loads(done.stdout)
    assert found["machine"]
    assert [(row["name"], row["batch_size"]) for row in found["timings"]] == [("dilateformer_pico", 3)]


@pytest.mark.parametrize(
    ("names", "args", "error", "words"),
    [
        (["dilateformer_tt"], {}, UnknownName, "no model 'dilateformer_tt'"),
        (["dilateformer_pico"], {"devices": ["cuda:9"]}, UsageError, "cuda:9"),
        (["dilateformer_pico"], {"dtypes": ["float8"]}, UsageError, "float8"),
        (["dilateformer_pico"], {"side": 4}, UsageError, "dilateformer_pico does not run on 4x4 pixels"),
        (["dilateformer_pico"], {"engines": ["steam"]}, UsageError, "steam"),
        (["tmvm_tiny"], {}, UsageError, "made to retrieve, in films"),
        (
            ["dilateformer_pico"],
            {"engines": ["openvino"], "dtypes": ["bfloat16"]},
            UsageError,
            "on the CPU in float32",
        ),
    ],
)
def test_bad_calls_are_named(names, args, error, words):
    with pytest.raises(error, match=words):
        contenders(names, **args)


def test_engines_devices_and_types_side_by_side(tmp_path):
    call = ["bench", "reste_resnet20_cifar", "--rounds", "2", "--json", "--plot", str(tmp_path / "speed.png")]
    call += ["--engine", "float", "--engine", "onnxruntime", "--dtype", "float32", "--dtype", "bfloat16"]
    done = CliRunner().invoke(commands(), call)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["timings"]
    assert [(row["engine"], row["dtype"]) for row in rows[:3]] == [
        ("float", "float32"),
        ("onnxruntime", "float32"),
        ("float", "bfloat16"),
    ]
    with Image.open(tmp_path / "speed.png") as plot:
        assert plot.size == (920, 480)


def test_another_runtime_computes_the_same():
    torch.manual_seed(0)
    mine = contenders(["dilateformer_pico"], engines=["onnxruntime"])[0]
    assert mine.engine == "onnxruntime"
    assert mine.model(torch.rand(3, 3, 32, 32)).shape == (3, 10)
