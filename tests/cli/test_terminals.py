"""The command line on other people's terminals: no colour, few columns, no UTF-8, a pipe that closes."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ZOO = [sys.executable, "-m", "zoo"]


def run(*args, **environment):
    env = {**os.environ, **environment}
    return subprocess.run([*ZOO, *args], env=env, capture_output=True, check=False, timeout=120)


def on_terminal(*args, **environment):
    """What a command shows somebody who looks."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", **environment}
    with subprocess.Popen([*ZOO, *args], env=env, stdout=theirs, stderr=theirs, stdin=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's end of a terminal
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_colour_on_a_terminal_and_none_under_no_color():
    escape = re.compile(r"\x1b\[\d*;?3[0-9]m|\x1b\[36m")
    assert escape.search(on_terminal("info", "reste_resnet20_cifar", NO_COLOR=""))
    assert not escape.search(on_terminal("info", "reste_resnet20_cifar", NO_COLOR="1"))


@pytest.mark.parametrize("columns", ["40", "80"])
def test_help_fits_the_terminal(columns):
    text = run("predict", "--help", COLUMNS=columns, TERMINAL_WIDTH=columns).stdout.decode()
    assert max(map(len, text.splitlines())) <= int(columns)
    assert "--topk" in text


@pytest.mark.parametrize("args", [("--help",), ("list",), ("info", "reste_resnet20_cifar"), ("predict", "--help")])
def test_no_utf8_is_no_reason_to_die(args):
    done = run(*args, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.isascii()


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", b"b\xff.png"), ("latin-1", rb"b\udcff.png")])
def test_names_that_are_no_text_cost_nothing(tmp_path, encoding, shown):
    names = [b"a.png", b"b\xff.png", "c\u65e5.png".encode()]
    for name in names:
        Image.new("RGB", (32, 32)).save(os.fsdecode(bytes(tmp_path) + b"/" + name))
    listed = b"\n".join(bytes(tmp_path) + b"/" + name for name in names) if encoding == "utf-8" else b""
    command = [*ZOO, "predict", "reste_resnet20_cifar", "-" if listed else str(tmp_path), "--topk", "1", "--csv"]
    env = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    done = subprocess.run(command, input=listed, env=env, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout.splitlines()) == 4
    assert shown in done.stdout


def test_a_closed_pipe_is_quiet():
    with subprocess.Popen([*ZOO, "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's")
def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*ZOO, "list"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.decode() == "error: the output cannot be written: No space left on device\n  try: make room\n"


def test_what_the_machine_refuses_is_one_line():
    name = "a" * 300
    done = run("predict", name)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"error: {name}: File name too long\n  try: ")
    assert b"Traceback" in run("predict", name, "--debug").stderr


def test_completion_knows_the_models():
    code = "import sys; sys.argv = ['zoo']; from zoo.cli.app import main; main()"
    asked = {"_ZOO_COMPLETE": "complete_bash", "COMP_WORDS": "zoo info pslt_b", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, check=False)
    assert "pslt_base.in1k" in done.stdout.decode().split()
