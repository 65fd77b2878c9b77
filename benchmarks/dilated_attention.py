"""Dilated attention, and DilateFormer-Tiny whole, against the literal way that unfolds keys and values, as ratios.

    python benchmarks/dilated_attention.py              # two to five minutes, most of it in compilers
    python benchmarks/dilated_attention.py --only layer --rounds 20
    python benchmarks/dilated_attention.py --no-compile --json

One thread, CPU time of the thread. All ways take turns, so that whatever else the machine does meets all of them; a
ratio is the median over rounds of the literal way's time divided by the other's in the same round. The literal way is
tests/oracles/dilateformer.py. Memory is the peak of a call above what was there before it.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.oracles.dilateformer import UnfoldDilateFormer, unfold_attention
from zoo.bench.machine import machine
from zoo.convert import rename
from zoo.layers.dilated_attention import dilated_attention
from zoo.layers.inference import optimize
from zoo.models.dilateformer import DilateFormer

Run = Callable[[], object]

SHAPES = {"stage 1, 24x56x56, 1 head": ((4, 24, 56, 56), 1), "stage 2, 48x28x28, 2 heads": ((4, 48, 28, 28), 2)}
LITERAL = "unfold"


def take_turns(ways: dict[str, Run], rounds: int, calls: int) -> dict[str, list[float]]:
    """Milliseconds a call, a round each. A turn opens with an uncounted call: the caches are not its own yet."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            run()
            start = time.thread_time()
            for _ in range(calls):
                run()
            times[name].append(1e3 * (time.thread_time() - start) / calls)
    return times


def peak_memory(run: Run) -> int:
    """Bytes at the peak of a call, above the start."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    now = peak = 0
    events = (event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def rows(what: str, ways: dict[str, Run], rounds: int, calls: int, with_memory: bool) -> list[dict[str, object]]:
    times = take_turns(ways, rounds, calls)
    memory = {name: peak_memory(run) / 2**20 if with_memory else None for name, run in ways.items()}
    return [
        {
            "what": what,
            "way": name,
            "best_ms": min(values),
            "median_ms": statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(times[LITERAL], values, strict=True)),
            "memory_mib": memory[name],
        }
        for name, values in times.items()
    ]


def layer(rounds: int, compiled: bool) -> list[dict[str, object]]:
    """One dilation group of 2, batch 4: forward, and forward with backward."""
    found = []
    for name, (shape, heads) in SHAPES.items():
        q, k, v = (torch.randn(shape) for _ in range(3))
        last = [x.contiguous(memory_format=torch.channels_last) for x in (q, k, v)]

        def attend(q: Tensor, k: Tensor, v: Tensor, heads: int = heads) -> Tensor:
            return dilated_attention(q, k, v, heads, (2,))

        torch.testing.assert_close(attend(q, k, v).permute(0, 2, 3, 1), unfold_attention(q, k, v, heads, 2))
        ways: dict[str, Run] = {
            LITERAL: lambda a=(q, k, v, heads): unfold_attention(*a, 2),
            "plain": lambda a=(q, k, v), f=attend: f(*a),
            "plain, channels-last": lambda a=last, f=attend: f(*a),
        }
        with torch.inference_mode():
            if compiled:
                fused = torch.compile(attend, dynamic=False)
                ways["compiled, channels-last"] = lambda a=last, f=fused: f(*a)
            found += rows(f"forward, {name}", ways, rounds, 5, True)

        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        gradient = torch.randn(shape)
        nhwc = gradient.permute(0, 2, 3, 1).contiguous()
        ways = {
            LITERAL: lambda a=leaves, h=heads, g=nhwc: torch.autograd.grad(unfold_attention(*a, h, 2), a, g),
            "plain": lambda a=leaves, f=attend, g=gradient: torch.autograd.grad(f(*a), a, g),
        }
        found += rows(f"forward and backward, {name}", ways, rounds, 2, True)
    return found


def whole(rounds: int, compiled: bool) -> list[dict[str, object]]:
    """DilateFormer-Tiny, batch 8, 224 px."""
    literal = UnfoldDilateFormer().eval()
    model = DilateFormer().eval()
    model.load_state_dict(rename(literal.state_dict(), model.authors_keys))
    ready, x = optimize(model), torch.randn(8, 3, 224, 224)
    ways: dict[str, Run] = {
        LITERAL: lambda: literal(x),
        "as built": lambda: model(x),
        "zoo.optimize": lambda: ready(x),
    }
    with torch.inference_mode():
        torch.testing.assert_close(ready(x), literal(x), rtol=1e-4, atol=1e-5)
        if compiled:
            fused = torch.compile(ready, dynamic=False)
            torch.testing.assert_close(fused(x), literal(x), rtol=1e-4, atol=1e-5)
            ways["zoo.optimize, compiled"] = lambda: fused(x)
        return rows("DilateFormer-Tiny, batch 8", ways, rounds, 1, False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("layer", "whole"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = layer(args.rounds, not args.no_compile) if args.only != "whole" else []
    found += whole(args.rounds // 2 or 1, not args.no_compile) if args.only != "layer" else []
    if args.json:
        print(json.dumps({"machine": machine(), "rows": found}, indent=1))
        return
    print(machine())
    for row in found:
        memory = f"{row['memory_mib']:6.1f} MiB" if row["memory_mib"] is not None else ""
        print(f"{row['what']:52} {row['way']:24} {row['best_ms']:9.2f} ms {row['ratio']:6.2f}x {memory}")


if __name__ == "__main__":
    main()
