"""What waits for a machine with a GPU: its tests, the benchmarks, the starters' training.

    python benchmarks/gpu_backlog.py --data DIR --out DIR [--minutes 9] [--only NAME ...]

Nothing is downloaded. One call works for `--minutes` at most and exits with 75 while there is more to do: call it again
until it exits with 0, or with 1 if a job failed. A training that is cut off goes on from its checkpoint. Weights,
figures and logs are collected in OUT/collected. A further starter is a line in STARTERS.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MORE_TO_DO = 75  # sysexits' EX_TEMPFAIL: try again
GRACE = 60.0  # seconds that a job has to save its state
SHORTEST = 20.0  # seconds left that are not worth starting a job in
NO_TESTS = 5  # pytest's exit code when none was selected
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Starter:
    """A network to train and measure; {data}, {drawn} and {weights} stand for --data, what is drawn, the checkpoint.

    Attributes:
        name: Of the collected weights.
        recipe: What trains it.
        measure: `zoo`'s words that measure it, answering in JSON; none where the training itself ends with a table.
        overrides: Values in place of the recipe's.
        draws: `zoo`'s words that draw the set it learns from, in {drawn}.
    """

    name: str
    recipe: str
    measure: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    draws: tuple[str, ...] = ()


def classifies(model: str, dataset: str, split: str = "test") -> tuple[str, ...]:
    return ("eval", model, dataset, "--split", split, "--data", "{data}", "--checkpoint", "{weights}")


FINDS = ("reid", "eval", "{drawn}", "--model", "sgiel_pico", "--checkpoint", "{weights}")
RETRIEVES = ("retrieve", "eval", "zooclips", "--data", "{data}", "--model", "tmvm_tiny", "--weights", "{weights}")
GROUNDS = ("ground-eval", "stvgformer_tiny", "zooclips_ground", "--checkpoint", "{weights}")
TINY_IMAGENET = classifies("pslt_tiny", "tiny_imagenet", "val")
STARTERS = (
    Starter("reste_resnet18_cifar", "reste_resnet18_cifar", classifies("reste_resnet18_cifar", "cifar10")),
    Starter("reste_resnet20_cifar", "reste_resnet20_cifar_paper", classifies("reste_resnet20_cifar", "cifar10")),
    Starter("pslt_tiny_tiny_imagenet", "tiny_imagenet", TINY_IMAGENET, ("model=pslt_tiny",)),
    Starter("pslt_pico", "pslt_pico", classifies("pslt_pico", "cifar10")),
    Starter("dilateformer_pico", "dilateformer_pico", classifies("dilateformer_pico", "cifar10")),
    Starter("metric_imbalance_cifar100_lt", "metric_imbalance_cifar100_lt"),
    Starter("sgiel_pico", "sgiel_pico_people", FINDS, draws=("reid", "synth", "--out", "{drawn}")),
    Starter("tmvm_tiny", "tmvm_tiny", RETRIEVES),
    Starter("stvgformer_tiny", "stvgformer_tiny", GROUNDS),
)
BENCHMARKS = ("train.py",)
KEPT = (
    "model.safetensors", "metrics.jsonl", "environment.json", "recipe.json", "curves.png", "rows.json", "table.md"
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A command that may be cut off and started again until it is done.

    Attributes:
        name: Of its folder.
        command: What Python runs.
        ending: Of the file that its output goes to when it is done: txt or json.
        success: Exit codes that mean done.
    """

    name: str
    command: tuple[str, ...]
    ending: str = "txt"
    success: tuple[int, ...] = (0,)

    def result(self, out: Path) -> Path:
        """Its output; there when it is done."""
        return out / self.name / f"result.{self.ending}"


def jobs(args: argparse.Namespace) -> list[Job]:
    """Everything to do, in order."""
    device = ("--device", args.device)
    found = [Job("tests", ("-m", "pytest", "-q", "-m", args.tests, str(ROOT / "tests")), success=(0, NO_TESTS))]
    for name in BENCHMARKS:
        found.append(Job(f"benchmark_{Path(name).stem}", (str(ROOT / "benchmarks" / name), *device)))
    for starter in STARTERS:
        run = args.out / starter.name / "run"
        drawn = args.out / f"{starter.name}_data" / "drawn"
        places = {"data": args.data, "drawn": drawn, "weights": run / "model.safetensors"}
        draws, measure = (
            ("-m", "zoo", *(word.format_map(places) for word in words), "--json")
            for words in (starter.draws, starter.measure)
        )
        data = drawn if starter.draws else args.data
        train = ("-m", "zoo", "train", starter.recipe, *starter.overrides, *args.set, "--data", str(data))
        if starter.draws:
            found.append(Job(f"{starter.name}_data", draws, "json"))
        found.append(Job(starter.name, (*train, "--out", str(run), *device)))
        if starter.measure:
            found.append(Job(f"{starter.name}_figures", (*measure, *device), "json"))
    return [job for job in found if not args.only or any(job.name.startswith(only) for only in args.only)]


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
        (folder / "output").replace(job.result(folder.parent))  # its being there means that the job is done
    return code


def collect(out: Path, wanted: list[Job]) -> Path:
    """Weights, figures and logs of what is done, in one folder."""
    collected = out / "collected"
    collected.mkdir(parents=True, exist_ok=True)
    for job in wanted:
        run = out / job.name / "run"
        for name in KEPT if (run / "model.safetensors").exists() else ():
            if (run / name).exists():
                shutil.copy2(run / name, collected / f"{job.name}.{name.removeprefix('model.')}")
        if job.result(out).exists():
            shutil.copy2(job.result(out), collected / f"{job.name}.{job.ending}")
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
        if job.result(args.out).exists():
            print(f"done      {job.name}")
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
