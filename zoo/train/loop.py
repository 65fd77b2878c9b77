"""The training loop: one function, read top to bottom."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import msgspec
import torch
from safetensors.torch import save
from torch import Tensor, nn

from zoo.errors import UsageError, ZooError
from zoo.extras import need
from zoo.hub.checkpoint import facts_for, write_whole
from zoo.interop.timm_names import architecture_of
from zoo.train import folder
from zoo.train.average import Average
from zoo.train.checkpoint import load_run, save_run, whole_state
from zoo.train.course import Place
from zoo.train.feed import STEP, seed_everything
from zoo.train.methods import Method, new_method
from zoo.train.networks import new_network
from zoo.train.recipe import Optimizer, Recipe
from zoo.train.schedule import learning_rate

__all__ = ["Progress", "train"]

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
        rate: Examples a second in this epoch.
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
    workers: int | None = None,
    tensorboard: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train, or go on with the training that a folder holds; returns the finished checkpoint's file.

    The run depends on the recipe, the data, the code and the number of threads and processes alone: one that was killed
    and started again ends with the same bits as one that never stopped.

    Args:
        recipe: What to do.
        out: Folder of the run, see `zoo.train.folder`.
        data: Folder that holds the set, see `open_data`.
        device: "auto" takes what Accelerate finds, "cpu" the CPU.
        workers: Processes that prepare pictures; the result is the same with any number. None starts some for files
            and for timm's augmentation.
        tensorboard: Whether to write events for TensorBoard too.
        report: Called about every `WATCH` steps and at the end of each epoch.

    Raises:
        UsageError: The folder holds a run of another recipe, the batch does not divide among the processes, or another
            device.
        InputError: The data cannot be had, too much of it is damaged, or the disk is full.
        ZooError: The loss is not finite any more, or a worker died; the last good checkpoint stays.
        KeyboardInterrupt: Stopped by a signal; the state was saved.
    """
    method = new_method(recipe.method, **recipe.method_args)
    accelerator = _accelerator(recipe, device)
    rank, world, is_main = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    schedule, accumulate = recipe.schedule, recipe.schedule.accumulate
    if schedule.batch_size % (accumulate * world):
        raise UsageError(
            f"a batch of {schedule.batch_size} does not divide into {accumulate} parts on {world} processes",
            hint="change schedule.batch_size",
        )
    course = method.course(recipe, Place(data, accelerator.device, rank, world, workers))
    steps = course.steps
    _seed(recipe.seed)
    network, builder_args = new_network(recipe, course.builder_args)
    network = method.prepare(network)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    network, optimizer = accelerator.prepare(network, _optimizer(method.groups(network), recipe.optimizer))
    bare = accelerator.unwrap_model(network)
    model = cast(nn.Module, torch.compile(network, dynamic=False)) if recipe.compile else network
    average = Average(bare, recipe.optimizer.ema) if recipe.optimizer.ema else None
    course.begin()

    with accelerator.main_process_first():
        is_resumed = folder.claim(out, recipe)
    last = out / "last.safetensors"
    facts: dict[str, Any] = {"epoch": 0, "step": 0, "best": -1.0}
    if is_resumed:
        facts |= load_run(last, bare, optimizer, average)
        if accelerator.scaler and "scaler" in facts:
            accelerator.scaler.load_state_dict(facts["scaler"])
    else:
        method.start(bare)
    first_epoch, first_step, best = facts["epoch"], facts["step"], facts["best"]
    provenance = {"recipe": json.loads(recipe.to_json()), **course.facts, "environment": folder.environment()}
    if is_main:
        folder.forget_after(out, first_epoch)
        folder.note_start(out, recipe, world, first_epoch, first_step)
    events = _events(out, first_epoch) if tensorboard and is_main else None
    bad: dict[str, None] = {}

    def keep(epoch: int, step: int) -> None:
        scaler = {"scaler": accelerator.scaler.state_dict()} if accelerator.scaler else {}
        where = {"epoch": epoch, "step": step, "best": best, **scaler, **provenance}
        save_run(last, bare, optimizer, average, where, writes=is_main)

    def publish(name: str, **measured: Any) -> Path:
        with average.applied(bare) if average else nullcontext():
            state = whole_state(bare)
        if is_main:
            _write_model(out / name, recipe, method, builder_args, state, provenance | measured)
        return out / name

    stopped: list[int] = []

    def asked_to_leave() -> bool:
        if world == 1:
            return bool(stopped)
        if stopped:
            accelerator.set_trigger()
        return accelerator.check_trigger()  # all leave at the same step, whichever was asked

    with _signals(stopped), closing(events) if events else nullcontext():
        for epoch in range(first_epoch, schedule.epochs):
            started, seen, losses = time.monotonic(), 0, []
            method.start_epoch(bare, epoch, schedule.epochs)
            bare.train()
            for step, lesson in enumerate(course.batches(epoch, first_step), first_step):
                seed_everything(recipe.seed, STEP, epoch, step, rank)
                lr = learning_rate(schedule, recipe.optimizer.lr, epoch, step / steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr * group.get("lr_scale", 1.0)  # timm's layer decay
                for at, part in enumerate(lesson.parts(accumulate)):
                    with accelerator.autocast():
                        loss = course.loss(model, part) / accumulate
                    with accelerator.no_sync(network) if at < accumulate - 1 else nullcontext():
                        accelerator.backward(loss)
                    losses.append(loss.detach())
                if recipe.optimizer.clip_norm:
                    accelerator.clip_grad_norm_(bare.parameters(), recipe.optimizer.clip_norm)
                optimizer.step()
                method.after_step(bare, epoch * steps + step + 1)
                if average:
                    average.update(bare, epoch * steps + step + 1)
                if step < steps - 1:  # the epoch's last gradients are kept for the method's report
                    optimizer.zero_grad()
                seen += schedule.batch_size
                if lesson.bad:
                    bad |= dict.fromkeys(lesson.bad)
                    folder.note_bad_files(out, rank, bad, course.count, recipe.data.bad_share)

                ended, looks = step == steps - 1, (step + 1) % WATCH == 0
                if ended or looks:
                    value = float(torch.stack(losses).mean()) * accumulate
                    if not math.isfinite(value):
                        raise ZooError(
                            f"the loss is {value} in epoch {epoch + 1}, step {step + 1}",
                            hint=f"lower optimizer.lr; the last good state stays in {last}",
                        )
                    rate = seen / (time.monotonic() - started)
                    left = (steps * (schedule.epochs - epoch) - step - 1) * schedule.batch_size / rate
                    if not ended and is_main:
                        report(Progress(epoch + 1, schedule.epochs, step + 1, steps, value, rate, left, {}))
                leaves = (world == 1 or looks) and asked_to_leave()
                if not ended and (leaves or (schedule.save_every and (step + 1) % schedule.save_every == 0)):
                    keep(epoch, step + 1)
                    if leaves:
                        raise KeyboardInterrupt

            figures = method.report(bare)
            optimizer.zero_grad()
            if (epoch + 1) % schedule.evaluate_every == 0 or epoch + 1 == schedule.epochs:
                with average.applied(bare) if average else nullcontext():
                    figures |= course.measure(bare)
                bad |= course.bad
                if bad:
                    folder.note_bad_files(out, rank, bad, course.count, recipe.data.bad_share)
                if course.main and (main := figures[course.main]) > best:
                    best = main
                    publish("best.safetensors", epoch=epoch + 1, figures=figures)
            first_step = 0
            if is_main:
                logged: dict[str, float] = {"epoch": epoch + 1, "loss": value, "rate": rate, "lr": lr, **figures}
                folder.append_metrics(out, logged | ({"bad_files": len(bad)} if bad else {}))
                folder.draw(out)
                if events:
                    for name, figure in logged.items():
                        events.add_scalar(name, figure, epoch + 1)
            keep(epoch + 1, 0)
            if is_main:
                report(Progress(epoch + 1, schedule.epochs, steps, steps, value, rate, left, figures))
            if asked_to_leave():
                raise KeyboardInterrupt

    finished = publish("model.safetensors", metrics=_last(out / "metrics.jsonl", course.main) if is_main else {})
    accelerator.wait_for_everyone()
    return finished


def _accelerator(recipe: Recipe, device: str) -> Any:
    if device not in ("auto", "cpu"):
        raise UsageError(f"training takes auto or cpu, not {device}", hint="CUDA_VISIBLE_DEVICES chooses among GPUs")
    need("train", "training")
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # it would hold a second training of this process to the first one's precision
    try:
        return Accelerator(mixed_precision=recipe.precision, cpu=device == "cpu")
    except ValueError as error:
        raise UsageError(f"precision {recipe.precision}: {error}", hint="precision=bf16 or precision=no") from None


def _seed(seed: int) -> None:
    from accelerate.utils import set_seed

    set_seed(seed)


def _optimizer(model: nn.Module | list[dict[str, Any]], wanted: Optimizer) -> torch.optim.Optimizer:
    """The optimizer of timm, with every parameter in one group unless decay says otherwise."""
    from timm.optim._optim_factory import create_optimizer_v2

    name: str = wanted.name
    own: dict[str, Any] = {"betas": wanted.betas}
    if name == "sgd":  # which timm calls Nesterov's
        name, own = "nesterov" if wanted.nesterov else "momentum", {"momentum": wanted.momentum}
    if wanted.name in ("sgd", "adam", "adamw"):
        own["fused"] = True
    return create_optimizer_v2(
        model,
        name,
        wanted.lr,
        wanted.weight_decay,
        filter_bias_and_bn=wanted.name not in ("sgd", "adam"),
        layer_decay=wanted.layer_decay if wanted.layer_decay < 1 else None,
        **own,
    )


def _write_model(
    path: Path,
    recipe: Recipe,
    method: Method,
    builder_args: dict[str, Any],
    state: dict[str, Tensor],
    facts: dict[str, Any],
) -> None:
    """The network for use: built anew on the CPU, filled, and put into the method's layout."""
    network, _ = new_network(msgspec.structs.replace(recipe, init=""), builder_args)
    network = method.prepare(network)
    if recipe.channels_last:  # the order in which a layer's scale is summed up
        network = network.to(memory_format=torch.channels_last)
    network.load_state_dict(state)
    tensors, layout = method.export(network)
    if recipe.weights == "float16":  # what is multiplied; a norm's statistics may leave the range of 16 bits
        tensors = {key: x.half() if x.is_floating_point() and x.ndim > 1 else x for key, x in tensors.items()}
    write_whole(path, save(tensors, facts_for(architecture_of(recipe.model), builder_args, layout, **facts)))


def _events(out: Path, epoch: int) -> Any:
    need("tensorboard", "--tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out), purge_step=epoch + 1)


def _last(path: Path, main: str) -> dict[str, Any]:
    """What the last epoch measured, as far as a run that was stopped and resumed measures the very same."""
    logged = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    return {key: logged[key] for key in ("epoch", main) if key in logged}


@contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """Note in a list when the process is asked to stop, so that no step is cut in half. A second Ctrl-C does cut."""

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us there handles its signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
