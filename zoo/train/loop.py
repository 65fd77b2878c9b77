"""The training loop: one function, read top to bottom."""

import json
import math
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

import zoo
from zoo.data.datasets import Pictures, augment, load_pictures
from zoo.errors import UsageError, ZooError
from zoo.hub.checkpoint import facts_for, write_whole
from zoo.registry.names import resolve
from zoo.train.checkpoint import load_run, save_run
from zoo.train.methods import new_method
from zoo.train.recipe import Recipe
from zoo.train.schedule import learning_rate

__all__ = ["Progress", "accuracy", "train"]

ORDER, AUGMENTATION = 2, 3  # streams of chance beside the seed's own; a step's pictures depend on nothing before it
WATCH = 20  # steps between looks at the loss, which make a GPU wait


@dataclass(frozen=True)
class Progress:
    """Where a training is: the epoch and step just finished, and what was measured.

    Attributes:
        epoch: From 1.
        epochs: Of the training.
        step: From 1, in this epoch.
        steps: Of an epoch.
        loss: Mean over this epoch so far.
        rate: Pictures a second in this epoch.
        left: Seconds to the end at that rate.
        figures: What was measured at the end of an epoch.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    rate: float
    left: float
    figures: dict[str, float]


def train(
    recipe: Recipe,
    out: Path,
    *,
    data: Path | None = None,
    device: str = "auto",
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train, or go on with the training that a folder holds; returns the finished checkpoint's file.

    The run depends on the recipe, the data, the code and the number of threads alone: one that was killed and started
    again ends with the same bits as one that never stopped.

    Args:
        recipe: What to do.
        out: Folder of the run: recipe.json, metrics.jsonl, last.safetensors, at the end model.safetensors.
        data: Folder that holds the set, see `load_pictures`.
        device: "auto" takes what Accelerate finds, "cpu" the CPU.
        report: Called about every `WATCH` steps and at the end of each epoch.

    Raises:
        UsageError: The folder holds a run of another recipe, the batch does not divide among the processes, or another
            device.
        ZooError: The loss is not finite any more; the last good checkpoint stays.
        KeyboardInterrupt: Stopped by a signal; the state was saved.
    """
    from accelerate import Accelerator

    if device not in ("auto", "cpu"):
        raise UsageError(f"training takes auto or cpu, not {device}", hint="CUDA_VISIBLE_DEVICES chooses among GPUs")
    accelerator = Accelerator(mixed_precision=recipe.precision, cpu=device == "cpu")
    accumulate, world = recipe.schedule.accumulate, accelerator.num_processes
    if recipe.schedule.batch_size % (accumulate * world):
        raise UsageError(
            f"a batch of {recipe.schedule.batch_size} does not divide into {accumulate} parts on {world} processes",
            hint="change schedule.batch_size",
        )
    pictures, held_out = load_pictures(recipe.data.name, "train", data).split(recipe.data.held_out, recipe.seed)
    steps = len(pictures) // recipe.schedule.batch_size
    if steps == 0:
        raise UsageError(
            f"{len(pictures)} pictures are fewer than a batch of {recipe.schedule.batch_size}",
            hint="lower schedule.batch_size",
        )
    torch.manual_seed(recipe.seed)
    builder_args = {"num_classes": len(pictures.names), **recipe.model_args}
    network = zoo.create_model(recipe.model, **builder_args)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    method = new_method(recipe.method, **recipe.method_args)
    network, optimizer = accelerator.prepare(network, _optimizer(network, recipe))
    bare = accelerator.unwrap_model(network)
    model = cast(nn.Module, torch.compile(network, dynamic=False)) if recipe.compile else network
    with accelerator.main_process_first():
        is_resumed = _claim(out, recipe)
    first_epoch, first_step = _resume(out, bare, optimizer) if is_resumed else (0, 0)
    mean, std = _statistics(recipe.model, accelerator.device)
    last = out / "last.safetensors"

    with _signals() as stopped:
        for epoch in range(first_epoch, recipe.schedule.epochs):
            started, seen, losses = time.monotonic(), 0, []
            method.start_epoch(bare, epoch, recipe.schedule.epochs)
            order = torch.from_numpy(np.random.default_rng((recipe.seed, ORDER, epoch)).permutation(len(pictures)))
            size = recipe.data.crop if epoch < recipe.data.crop_epochs else pictures.images.shape[1]
            is_still = epoch >= recipe.schedule.epochs - recipe.data.still_epochs
            padding = 0 if is_still else recipe.data.padding
            bare.train()
            for step in range(first_step, steps):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe.schedule, recipe.optimizer.lr, epoch, step / steps)
                rows = order[step * recipe.schedule.batch_size :][: recipe.schedule.batch_size]
                chance = np.random.default_rng((recipe.seed, AUGMENTATION, epoch, step))
                images = augment(pictures.images[rows], size, padding, recipe.data.flip, chance)
                mine = slice(accelerator.process_index, None, world)
                parts = zip(images[mine].chunk(accumulate), pictures.labels[rows][mine].chunk(accumulate), strict=True)
                for part, (raw, labels) in enumerate(parts):
                    x = _normalise(raw.to(accelerator.device), mean, std, recipe.channels_last)
                    with accelerator.autocast():
                        loss = method.loss(model, x, labels.to(accelerator.device)) / accumulate
                    if part < accumulate - 1:
                        with accelerator.no_sync(network):
                            accelerator.backward(loss)
                    else:
                        accelerator.backward(loss)
                if recipe.optimizer.clip_norm:
                    accelerator.clip_grad_norm_(bare.parameters(), recipe.optimizer.clip_norm)
                optimizer.step()
                if step < steps - 1:  # the epoch's last gradients are kept for the method's report
                    optimizer.zero_grad()
                losses.append(loss.detach() * accumulate)
                seen += len(rows)

                ended = step == steps - 1
                if ended or (step + 1) % WATCH == 0:
                    value = float(torch.stack(losses).mean())
                    if not math.isfinite(value):
                        raise ZooError(
                            f"the loss is {value} in epoch {epoch + 1}, step {step + 1}",
                            hint=f"lower optimizer.lr; the last good state stays in {last}",
                        )
                    rate = seen / (time.monotonic() - started)
                    left = (steps * (recipe.schedule.epochs - epoch) - step - 1) * recipe.schedule.batch_size / rate
                    if not ended and accelerator.is_main_process:
                        report(Progress(epoch + 1, recipe.schedule.epochs, step + 1, steps, value, rate, left, {}))
                every = recipe.schedule.save_every
                if not ended and (stopped or (every and (step + 1) % every == 0)):
                    if accelerator.is_main_process:
                        save_run(last, bare, optimizer, {"epoch": epoch, "step": step + 1})
                    if stopped:
                        raise KeyboardInterrupt

            figures = method.report(bare)
            optimizer.zero_grad()
            if len(held_out) and (
                (epoch + 1) % recipe.schedule.evaluate_every == 0 or epoch + 1 == recipe.schedule.epochs
            ):
                figures["held_out_top1"] = accuracy(bare, held_out, mean, std)
            first_step = 0
            if accelerator.is_main_process:
                facts = {
                    "epoch": epoch + 1,
                    "loss": value,
                    "rate": rate,
                    "lr": optimizer.param_groups[0]["lr"],
                    **figures,
                }
                _log(out / "metrics.jsonl", facts)
                save_run(last, bare, optimizer, {"epoch": epoch + 1, "step": 0})
                report(Progress(epoch + 1, recipe.schedule.epochs, steps, steps, value, rate, left, figures))
            if stopped:
                raise KeyboardInterrupt

    finished = out / "model.safetensors"
    if accelerator.is_main_process:
        tensors, layout = method.export(bare.to("cpu"))
        metadata = facts_for(
            resolve(recipe.model).architecture,
            builder_args,
            layout,
            recipe=json.loads(recipe.to_json()),
            labels=pictures.names,
            environment=_environment(),
            metrics=_last(out / "metrics.jsonl"),
        )
        write_whole(finished, save(tensors, metadata))
    accelerator.wait_for_everyone()
    return finished


@torch.inference_mode()
def accuracy(model: nn.Module, pictures: Pictures, mean: Tensor, std: Tensor, batch_size: int = 500) -> float:
    """Per cent of pictures whose highest logit is their label."""
    model.eval()
    right = 0
    for batch in pictures.batches(batch_size):
        logits = model(_normalise(batch.images.to(mean.device), mean, std, False))
        right += int((logits.argmax(1).cpu() == batch.labels).sum())
    return 100 * right / len(pictures)


def _normalise(images: Tensor, mean: Tensor, std: Tensor, channels_last: bool) -> Tensor:
    """(B, H, W, C) uint8 to (B, C, H, W) float."""
    x = images.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _statistics(name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    preprocessing = resolve(name).input
    mean, std = (
        torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    return mean, std


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    chosen = recipe.optimizer
    if chosen.name == "adam":
        return torch.optim.Adam(model.parameters(), chosen.lr, weight_decay=chosen.weight_decay, fused=True)
    return torch.optim.SGD(
        model.parameters(), chosen.lr, momentum=chosen.momentum, weight_decay=chosen.weight_decay, fused=True
    )


def _claim(out: Path, recipe: Recipe) -> bool:
    """Make the folder this run's; true if it already holds a state of it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be made: {error.strerror}", hint="choose another folder: --out DIR") from None
    for part in out.glob(".*.part"):  # left by a kill in the middle of writing
        part.unlink(missing_ok=True)
    ours = out / "recipe.json"
    if ours.exists() and ours.read_text(encoding="utf-8") != recipe.to_json():
        raise UsageError(
            f"{out} holds a run of another recipe", hint="choose another folder: --out DIR, or remove that one"
        )
    write_whole(ours, recipe.to_json().encode())
    return (out / "last.safetensors").exists()


def _resume(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    facts = load_run(out / "last.safetensors", model, optimizer)
    log = out / "metrics.jsonl"
    if log.exists():  # epochs behind the checkpoint will be done again
        lines = [
            line for line in log.read_text(encoding="utf-8").splitlines() if json.loads(line)["epoch"] <= facts["epoch"]
        ]
        write_whole(log, "".join(f"{line}\n" for line in lines).encode())
    return facts["epoch"], facts["step"]


def _log(path: Path, facts: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def _last(path: Path) -> dict[str, Any]:
    """What the last epoch measured, as far as a run that was stopped and resumed measures the very same."""
    logged = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    return {key: logged[key] for key in ("epoch", "held_out_top1") if key in logged}


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop, so that no step is cut in half. A second Ctrl-C does."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us there handles its signals
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment() -> dict[str, str | int]:
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "none: not a git checkout"
    return {
        "zoo": zoo.__version__,
        "commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
    }
