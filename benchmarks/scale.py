"""How much faster two worker processes embed a long list than one does.

    python benchmarks/scale.py --data DIR [--pictures 10000] [--name dilateformer_pico]

`--data` holds CIFAR-10. Its test pictures become shards of PNG files; torchrun starts one process or two, each with one
thread. The rate is that of the parts between the first and the last one written, so that starting Python does not
count; the whole command's time is printed beside it, and the processor time of all its processes: where other work
keeps the cores from the second process, the processor time says whether the processes are in each other's way.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from machine import machine
from PIL import Image

from zoo.data.datasets import load_pictures

SHARD = 250


def write_shards(data: Path, count: int, folder: Path) -> None:
    images = load_pictures("cifar10", "test", data).images.numpy()
    for start in range(0, count, SHARD):
        with tarfile.open(folder / f"{start:06d}.tar", "w") as tar:
            for i in range(start, min(count, start + SHARD)):
                held = io.BytesIO()
                Image.fromarray(images[i % len(images)]).save(held, "PNG")
                info = tarfile.TarInfo(f"{i:06d}.png")
                info.size = held.tell()
                held.seek(0)
                tar.addfile(info, held)


def run(name: str, shards: Path, out: Path, processes: int) -> tuple[float, float, float]:
    """Seconds of the whole command, of processor time, and pictures a second between the first part and the last."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", "zoo", "embed"]
    command += [name, f"{shards}/*.tar", "--out", f"{out}/", "--device", "cpu", "--workers", "0", "--quiet"]
    start, before = time.perf_counter(), _processor_time()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    whole, worked = time.perf_counter() - start, _processor_time() - before
    times = sorted(part.stat().st_mtime for part in out.glob("part-*"))
    return whole, worked, SHARD * (len(times) - processes) / (times[-1] - times[processes - 1])


def _processor_time() -> float:
    """Seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--name", default="dilateformer_pico")
    parser.add_argument("--shards", type=Path, help="folder of shards that are there, or will be")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        shards = args.shards or Path(folder) / "shards"
        if not shards.is_dir():
            shards.mkdir()
            write_shards(args.data, args.pictures, shards)
        rates = []
        for processes in (1, 2):
            whole, worked, rate = run(args.name, shards, Path(folder) / f"out{processes}", processes)
            rates.append(rate)
            told = f"the whole command {whole:.1f} s, processor time {worked:.1f} s"
            print(f"{processes} process(es): {rate:,.0f} pictures/s, {told}", flush=True)
    print(f"two to one: {rates[1] / rates[0]:.2f}")


if __name__ == "__main__":
    main()
