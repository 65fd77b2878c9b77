"""How fast `zoo serve` is under load, beside the offline pipeline: pictures a second, p50 and p99, errors, memory.

    python benchmarks/serve.py [--name dilateformer_pico] [--clients 24] [--requests 400] [--pictures 8]

Clients, server and pipeline share this machine, over loopback; a client sends its next request when it has the answer.
The number of requests bounds the run. Rounds of the pipeline and of the server take turns; the ratio is the median of
the rounds' ratios.
"""

import argparse
import asyncio
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from machine import machine
from PIL import Image
from safetensors.torch import save_file

import zoo
from zoo.data.images import Encoded


def picture(seed: int, side: int) -> bytes:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8))
    data = io.BytesIO()
    small.resize((side, side)).save(data, "JPEG", quality=90)
    return data.getvalue()


def request(path: str, pictures: list[bytes]) -> bytes:
    """A whole HTTP request, made once: the clients should cost next to nothing."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="images"; filename="{i}.jpg"\r\n\r\n'.encode() + content + b"\r\n"
        for i, content in enumerate(pictures)
    ]
    body = b"".join(parts) + b"--x--\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def client(port: int, sent: bytes, count: int, times: list[float], codes: dict[int, int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(count):
        start = time.perf_counter()
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        times.append(time.perf_counter() - start)
        code = int(head.split()[1])
        codes[code] = codes.get(code, 0) + 1
    writer.close()


async def load(port: int, sent: bytes, clients: int, requests: int) -> tuple[float, list[float], dict[int, int]]:
    times: list[float] = []
    codes: dict[int, int] = {}
    start = time.perf_counter()
    await asyncio.gather(*(client(port, sent, requests // clients, times, codes) for _ in range(clients)))
    return time.perf_counter() - start, times, codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="dilateformer_pico")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--requests", type=int, default=400, help="in a round")
    parser.add_argument("--pictures", type=int, default=8, help="in a request")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        weights = Path(folder) / "random.safetensors"
        save_file(zoo.create_model(args.name).state_dict(), weights)
        pipe = zoo.pipeline(args.name, device="cpu", checkpoint_path=weights)
        side = pipe.card.input.size[1]
        sent = request("/v1/classify", [picture(i, side) for i in range(args.pictures)])
        command = [sys.executable, "-m", "zoo", "serve", args.name, "--checkpoint", str(weights), "--device", "cpu"]
        command += ["--port", "0", "--queue", str(max(256, args.clients * args.pictures))]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as server:
            assert server.stderr
            port = int(server.stderr.readline().rsplit(":", 1)[1])
            memory = psutil.Process(server.pid).memory_info
            asyncio.run(load(port, sent, args.clients, 4 * args.clients))
            ratios, all_times, all_codes, held = [], [], {}, [memory().rss / 1e6]
            count = args.requests * args.pictures
            items = [Encoded(f"{i}.jpg", picture(i % args.pictures, side)) for i in range(count)]
            for _ in range(args.rounds):
                start = time.perf_counter()
                for result in pipe(items):
                    assert not result.error
                offline = count / (time.perf_counter() - start)
                seconds, times, codes = asyncio.run(load(port, sent, args.clients, args.requests))
                served = len(times) * args.pictures / seconds
                ratios.append(served / offline)
                all_times += times
                held.append(memory().rss / 1e6)
                for code, number in codes.items():
                    all_codes[code] = all_codes.get(code, 0) + number
                print(f"  pipeline {offline:8,.1f}/s   served {served:8,.1f}/s   ratio {ratios[-1]:.2f}", flush=True)
            server.terminate()
            ended = server.wait(60)
    percentiles = statistics.quantiles([1e3 * t for t in all_times], n=100)
    print(f"{args.name}: {args.clients} clients, {args.pictures} pictures a request, {len(all_times)} requests")
    print(f"ratio {statistics.median(ratios):.2f} (median of {args.rounds}); statuses {all_codes}; exit code {ended}")
    print(f"p50 {percentiles[49]:.1f} ms, p99 {percentiles[98]:.1f} ms")
    print(f"resident memory MB, before and after each round: {', '.join(f'{mb:.0f}' for mb in held)}")


if __name__ == "__main__":
    main()
