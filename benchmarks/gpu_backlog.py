"""What waits for a machine with a GPU: its tests, the benchmarks, the starters' training.

    python benchmarks/gpu_backlog.py --data DIR --out DIR [--minutes 9] [--only NAME ...]

Nothing is downloaded. One call works for `--minutes` at most and exits with 75 while there is more to do: call it again
until it exits with 0, or with 1 if a job failed. A training that is cut off goes on from its checkpoint. Weights,
figures and logs are collected in OUT/collected. A further starter is a line in STARTERS.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from zoo.train.recipe import recipe_names

MORE_TO_DO = 75  # sysexits' EX_TEMPFAIL: try again
GRACE = 60.0  # seconds that a job has to save its state
SHORTEST = 20.0  # seconds left that are not worth starting a job in
NO_TESTS = 5  # pytest's exit code when none was selected
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Starter:
    """A network to train and measure.

    Attributes:
        name: Of the collected weights.
        model: Architecture.
        recipe: What trains it.
        dataset: What it is measured on.
        split: Part of it.
        overrides: Values in place of the recipe's.
    """

    name: str
    model: str
    recipe: str
    dataset: str
    split: str = "test"
    overrides: tuple[str, ...] = ()


STARTERS = (
    Starter("reste_resnet18_cifar", "reste_resnet18_cifar", "reste_resnet18_cifar", "cifar10"),
    Starter("reste_resnet20_cifar", "reste_resnet20_cifar", "reste_resnet20_cifar_paper", "cifar10"),
    Starter("pslt_tiny_tiny_imagenet", "pslt_tiny", "tiny_imagenet", "tiny_imagenet", "val", ("model=pslt_tiny",)),
    Starter("pslt_pico", "pslt_pico", "pslt_pico", "cifar10"),
    Starter("dilateformer_pico", "dilateformer_pico", "dilateformer_pico", "cifar10"),
)
BENCHMARKS = ("train",)


@dataclass(frozen=True)
class Job:
    """A command that may be cut off and started again until it is done.

    Attributes:
        name: Of its folder.
        command: What Python runs.
        result: File that its output goes to when it is done.
        success: Exit codes that mean done.
    """

    name: str
    command: tuple[str, ...]
    result: str
    success: tuple[int, ...] = (0,)


def jobs(args: argparse.Namespace) -> list[Job]:
    """Everything to do, in order."""
    place, data = args.out, str(args.data)
    found = [Job("tests", ("-m", "pytest", "-q", "-m", args.tests, str(ROOT / "tests")), "tests.txt", (0, NO_TESTS))]
    for name in BENCHMARKS:
        found.append(
            Job(
                f"benchmark_{name[:-3]}", (str(ROOT / "benchmarks" / name), "--device", args.device), f"{name[:-3]}.txt"
            )
        )
    for starter in STARTERS:
        run = place / starter.name / "run"
        device = ("--device", args.device)
        train = ("-m", "zoo", "train", starter.recipe, *starter.overrides, *args.set, "--data", data, "--out", str(run))
        measure = ("-m", "zoo", "eval", starter.model, starter.dataset, "--split", starter.split, "--data", data)
        weights = ("--checkpoint", str(run / "model.safetensors"), "--json")
        found.append(Job(starter.name, (*train, *device), "train.txt"))
        found.append(Job(f"{starter.name}_figures", (*measure, *weights, *device), "figures.json"))
    return [job for job in found if not args.only or any(job.name.startswith(only) for only in args.only)]


def missing(job: Job) -> str:
    """Why a job cannot be done in this checkout; empty if it can."""
    recipe = next((starter.recipe for starter in STARTERS if job.name.startswith(starter.name)), None)
    return f"there is no recipe {recipe}" if recipe and recipe not in recipe_names() else ""


def run(job: Job, folder: Path, deadline: float) -> int:
    """Run until it ends or time is up; returns its exit code, `MORE_TO_DO` if it was cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "output").open("wb") as output, (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen([sys.executable, *job.command], stdout=output, stderr=log, env=environment)
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # a training saves and ends with 130
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return MORE_TO_DO
    if code in job.success:
        (folder / "output").replace(folder / job.result)  # its being there means that the job is done
    return code


def collect(out: Path, wanted: list[Job]) -> Path:
    """Weights, figures and logs of what is done, in one folder."""
    collected = out / "collected"
    collected.mkdir(parents=True, exist_ok=True)
    figures = {}
    for job in wanted:
        folder = out / job.name
        if (folder / "run" / "model.safetensors").exists():
            shutil.copy2(folder / "run" / "model.safetensors", collected / f"{job.name}.safetensors")
            for name in ("metrics.jsonl", "environment.json", "recipe.json", "curves.png"):
                shutil.copy2(folder / "run" / name, collected / f"{job.name}.{name}")
        if (folder / job.result).exists() and job.result == "figures.json":
            measured = json.loads((folder / job.result).read_text())
            figures[job.name.removesuffix("_figures")] = {
                key: measured[key] for key in ("model", "dataset", "pictures", "top1", "top1_interval", "top5")
            }
        elif (folder / job.result).exists():
            shutil.copy2(folder / job.result, collected / f"{job.name}.{job.result}")
    (collected / "figures.json").write_text(json.dumps(figures, indent=1))
    return collected


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the jobs; keep it from call to call")
    parser.add_argument("--minutes", type=float, default=9.0, help="how long this call works")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="jobs whose names begin so")
    parser.add_argument("--device", default="auto", help="auto or cpu")
    parser.add_argument("--tests", default="gpu", help="marker of the tests to run")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of every recipe")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    wanted, failed, cut = jobs(args), [], False
    for job in wanted:
        folder = args.out / job.name
        if (folder / job.result).exists():
            print(f"done      {job.name}")
        elif reason := missing(job):
            print(f"left out  {job.name}: {reason}")
        elif cut or deadline - time.monotonic() < min(SHORTEST, 30 * args.minutes):
            cut = True
            print(f"waits     {job.name}")
        else:
            print(f"starts    {job.name}", flush=True)
            code = run(job, folder, deadline)
            cut = cut or code == MORE_TO_DO
            if code not in (MORE_TO_DO, *job.success):
                failed.append(job.name)
                print(f"FAILED    {job.name} with {code}; see {folder / 'log.txt'}")
    print(f"collected in {collect(args.out, wanted)}")
    return MORE_TO_DO if cut else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
