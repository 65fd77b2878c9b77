"""The folder of a run: what is in it, whose it is, and where it goes on.

recipe.json          the resolved recipe; another one is refused
environment.json     versions, code, machine, seed, command of each start
metrics.jsonl        one line an epoch
curves.png           the same, drawn
bad_files.txt        files that could not be read
events.*             for TensorBoard, if asked for
last.safetensors     the state to go on from
best.safetensors     the network with the best measured figure, ready for use
model.safetensors    the finished network
"""

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

import zoo
from zoo.errors import InputError, UsageError
from zoo.hub.checkpoint import write_whole
from zoo.train.recipe import Recipe
from zoo.viz.curves import curves

__all__ = ["append_metrics", "claim", "draw", "environment", "forget_after", "note_bad_files", "note_start"]


def claim(out: Path, recipe: Recipe) -> bool:
    """Make the folder this run's; true if it already holds a state of it.

    Raises:
        UsageError: It cannot be made, or holds a run of another recipe.
        InputError: It cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be made: {error.strerror}", hint="choose another folder: --out DIR") from None
    for part in out.glob(".*.part"):  # left by a kill in the middle of writing
        part.unlink(missing_ok=True)
    ours = out / "recipe.json"
    if ours.exists() and not _is_of(recipe, ours):
        raise UsageError(
            f"{out} holds a run of another recipe", hint="choose another folder: --out DIR, or remove that one"
        )
    write_whole(ours, recipe.to_json().encode())
    return (out / "last.safetensors").exists()


def environment() -> dict[str, str | int]:
    """What besides the recipe and the data decides how a run ends."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "none: not a git checkout"
    found: dict[str, str | int] = {
        "zoo": zoo.__version__,
        "commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda or ""}
    return found


def note_start(out: Path, recipe: Recipe, world: int, epoch: int, step: int) -> None:
    """Add this start to environment.json: a resumed run may have changed machines."""
    path = out / "environment.json"
    starts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    start = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "from_epoch": epoch,
        "from_step": step,
        "seed": recipe.seed,
        "processes": world,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **environment(),
    }
    write_whole(path, json.dumps([*starts, start], indent=1).encode())


def append_metrics(out: Path, facts: Mapping[str, Any]) -> None:
    """One more line in metrics.jsonl.

    Raises:
        InputError: It cannot be written.
    """
    path = out / "metrics.jsonl"
    before = path.read_bytes() if path.exists() else b""
    write_whole(path, before + json.dumps(facts).encode() + b"\n")


def forget_after(out: Path, epoch: int) -> None:
    """Drop what metrics.jsonl says of epochs behind the checkpoint: they will be done again."""
    path = out / "metrics.jsonl"
    if path.exists():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["epoch"] <= epoch]
        write_whole(path, "".join(f"{line}\n" for line in kept).encode())


def note_bad_files(out: Path, rank: int, bad: Mapping[str, None], count: int, tolerated: float) -> None:
    """List the files that could not be read.

    Args:
        out: The run's folder.
        rank: The process that met them; each writes a list of its own.
        bad: What is wrong with each.
        count: Pictures of the set.
        tolerated: Share of them that may be bad.

    Raises:
        InputError: They are more.
    """
    path = out / (f"bad_files.{rank}.txt" if rank else "bad_files.txt")
    write_whole(path, "".join(f"{fault}\n" for fault in bad).encode())
    if len(bad) > tolerated * count:
        raise InputError(
            f"{len(bad)} of {count} pictures cannot be read, more than {tolerated:.3g} of them; {next(iter(bad))}",
            hint=f"{path} lists those met so far; mend them, or raise data.bad_share",
        )


def draw(out: Path) -> None:
    """Draw metrics.jsonl as curves.png."""
    import io

    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    series: dict[str, Sequence[tuple[float, float]]] = {}
    for name in dict.fromkeys(key for line in lines for key in line if key not in ("epoch", "rate")):
        series[name] = [(line["epoch"], line[name]) for line in lines if name in line]
    content = io.BytesIO()
    curves(series, across="epoch").save(content, "PNG")
    write_whole(out / "curves.png", content.getvalue())


def _is_of(recipe: Recipe, path: Path) -> bool:
    """Whether a file holds this recipe, perhaps written before some of its keys existed."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recipe) == recipe
    except msgspec.MsgspecError:
        return False
