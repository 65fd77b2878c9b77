"""Teaches the starter acl_lite0.ham10000: three rounds of HAM10000 on the bundled extractor, then the bundled file.

    python experiments/ham_rounds.py HAM ROUNDS        # HAM: one folder a diagnosis
    python experiments/ham_starter.py ROUNDS OUT.zoo

Some 10 minutes of one core. A killed run goes on with the same command: rounds that are in the file are passed over,
the one that was broken off goes on from its last epoch. Beside OUT.zoo, the file to bundle is written: no pictures,
adapters and heads in float16.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from zoo.hub.fetch import sha256_of
from zoo.tasks.taught import read_taught
from zoo.tasks.teachable import evaluate_taught
from zoo.train.learners import Settings
from zoo.train.teach import Start, prepare, teach

SIDE, MEMORY, EPOCHS = 144, 200, 30
TEST = "the test part of experiments/ham_rounds.py"  # in place of where it lies on this machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rounds", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--memory", type=int, default=MEMORY, help="40 and 60 epochs: the Skin8 protocol's memory")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = read_taught(args.out).facts.tasks if args.out.exists() else ()
    for number in range(len(known) + 1, 4):
        ready = prepare(
            args.out,
            args.rounds / f"round{number}",
            name=f"round {number}",
            start=None if args.out.exists() else Start(size=SIDE, memory=args.memory),
            settings=Settings(epochs=args.epochs, is_balanced=True),
            val=args.rounds / "test",
            device="cpu",
            report=lambda what, done: what.startswith("reading") or print(f"{100 * done:3.0f}% {what}", flush=True),
        )
        print(*(f"{key}: {value}" for key, value in ready.plan()), sep="\n", flush=True)
        print(teach(ready).to_dict(), flush=True)
    taught = read_taught(args.out).without_memory()
    tasks = tuple(msgspec.structs.replace(task, measured_on=TEST) for task in taught.facts.tasks)
    taught = replace(taught, facts=msgspec.structs.replace(taught.facts, tasks=tasks))
    bundled = args.out.with_suffix(".safetensors")
    taught.write_copy(bundled, torch.float16)
    print(f"bytes: {bundled.stat().st_size}, sha256: {sha256_of(bundled)}")
    print(evaluate_taught(bundled, str((args.rounds / "test").absolute()), device="cpu").to_dict())


if __name__ == "__main__":
    main()
