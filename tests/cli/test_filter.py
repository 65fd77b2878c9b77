"""zoo filter as a user meets it."""

import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zoo.cli.app import commands
from zoo.errors import UsageError


def run(*args, **options):
    return CliRunner().invoke(commands(), ["filter", *map(str, args)], **options)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("grey.png", (20, 24)), ("rgb.jpg", (20, 24, 3)), ("rgba.png", (20, 24, 4))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / name)
    (root / "words.png").write_text("hello")
    (root / "notes.txt").write_text("not looked at")
    return root


def test_a_folder_with_a_bad_file(folder, tmp_path):
    done = run(folder, "--out", tmp_path / "out", "--jsonl")
    assert done.exit_code == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["source"].rpartition("/")[2] for row in rows] == ["grey.png", "rgb.jpg", "rgba.png", "words.png"]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True]
    assert rows[0]["parameters"]["sigma_s"] == 5
    assert "1 of 4 inputs failed" in done.stderr
    with Image.open(rows[2]["path"]) as rgba:
        assert rgba.mode == "RGBA"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["grey.png", "rgb.jpg", "rgba.png"]


def test_forms_of_the_answer(folder, tmp_path):
    human = run(folder / "grey.png", "--out", tmp_path / "a")
    assert human.stdout == f"{folder / 'grey.png'} -> {tmp_path / 'a' / 'grey.png'}\n"
    rows = list(csv.DictReader(io.StringIO(run(folder, "--out", tmp_path / "b", "--csv").stdout)))
    assert [row["width"] for row in rows] == ["24", "24", "24", ""]
    assert len(json.loads(run(folder, "--out", tmp_path / "c", "--json").stdout)) == 4
    listed = run("-", "--out", tmp_path / "d", input=f"{folder / 'grey.png'}\n")
    assert listed.exit_code == 0
    assert "dB PSNR to the exact filter" in run(folder / "grey.png", "--out", tmp_path / "e", "--fast").stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--sigma-s", "0"], "sigma_s and sigma_r are positive"),
        (["--sigma-r", "-1"], "sigma_s and sigma_r are positive"),
        (["--levels", "many"], "--levels many"),
        (["--levels", "\u00b2"], "--levels \u00b2"),
        (["--scale", "1.5"], "scale lies between"),
        (["--apply", "dream"], "no application 'dream'"),
        (["--strength", "2"], "without an application"),
        (["--json", "--csv"], "together"),
        (["--device", "abacus"], "no device"),
    ],
    ids=str,
)
def test_calls_that_cannot_work(folder, tmp_path, args, said):
    done = run(folder, "--out", tmp_path / "out", *args)
    assert isinstance(done.exception, UsageError)
    assert said in done.exception.message
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_had_keeps_its_name(tmp_path):
    empty = tmp_path / "a:b"
    empty.mkdir()
    for more in ((), ("--preview",)):
        (row,) = json.loads(run(empty, "--out", tmp_path / "out", "--json", *more).stdout)
        assert row["source"] == str(empty)


def test_the_input_folder_is_no_output_folder(folder, tmp_path):
    done = run(folder, "--out", folder)
    assert isinstance(done.exception, UsageError)
    assert "--overwrite" in done.exception.hint
    before = (folder / "rgba.png").read_bytes()
    assert run(folder / "rgba.png", "--out", folder, "--overwrite").exit_code == 0
    assert (folder / "rgba.png").read_bytes() != before
    Image.open(folder / "grey.png").save(folder / "rgba.bmp")  # whose result would be called as another input is
    kept = (folder / "rgba.png").read_bytes()
    mixed = run(folder / "rgba.bmp", folder / "grey.png", "--out", folder, "--overwrite")
    assert mixed.exit_code == 1
    assert "rgba.png is there already" in mixed.stderr
    assert (folder / "rgba.png").read_bytes() == kept
    again = run(folder / "grey.png", "--out", tmp_path / "out"), run(folder / "grey.png", "--out", tmp_path / "out")
    assert [done.exit_code for done in again] == [0, 1]
    assert "is there already" in again[1].stderr


def test_output_below_the_input(folder):
    done = run(folder, "--out", folder / "a" / "out", "--csv")  # sorted before the pictures are met
    assert len(done.stdout.splitlines()) == 5
    done = run(folder, "--out", folder / "z", "--csv")
    assert len(done.stdout.splitlines()) == 1 + 4 + 3  # what the first run left is a picture like any other


def test_compare_and_preview(folder, tmp_path):
    assert run(folder / "rgb.jpg", "--out", tmp_path / "out", "--compare", "--apply", "enhance").exit_code == 0
    page = (tmp_path / "out" / "rgb.compare.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "apply enhance" in page
    assert run(folder / "rgb.jpg", "--out", tmp_path / "sheet", "--preview").exit_code == 0
    assert [path.name for path in (tmp_path / "sheet").iterdir()] == ["rgb.preview.png"]


def test_a_real_process(folder, tmp_path):
    command = [sys.executable, "-m", "zoo", "filter", str(folder / "words.png"), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "words.png is text, not a picture" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_has_examples():
    assert "zoo filter photos/ --out smooth" in run("--help").stdout
