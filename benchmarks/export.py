"""What every network can be exported to: a row a network, part and format, and what narrower numbers cost.

    python benchmarks/export.py matrix [--match 'reste*'] [--formats onnx torch-export openvino]
    python benchmarks/export.py reduced --data DIR
    python benchmarks/export.py speed [--rounds 15]

`matrix` writes each file with `zoo.export.export`, which compares it with its network; networks that nobody has
published get random weights. `reduced` measures INT8 and bfloat16 files of the bundled classifiers on CIFAR-10.
`speed` times the bundled networks in eager torch, as the pipeline runs them, and in the other runtimes, in turns, by
the processor time of the process, which has one thread that works.
"""

import argparse
import fnmatch
import statistics
import tempfile
import time
from pathlib import Path

import torch
from machine import machine
from safetensors.torch import save_file

import zoo
from zoo.errors import ZooError
from zoo.export.check import FORMATS, open_exported
from zoo.export.export import export
from zoo.export.parts import tasks_of
from zoo.registry.names import list_names, load_card

STARTERS = ("reste_resnet20_cifar", "dilateformer_pico", "pslt_pico")


def weights_for(name: str, folder: Path) -> Path | None:
    """Random weights for what nobody has published."""
    if load_card(name).weights.status == "bundled":
        return None
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    if not path.exists():
        save_file({key: value.contiguous() for key, value in zoo.create_model(name).state_dict().items()}, path)
    return path


def one(name: str, part: str, format: str, folder: Path, checkpoint: Path | None, **options: object) -> str:
    file = folder / f"net{FORMATS[format]}"
    start = time.process_time()
    try:
        done = export(name, file, format=format, task=part, checkpoint_path=checkpoint, **options)
    except ZooError as error:
        return f"no: {error}"
    batch = "any" if len(done.batch_sizes) > 1 else "1"
    return (
        f"{done.largest_difference:.0e}, batch {batch}, {done.bytes / 1e6:.1f} MB, {time.process_time() - start:.0f} s"
    )


def matrix(args: argparse.Namespace) -> None:
    for name in (name for pattern in args.match for name in list_names() if fnmatch.fnmatch(name, pattern)):
        card = load_card(name)
        for part in tasks_of(card):
            if part == "embed" and card.task != "embed":
                continue
            modalities = ("visible", "infrared") if card.task == "reid" else (None,)
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = weights_for(name, Path(folder))
                for modality in modalities:
                    cells = [
                        one(name, part, format, Path(folder), checkpoint, modality=modality) for format in args.formats
                    ]
                    sizes = "-"
                    if part in ("classify", "embed", "reid") and not args.fixed:
                        options = {"modality": modality, "dynamic_size": True}
                        sizes = one(name, part, "onnx", Path(folder), checkpoint, **options)
                    print(f"| {name} | {modality or part} | {' | '.join(cells)} | {sizes} |", flush=True)


def reduced(args: argparse.Namespace) -> None:
    for name in STARTERS:
        for format, dtype in (("onnx", "int8"), ("torch-export", "bfloat16")):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / f"net{FORMATS[format]}"
                options = {"data": "cifar10", "data_root": args.data, "max_drop": 100}
                done = export(name, file, format=format, dtype=dtype, **options)
                cost = done.accuracy
                shares = f"{cost.float32:.2f} | {cost.reduced:.2f} | {cost.reduced - cost.float32:+.2f}"
                agree = f"{cost.agreement:.2f}% of {cost.count:,}"
                print(f"| {name} | {dtype} ({format}) | {done.bytes / 1e3:.0f} kB | {shares} | {agree} |", flush=True)


@torch.inference_mode()
def speed(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for name in STARTERS:
        with tempfile.TemporaryDirectory() as folder:
            pipe = zoo.pipeline(name, device="cpu")
            eager = zoo.create_model(name, pretrained=True).eval()
            runs = {"eager": eager, "pipeline": pipe.model}
            for format in ("onnx", "openvino"):
                file = Path(folder) / f"net{FORMATS[format]}"
                export(name, file, format=format)
                runs[format] = open_exported(file)
            for batch in (1, 16):
                x = torch.rand(batch, *pipe.card.input.size)
                times: dict[str, list[float]] = {key: [] for key in runs}
                for turn in range(args.rounds + 3):
                    for key, run in runs.items():
                        start = time.process_time()
                        run(x)
                        if turn >= 3:
                            times[key].append(time.process_time() - start)
                middle = {key: 1e3 * statistics.median(values) for key, values in times.items()}
                ratio = statistics.median(a / b for a, b in zip(times["eager"], times["onnx"], strict=True))
                cells = " | ".join(f"{middle[key]:.2f}" for key in runs)
                print(f"| {name} | {batch} | {cells} | {ratio:.2f}x |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["matrix", "reduced", "speed"])
    parser.add_argument("--match", nargs="+", default=["*"], help="names, with wildcards")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--fixed", action="store_true", help="leave out files of any size")
    parser.add_argument("--data", type=Path, help="folder that holds cifar10")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print(machine())
    {"matrix": matrix, "reduced": reduced, "speed": speed}[args.what](args)


if __name__ == "__main__":
    main()
