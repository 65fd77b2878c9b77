"""How long the command line takes to start, as ratios against the least that such a process can take.

    python benchmarks/start.py [--runs 9]

Each pair runs in turns, A B A B, so that a machine that slows down slows both; the ratio is of the medians.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine
from PIL import Image

TYPER_HELLO = """
import typer

app = typer.Typer()


@app.command()
def hello(name: str = "you"):
    "Say hello."
    print(name)


app()
"""
ZOO = (sys.executable, "-m", "zoo")


def seconds(command: tuple[str, ...]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def pair(ours: tuple[str, ...], theirs: tuple[str, ...], runs: int) -> tuple[float, float]:
    """Medians of both, after one run of each that does not count."""
    seconds(ours), seconds(theirs)
    times = [(seconds(ours), seconds(theirs)) for _ in range(runs)]
    return tuple(statistics.median(column) for column in zip(*times, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        hello, picture = Path(folder) / "hello.py", Path(folder) / "picture.png"
        hello.write_text(TYPER_HELLO)
        Image.new("RGB", (64, 64), "orange").save(picture)
        print(machine())
        print("| process | median s | beside it | median s | ratio | difference s |\n|---|---|---|---|---|---|")
        rows = [
            ("zoo --help", (*ZOO, "--help"), "Typer hello --help", (sys.executable, str(hello), "--help")),
            ("zoo list", (*ZOO, "list"), "Typer hello --help", (sys.executable, str(hello), "--help")),
            (
                "zoo predict reste_resnet20_cifar, one picture",
                (*ZOO, "predict", "reste_resnet20_cifar", str(picture)),
                "import torch",
                (sys.executable, "-c", "import torch"),
            ),
            (
                "the same, float engine",
                (*ZOO, "predict", "reste_resnet20_cifar", str(picture), "--engine", "float"),
                "import torch",
                (sys.executable, "-c", "import torch"),
            ),
        ]
        for name, ours, beside, theirs in rows:
            a, b = pair(ours, theirs, runs)
            print(f"| {name} | {a:.2f} | {beside} | {b:.2f} | {a / b:.2f} | {a - b:+.2f} |", flush=True)


if __name__ == "__main__":
    main()
