"""PSLT made ready for inference against its plain form, on one core.

    python benchmarks/pslt.py                                # pslt_base, batch 8, 224 px: about two minutes
    python benchmarks/pslt.py --compile                      # torch.compile as well: some minutes more
    python benchmarks/pslt.py --names pslt_tiny --batch 1

The plain form is the same network written straightforwardly: maps in NCHW, norms apart from convolutions, attention
as two products and a softmax. The time is CPU time of the thread; the forms take turns, and a row's ratio is the median
over rounds.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable

import torch
from machine import machine
from torch import Tensor, nn

import zoo
from zoo.layers.inference import compile_blocks
from zoo.models.pslt import WindowAttention


class PlainAttention(nn.Module):
    """`WindowAttention` with the softmax written out, a window one entry of the batch."""

    def __init__(self, attn: WindowAttention) -> None:
        super().__init__()
        self.attn, self.window = attn, attn.window

    def forward(self, x: Tensor, values: Tensor | None, mask: Tensor | None) -> Tensor:
        attn, (batch, height, width, chs) = self.attn, x.shape
        if values is None:
            parts = attn.qkv(self.cut(x)).chunk(3, -1)
        else:
            parts = (*attn.qk(self.cut(x)).chunk(2, -1), self.cut(values))
        q, k, v = (self.heads(part) for part in parts)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        logits = logits + attn.relative_position_bias_table[attn.index].permute(2, 0, 1)
        if mask is not None:
            logits = (logits.unflatten(0, (batch, -1)) + mask[:, None]).flatten(0, 1)
        y = attn.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        side = self.window
        y = y.view(batch, height // side, width // side, side, side, chs)
        return y.transpose(2, 3).reshape(batch, height, width, chs)

    def cut(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B * windows, S*S, C)."""
        batch, height, width, chs = x.shape
        side = self.window
        x = x.reshape(batch, height // side, side, width // side, side, chs)
        return x.transpose(2, 3).reshape(-1, side * side, chs)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.attn.num_heads, -1)).transpose(1, 2)


def plain(model: nn.Module) -> nn.Module:
    """The straightforward form of an evaluating network."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, WindowAttention):
            model.set_submodule(name, PlainAttention(module))
    return model


def trained(name: str) -> nn.Module:
    """A network whose norms have seen something."""
    torch.manual_seed(0)
    model = zoo.create_model(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def take_turns(forms: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of CPU a call, one a round."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, run in forms.items():
            run()  # the first call after another form finds its weights out of the caches
            start = time.thread_time()
            run()
            times[name].append(1e3 * (time.thread_time() - start))
    return times


def rows(name: str, batch: int, side: int, rounds: int, compiled: bool) -> list[dict[str, object]]:
    model = trained(name)
    x = torch.randn(batch, 3, side, side)
    last = x.contiguous(memory_format=torch.channels_last)
    simple, ready, unfolded = plain(model), zoo.optimize(model), model.to(memory_format=torch.channels_last)
    forms = {
        "plain": lambda: simple(x),
        "ours, channels-last alone": lambda: unfolded(last),
        "ours, zoo.optimize": lambda: ready(last),
    }
    with torch.inference_mode():
        truth = simple(x)
        if compiled:
            program = compile_blocks(zoo.optimize(model))  # as zoo predict --compile does
            forms["ours, zoo.optimize, compiled"] = lambda: program(last)
        for run in forms.values():
            torch.testing.assert_close(run(), truth, rtol=1e-3, atol=1e-4)
        times = take_turns(forms, rounds)
    found = []
    for form, values in times.items():
        ratios = [a / b for a, b in zip(times["plain"], values, strict=True)]
        row = {"network": name, "batch": batch, "side": side, "form": form}
        found.append({**row, "median_ms": statistics.median(values), "times_plain": statistics.median(ratios)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", default=["pslt_base"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)  # thread_time sees one thread
    found = [row for name in args.names for row in rows(name, args.batch, args.side, args.rounds, args.compile)]
    if args.json:
        print(json.dumps({"machine": machine(), "rows": found}, indent=1))
        return
    print(machine())
    for row in found:
        text = "{network:10} batch {batch:<3} {side} px  {form:30} {median_ms:9.1f} ms  x {times_plain:.2f}"
        print(text.format(**row))


if __name__ == "__main__":
    main()
