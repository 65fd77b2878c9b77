"""The command line as a user meets it: cases in this process, exit codes and pipes in real ones."""

import csv
import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import zoo
from zoo.cli.app import commands
from zoo.errors import UsageError, ZooError
from zoo.registry.names import list_names

ARCH = "reste_resnet20_cifar"
COMMANDS = ["list", "info", "predict", "embed", "filter", "pull", "convert", "cache", "retrieve"]
COMMANDS += ["ground", "ground-eval", "ground-start"]
COMMANDS += ["train", "eval", "verify", "export", "doctor", "publish", "mirror"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(zoo.create_model(ARCH).state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a", "b, with a comma", "c"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def mixed(pictures, tmp_path_factory):
    root = tmp_path_factory.mktemp("mixed")
    (root / "good.png").write_bytes((pictures / "a.png").read_bytes())
    (root / "bad.jpg").write_text("hello")
    (root / "empty.png").touch()
    return root


def run(*args, **options):
    return CliRunner().invoke(commands(), [str(arg) for arg in args], **options)


def process(*args, env=None, **options):
    return subprocess.run(
        [sys.executable, "-m", "zoo", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        timeout=120,
        check=False,
        **options,
    )


# help, list, info


def test_zoo_alone_shows_a_way_in():
    from zoo.cli.app import WAY

    result = run()
    assert result.exit_code == 2
    assert max(map(len, result.stdout.splitlines())) <= 80
    for command, _ in WAY:
        assert command in result.stdout
        name = command.split()[1]
        assert name.startswith("--") or run(name, "--help").exit_code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 5
    if command not in ("cache", "retrieve"):
        assert f"zoo {command}" in result.stdout, "no example"


def test_list_is_the_registry():
    rows = json.loads(run("list", "--json").stdout)
    assert [row["name"] for row in rows] == list_names()
    table = run("list").stdout.splitlines()
    assert table[0].split() == ["name", "task", "params", "GMACs", "input", "size", "figure", "weights"]
    assert [line.split()[0] for line in table[1:]] == list_names()
    assert "\033" not in "".join(table)


def test_list_narrows_down():
    assert "resnet34" not in run("list", "*18*").stdout
    assert "pslt_tiny" in run("list", "tiny").stdout
    assert "dilateformer" not in run("list", "tiny").stdout
    nothing = run("list", "reste_resnet21*")
    assert nothing.exit_code == 0
    assert nothing.stdout == ""
    assert "did you mean" in nothing.stderr
    assert json.loads(run("list", "nothing*", "--json").stdout) == []
    assert isinstance(run("list", "--task", "dream").exception, UsageError)


def test_info_shows_the_card():
    text = run("info", ARCH).stdout
    card = zoo.card(ARCH)
    for part in (
        card.name,
        card.summary,
        card.license,
        f"{card.params:,}",
        card.limits[0],
        card.paper.arxiv,
        card.body,
    ):
        assert part in text
    assert json.loads(run("info", ARCH, "--json").stdout)["builder"] == card.builder


@pytest.mark.parametrize("args", [("--help",), ("list",), ("list", "--json"), ("info", ARCH), ("predict", "--help")])
def test_nothing_heavy_is_loaded(args):
    code = f"""
import sys
sys.argv = {["zoo", *args]!r}
from zoo.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "timm", "numpy", "PIL", "huggingface_hub", "torchvision"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# predict


def predict(checkpoint, *args, **options):
    return run("predict", ARCH, *args, "--checkpoint", checkpoint, "--device", "cpu", **options)


def test_predict_for_people(checkpoint, pictures):
    result = predict(checkpoint, pictures / "a.png", "--topk", "2")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0] == str(pictures / "a.png")
    assert len(lines) == 3
    assert lines[1].split()[0].endswith("%")


def test_predict_json_jsonl_csv_agree(checkpoint, pictures):
    document = json.loads(predict(checkpoint, pictures, "--json").stdout)
    lines = [json.loads(line) for line in predict(checkpoint, pictures, "--jsonl").stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(predict(checkpoint, pictures, "--csv", "--topk", "1").stdout)))
    assert document == lines
    assert [row["source"] for row in rows] == [row["source"] for row in lines]
    assert [row["label"] for row in rows] == [row["predictions"][0]["label"] for row in lines]
    assert rows[1]["source"].endswith("b, with a comma.png")
    assert json.loads(predict(checkpoint, "-", "--json", input="").stdout) == []
    assert isinstance(predict(checkpoint, pictures, "--json", "--csv").exception, UsageError)


def test_one_bad_among_many(checkpoint, mixed):
    result = predict(checkpoint, mixed, "--jsonl")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert [bool(row["error"]) for row in rows] == [True, True, False]  # bad.jpg, empty.png, good.png
    assert "2 of 3 inputs failed" in result.stderr
    assert "bad.jpg is text" in result.stderr
    assert "empty.png is empty" in result.stderr
    human = predict(checkpoint, mixed)
    assert human.exit_code == 1
    assert human.stdout.splitlines()[0].endswith("good.png")


def test_standard_input_and_glob(checkpoint, pictures):
    listed = f"{pictures}/c.png\n{pictures}/a.png\n"
    rows = [json.loads(line) for line in predict(checkpoint, "-", "--jsonl", input=listed).stdout.splitlines()]
    assert [row["source"] for row in rows] == listed.split()
    globbed = predict(checkpoint, f"{pictures}/[ac].png", "--jsonl").stdout.splitlines()
    assert len(globbed) == 2


def test_draw(checkpoint, mixed, tmp_path):
    result = predict(checkpoint, mixed, "--draw", tmp_path / "drawn", "--quiet")
    assert result.exit_code == 1
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["good.png"]
    (tmp_path / "file").touch()
    assert isinstance(predict(checkpoint, mixed, "--draw", tmp_path / "file").exception, UsageError)


def test_a_first_word_that_is_a_picture_needs_a_bundled_model(pictures):
    bundled = [name for name in list_names(task="classify") if zoo.card(name).weights.status == "bundled"]
    result = run("predict", pictures / "a.png", "--device", "cpu")
    if bundled:
        assert result.exit_code == 0
        assert result.stderr.startswith("model: ")
    else:
        assert "no model was named" in str(result.exception)


def test_the_model_left_out_is_the_best_of_the_broadest():
    (model,) = {line for line in run("predict", "-", input="").stderr.splitlines() if line.startswith("model: ")}
    cards = [zoo.card(name) for name in list_names(task="classify")]
    bundled = [card for card in cards if card.weights.status == "bundled" and card.default]
    rank = {card.name: (card.builder_args["num_classes"], card.figure().value) for card in bundled}
    assert model == f"model: {max(rank, key=rank.get)}"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("reste_resnet2", "did you mean"), ("no_such.jpg", "check the path"), ("no/such/dir", "check the path")],
)
def test_a_word_that_is_neither_model_nor_picture(word, hint):
    result = run("predict", word, "x.png")
    assert isinstance(result.exception, ZooError)
    assert result.exception.exit_code == 2
    assert "no model, and no file, folder, glob or address" in str(result.exception)
    assert hint in result.exception.hint


def test_the_model_comes_first(pictures):
    result = run("predict", pictures / "a.png", ARCH)
    assert isinstance(result.exception, UsageError)
    assert result.exception.hint == f"zoo predict {ARCH} {pictures / 'a.png'}"
    assert "zoo predict picture.jpg" in run("predict").exception.hint


def test_failures_with_one_way_out_name_it(tmp_path):
    (tmp_path / "a.png").write_text("text")
    (tmp_path / "b.png").write_text("text")
    said = run("predict", ARCH, tmp_path).stderr
    assert said.count("is text, not a picture") == 2
    assert said.count("try: give a picture") == 1


def test_a_file_with_a_models_name_is_pointed_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ARCH).mkdir()
    result = run("predict", ARCH)
    assert "is the model" in str(result.exception)
    assert f"the folder is ./{ARCH}" in result.exception.hint


def test_predict_explains(checkpoint, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = predict(checkpoint, pictures / "a.png", "--explain", "--json")
    assert [path.name for path in (tmp_path / "explained").iterdir()] == ["a.png"]
    assert "explained/" in done.stderr
    explanation = json.loads(done.stdout)[0]["explanation"]
    assert np.shape(explanation["heat"]) == (8, 8)
    assert explanation["box"] == [0, 0, 1, 1]
    predict(checkpoint, pictures / "a.png", "--explain", "--draw", tmp_path / "here")
    assert len(list((tmp_path / "here").iterdir())) == 1


# embed


def test_embed_writes_and_lists_the_bad(checkpoint, mixed, tmp_path):
    to = tmp_path / "f.npy"
    result = run("embed", ARCH, mixed, "--out", to, "--checkpoint", checkpoint, "--device", "cpu")
    assert result.exit_code == 1
    assert np.load(to).shape == (1, 64)
    assert "1 rows" in result.stderr or "1 row" in result.stderr
    assert "2 of 3 inputs failed" in result.stderr


# weights


def test_cache_and_convert(checkpoint, tmp_path):
    env = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    assert process("cache", "list", "--json", env=env).returncode == 0
    assert process("cache", "prune", env=env).returncode == 2
    to = tmp_path / "mine.safetensors"
    result = run("convert", ARCH, checkpoint, "--out", to, "--set", "act_bits=32")
    assert result.exit_code == 0
    assert to.is_file()
    assert "kept     fc.weight  10x64" in result.stdout
    assert zoo.create_model(ARCH, checkpoint_path=to).layer1[0].conv1.act_bits == 32
    assert isinstance(run("convert", ARCH, checkpoint, "--out", to, "--set", "nonsense").exception, UsageError)


def test_doctor():
    facts = json.loads(run("doctor", "--json").stdout)
    assert (
        facts["versions"]["torch"] == torch.__version__.split("+")[0] or facts["versions"]["torch"] == torch.__version__
    )
    assert facts["cache"]["free"]
    assert "compute" in run("doctor").stdout
    assert {"fast", "index", "video"} <= set(facts["extras"])
    assert "test" not in facts["extras"]
    assert all(said == "installed" or said.startswith("no ") for said in facts["extras"].values())


# real processes


def test_exit_codes(tmp_path, checkpoint, pictures):
    unknown = process("info", "reste_resnet99_cifar")
    assert unknown.returncode == 2
    assert unknown.stdout == ""
    assert unknown.stderr.startswith("error: no model 'reste_resnet99_cifar'\n  try: ")
    assert process("list", "--nonsense").returncode == 2
    missing = process("predict", ARCH, tmp_path / "gone.png", "--checkpoint", checkpoint)
    assert missing.returncode == 1
    assert "error:" in missing.stderr
    assert "Traceback" not in missing.stderr
    unpublished = [name for name in list_names() if zoo.card(name).weights.status == "unpublished"]
    if unpublished:
        assert process("predict", unpublished[0], pictures / "a.png").returncode == 3
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nonsense")
    assert process("predict", ARCH, pictures / "a.png", "--checkpoint", broken).returncode == 4


@pytest.mark.parametrize("workers", ["0", "1"])
def test_interrupted(checkpoint, pictures, workers):
    """Ctrl-C in the middle of an endless list: 130, and no traceback from any process."""
    args = ["predict", ARCH, "-", "--jsonl", "--checkpoint", checkpoint, "--batch-size", "1", "--workers", workers]
    with subprocess.Popen(
        [sys.executable, "-m", "zoo", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # whoever runs the tests in the background may have had SIGINT ignored, which children inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        running.stdin.write(f"{pictures}/a.png\n" * 300)
        running.stdin.flush()
        running.stdout.readline()
        os.killpg(running.pid, signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in errors


def test_debug_shows_where():
    done = process("info", "reste_resnet99_cifar", "--debug")
    assert "Traceback" in done.stderr
    assert "names.py" in done.stderr


@pytest.mark.parametrize("command", [("list", "--json"), ("predict", ARCH, "--jsonl", "--checkpoint")])
def test_nobody_reads_the_output(command, checkpoint, pictures):
    args = [*command, checkpoint, str(pictures)] if command[0] == "predict" else command
    with subprocess.Popen(
        [sys.executable, "-m", "zoo", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 141


def test_a_fault_of_ours_is_one_line(tmp_path):
    code = """
import sys
from zoo.cli.app import app, main

@app.command()
def crash() -> None:
    raise RuntimeError("two\\nlines")

sys.argv = ["zoo", "crash"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert done.stderr.startswith("internal error: RuntimeError: two lines\n")
    assert "Traceback" not in done.stderr
