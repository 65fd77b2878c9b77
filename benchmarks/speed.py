"""What one input costs on one core, for the gallery: CPU time of every network, written to benchmarks/speed.toml.

    python benchmarks/speed.py [NAME...]

One thread, CPU time of the process, batch 1, the median of the rounds; a network runs as `zoo predict` runs it, weights
random. A line that is there is kept unless its network is named, so that a new card costs its own measurement only.
"""

import argparse
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from machine import machine

import zoo
from zoo.bench.bench import contenders
from zoo.registry.card import Card
from zoo.registry.names import list_names, load_card

FILE = Path(__file__).with_suffix(".toml")
SHORTEST = 0.05  # seconds of a measurement; shorter calls are repeated
PICTURE = (480, 640)  # of the filter, which takes any


def work(card: Card) -> tuple[str, Callable[[], object]]:
    """What the input is, and what to time."""
    channels, height, width = card.input.size
    if card.task == "filter":
        picture = torch.rand(3, *PICTURE)
        return f"a picture, {PICTURE[1]}x{PICTURE[0]}", lambda: zoo.texture_filter(picture)
    if card.task == "retrieve":
        model = zoo.create_model(card.name).eval()
        clip = torch.rand(1, model.num_frames, channels, height, width)
        return f"{model.num_frames} frames, {width}x{height}", lambda: model.encode_video(clip)
    (network,) = contenders([card.name], devices=["cpu"])
    pictures = torch.rand(1, channels, height, width).contiguous(memory_format=torch.channels_last)
    return f"a picture, {width}x{height}", lambda: network.model(pictures)


@torch.inference_mode()
def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Of CPU time, a call."""

    def seconds(calls: int) -> float:
        start = time.process_time()
        for _ in range(calls):
            call()
        return (time.process_time() - start) / calls

    seconds(1)
    calls = max(1, round(SHORTEST / seconds(1)))
    return 1e3 * median(seconds(calls) for _ in range(rounds))


def write(lines: dict[str, dict[str, str | float]], note: str) -> None:
    """All lines and where they were measured."""
    text = [f'machine = "{", ".join(filter(None, (machine(), note)))}"', 'command = "python benchmarks/speed.py"']
    text += ["", "[networks]"]
    text += [f'"{name}" = {{input = "{line["input"]}", ms = {line["ms"]:g}}}' for name, line in sorted(lines.items())]
    FILE.write_text("\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    """Measure what is named or missing; write all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="measured again; by default those that FILE lacks")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--note", default="", help="about the machine, such as what else it was doing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = tomllib.loads(FILE.read_text(encoding="utf-8"))["networks"] if FILE.exists() else {}
    for card in map(load_card, list_names()):
        if card.task == "ground" or (card.name in lines and card.name not in args.names):
            continue  # a sentence and a video have no one cost; benchmarks/ground.py times them
        what, call = work(card)
        lines[card.name] = {"input": what, "ms": float(f"{milliseconds(call, args.rounds):.3g}")}
        print(card.name, lines[card.name])
        write(lines, args.note)  # a line a network, so that a run that is stopped goes on


if __name__ == "__main__":
    main()
