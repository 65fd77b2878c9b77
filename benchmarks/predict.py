"""What `zoo predict --jsonl` costs beside the network alone, and what it holds in memory.

    python benchmarks/predict.py [--count 10000] [--batch-size 64]

The network alone runs on a random batch that lies ready, with the same engine, batch size and threads. Throughput of
the command counts pictures behind the first 1,000; starting the process is measured by benchmarks/start.py.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine
from PIL import Image

import zoo

NAME = "reste_resnet20_cifar"


def bare(batch_size: int, count: int) -> float:
    """Pictures a second of the network that the pipeline runs."""
    model = zoo.pipeline(NAME, device="cpu").model
    x = torch.randn(batch_size, 3, 32, 32)
    with torch.inference_mode():
        for _ in range(5):
            model(x)
        start = time.perf_counter()
        for _ in range(max(1, count // batch_size)):
            model(x)
    return max(1, count // batch_size) * batch_size / (time.perf_counter() - start)


def command(folder: Path, batch_size: int) -> tuple[float, int]:
    """Seconds and peak resident bytes of the command, its decoding processes apart."""
    start = time.perf_counter()
    arguments = [
        sys.executable,
        "-m",
        "zoo",
        "predict",
        NAME,
        str(folder),
        "--jsonl",
        "--device",
        "cpu",
        "--batch-size",
        str(batch_size),
    ]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"zoo predict ended with {status}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        rng = np.random.default_rng(0)
        for place, count in ((few, args.count // 10), (many, args.count)):
            place.mkdir()
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{i:06d}.png")
        print(machine())
        small, small_bytes = command(few, args.batch_size)
        network = bare(args.batch_size, args.count)
        large, large_bytes = command(many, args.batch_size)
        rate = (args.count - args.count // 10) / (large - small)
    print(f"network alone        {network:9,.0f} pictures/s")
    print(f"zoo predict --jsonl  {rate:9,.0f} pictures/s   ratio {rate / network:.2f}")
    print(
        f"resident memory      {small_bytes / 1e6:,.0f} MB at {args.count // 10:,}, "
        f"{large_bytes / 1e6:,.0f} MB at {args.count:,}"
    )


if __name__ == "__main__":
    main()
