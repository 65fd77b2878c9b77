"""Teaching: a folder of new classes becomes a task of a taught model, measured before and after."""

import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from zoo.data.exemplars import Memory, herding
from zoo.data.sources import Samples, open_data
from zoo.data.transforms import Preprocess
from zoo.errors import InputError, UsageError, ZooError
from zoo.metrics.continual import accuracy
from zoo.registry.card import Input
from zoo.results.lesson import Lesson, TaskRow
from zoo.tasks.device import pick_device
from zoo.tasks.extractor import open_extractor
from zoo.tasks.taught import Base, Facts, Kept, TaskFacts, Taught, new_network, read_taught
from zoo.tasks.teachable import answers, cropped, over_chunks
from zoo.train.learners import NewTask, Settings, check, new_learner

__all__ = ["DEFAULT_EXTRACTOR", "MEMORY", "Start", "Teaching", "prepare", "remember", "teach"]

DEFAULT_EXTRACTOR = "lite0_extractor"
MEMORY = 200
FEWEST = 2  # pictures of a class
HELD_OUT = 0.2  # share of the new pictures that is measured on, not learned from
KNOWN_SHARE = 0.95  # of the memory that must score above the threshold for unknown pictures


@dataclass(frozen=True)
class Start:
    """What a model that does not exist yet is made of; of no effect on one that does.

    Attributes:
        extractor: A checkpoint of ours, or "timm:" and a network of timm.
        checkpoint: A safetensors file in place of its weights.
        method: What learns.
        size: Side of the pictures in pixels; None for the extractor's.
        memory: Pictures kept in all.
    """

    extractor: str = DEFAULT_EXTRACTOR
    checkpoint: Path | None = None
    method: str = "adapters"
    size: int | None = None
    memory: int = MEMORY


@dataclass(frozen=True)
class Teaching:
    """A task ready to be learned: everything that can be refused was looked at.

    Attributes:
        path: The model's file.
        taught: The model as it is.
        name: Of the task.
        classes: Names of its classes.
        task: What there is to learn.
        measured: (N, H, W, C) pictures to measure on, and their (N,) classes; may be of any task.
        measured_on: What those are.
        failed: What is wrong with pictures that could not be used.
    """

    path: Path
    taught: Taught
    name: str
    classes: tuple[str, ...]
    task: NewTask
    measured: tuple[Tensor, Tensor]
    measured_on: str
    failed: tuple[ZooError, ...]

    def plan(self) -> list[tuple[str, str]]:
        """What will be done, as named facts for people."""
        counts = torch.bincount(self.task.labels - self.task.first, minlength=len(self.classes)).tolist()
        known, facts = self.taught.facts.classes, self.taught.facts
        kept = Memory(facts.memory.limit, facts.memory.is_per_class) if facts.memory else None
        each = kept.quota(len(known) + len(self.classes)) if kept else 0
        return [
            (
                "model",
                f"{self.path}{'' if facts.tasks else ' (new)'}, {len(known)} classes in {len(facts.tasks)} tasks",
            ),
            ("extractor", f"{facts.base.name}, pictures of {facts.input.size[2]}x{facts.input.size[1]}"),
            ("task", f"{self.name}: {', '.join(f'{c} ({n})' for c, n in zip(self.classes, counts, strict=True))}"),
            *new_learner(facts.method).plan(self.taught.network, self.task),
            ("memory", f"{each} pictures a class of {facts.memory.limit if facts.memory else 0}, chosen by herding"),
            ("measured", f"{len(self.measured[1])} pictures: {self.measured_on}"),
        ]


def prepare(
    path: Path,
    folder: Path,
    *,
    name: str | None = None,
    start: Start | None = None,
    settings: Settings | None = None,
    val: Path | float = HELD_OUT,
    device: str = "auto",
    report: Callable[[str, float], None] = lambda what, done: None,
) -> Teaching:
    """Read the model and the folder, and refuse what cannot be taught; nothing is changed.

    Args:
        path: The model's file; made anew where there is none.
        folder: One folder of pictures a class.
        name: Of the task; by default numbered.
        start: What a new model is made of; given for one that exists, it is refused.
        settings: How to learn.
        val: A folder of pictures to measure on, of old and new classes, or the share of the new ones to hold out.
        device: "auto" or a torch device.
        report: Called with what is being done and the share of it that is done.

    Raises:
        UsageError: A class is known already, there are more classes than the memory holds, the model keeps no memory,
            or the first task has a single class.
        InputError: The folder is not there, or a class has fewer than two pictures that open.
        And as `read_taught` and `open_extractor`.
    """
    settings = settings or Settings()
    check(settings)
    place = pick_device(device)
    if path.exists() and start is not None:
        raise UsageError(
            f"{path} exists, so its extractor, method, size and memory are settled", hint="leave those options out"
        )
    samples = _folder(folder)
    taught = read_taught(path) if path.exists() else _new(start or Start(), settings.seed)
    facts = taught.facts
    _refuse_classes(facts, samples.names, path)
    memory = taught.memory
    if memory.quota(len(facts.classes) + len(samples.names)) < 1:
        raise UsageError(
            f"a memory of {memory.limit} pictures has no room for {len(facts.classes) + len(samples.names)} classes",
            hint="teach a new model with a larger --memory",
        )
    name = name or f"task {len(facts.tasks) + 1}"
    if name in [task.name for task in facts.tasks]:
        raise UsageError(f"{path} has a task called {name!r}", hint="another --name")
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        report(f"reading {folder}", done / len(samples))

    images, labels, failed = cropped(samples, Preprocess(facts.input), step)
    _refuse_counts(labels, samples.names, failed)
    labels = labels + len(facts.classes)
    learned = torch.ones(len(labels), dtype=torch.bool)
    if isinstance(val, Path):
        seen, truth, bad = _of_classes(val, facts.input, (*facts.classes, *samples.names))  # not those still to come
        failed, measured, measured_on = (*failed, *bad), (seen, truth), str(val)
    else:
        learned = _learned(labels, val, settings.seed)
        measured, measured_on = _held_out(taught, images[~learned], labels[~learned], val)
    kept, kept_labels = _recalled(taught)
    task = NewTask(
        images[learned],
        labels[learned],
        len(samples.names),
        kept,
        kept_labels,
        memory.quota(max(1, len(facts.classes))),
        facts.input,
        settings,
        place,
        path.with_name(f".{path.name}.lesson"),
        report,
    )
    return Teaching(path, taught, name, samples.names, task, measured, measured_on, failed)


def teach(teaching: Teaching, out: Path | None = None, *, keeps_memory: bool = True) -> Lesson:
    """Learn a prepared task and write the model, whole or not at all.

    Args:
        teaching: From `prepare`.
        out: Where to, in place of the model's own file.
        keeps_memory: Whether pictures are kept to go on learning from.

    Raises:
        UsageError: The model's file was changed by somebody else meanwhile.
        InputError: It cannot be written.
    """
    started = time.monotonic()
    task, facts, network = teaching.task, teaching.taught.facts, teaching.taught.network
    images, truth = teaching.measured
    before = _shares(teaching.taught, images, truth, task.device) if facts.tasks else []
    new_learner(facts.method).learn(network.to(task.device), task)
    memory, pictures = _memory_after(teaching)
    learned = TaskFacts(
        name=teaching.name,
        classes=teaching.classes,
        counts=tuple(torch.bincount(task.labels - task.first, minlength=task.classes).tolist()),
        settings={**asdict(task.settings), "method": facts.method},
    )
    facts = msgspec.structs.replace(facts, tasks=(*facts.tasks, learned), memory=memory)
    taught = replace(teaching.taught, facts=facts, pictures=pictures)
    after = _shares(taught, images, truth, task.device)
    learned = msgspec.structs.replace(
        learned, measured=tuple(after), measured_on=teaching.measured_on, threshold=_threshold(taught, task.device)
    )
    facts = msgspec.structs.replace(facts, tasks=(*facts.tasks[:-1], learned))
    taught = replace(taught, facts=facts)
    taught = taught if keeps_memory else taught.without_memory()
    taught.write_copy(out) if out else taught.write(teaching.path)
    if task.state:
        task.state.unlink(missing_ok=True)
    rows = _rows(facts, truth, before, after, teaching.measured_on)
    return Lesson(str(out or teaching.path), rows, teaching.failed, time.monotonic() - started)


def remember(
    taught: Taught, folder: Path, limit: int | None = None, *, device: str = "auto"
) -> tuple[Taught, tuple[ZooError, ...]]:
    """The model with more pictures of its classes to choose from for the next lesson; until then it answers as before.

    Args:
        taught: The model, with or without a memory.
        folder: One folder of pictures a class; those of other classes are passed over.
        limit: Pictures kept in all, chosen by herding from these and those that are kept; by default as many as before.
        device: "auto" or a torch device.

    Returns:
        The model, and what is wrong with pictures that could not be used.

    Raises:
        UsageError: None of its classes is there, or the limit is smaller than their number.
        InputError: The folder is not there, or a class has no picture that opens, here or kept.
    """
    facts, count = taught.facts, len(taught.facts.classes)
    limit = limit or (facts.memory.limit if facts.memory else MEMORY)
    if limit < count:
        raise UsageError(f"a memory of {limit} pictures has no room for {count} classes", hint="a larger --memory")
    images, labels, failed = _of_classes(folder, facts.input, facts.classes)
    if facts.memory:
        kept, kept_labels = _recalled(taught)
        images, labels = _distinct(torch.cat([kept, images]), torch.cat([kept_labels, labels]))
    counts = torch.bincount(labels, minlength=count).tolist()
    absent = [name for name, there in zip(facts.classes, counts, strict=True) if not there]
    if absent:
        bad = f"; {len(failed)} did not open, such as {failed[0].message}" if failed else ""
        raise InputError(f"{folder} has no picture of {', '.join(absent[:5])}{bad}", hint="one of every class at least")
    found = _herded(taught, images, labels, count, limit // count, pick_device(device))
    memory, pictures = _as_kept(Kept(limit=limit), found)
    return replace(taught, facts=msgspec.structs.replace(facts, memory=memory), pictures=pictures), failed


def _new(start: Start, seed: int) -> Taught:
    """A model that was taught nothing."""
    learner = new_learner(start.method)
    if start.memory < 1:
        raise UsageError(f"a memory of {start.memory} pictures", hint="at least one a class")
    extractor = open_extractor(start.extractor, start.checkpoint)
    side = start.size or extractor.input.size[1]
    if start.size is not None and (start.size < 8 or extractor.input.fixed_size):
        raise UsageError(f"{extractor.name} takes no pictures of {side}x{side}", hint="leave --size out")
    size = extractor.input.size[0], side, side
    input = msgspec.structs.replace(extractor.input, size=size, crop_pct=1.0)
    facts = Facts(
        method=start.method,
        base=Base(name=extractor.name, sha256=extractor.sha256),
        arguments=learner.arguments(extractor, input),
        input=input,
        memory=Kept(limit=start.memory),
        seed=seed,
    )
    return Taught(facts, new_network(facts, extractor.network).eval())


def _folder(folder: Path) -> Samples:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", hint="one folder of pictures a class: FOLDER/NAME/*.jpg")
    found = open_data(str(folder.absolute()), "train")
    assert isinstance(found, Samples)
    return found


def _refuse_classes(facts: Facts, names: tuple[str, ...], path: Path) -> None:
    known = [name for name in names if name in facts.classes]
    if known:
        raise UsageError(
            f"{path} knows {', '.join(known[:5])} already",
            hint=f"leave those folders out; zoo teach {path} --remember FOLDER keeps their pictures for later lessons",
        )
    if not facts.tasks and len(names) == 1:
        raise UsageError(
            f"the first task has one class, {names[0]}, and nothing to tell it from", hint="two or more class folders"
        )


def _refuse_counts(labels: Tensor, names: tuple[str, ...], failed: tuple[ZooError, ...]) -> None:
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < FEWEST]
    if few:
        bad = f"; {len(failed)} did not open, such as {failed[0].message}" if failed else ""
        raise InputError(f"too few pictures of {', '.join(few[:5])}{bad}", hint=f"at least {FEWEST} of every class")


def _learned(labels: Tensor, share: float, seed: int) -> Tensor:
    """(N,) which pictures are learned from: of every class all but a share, two at least."""
    if not 0 <= share < 1:
        raise UsageError(f"{share} is no share to hold out", hint="--val 0.2, or a folder")
    learned = torch.ones(len(labels), dtype=torch.bool)
    chance = np.random.default_rng((seed, 1))
    for label in torch.unique(labels).tolist():
        own = (labels == label).nonzero().flatten()
        count = min(round(share * len(own)), len(own) - FEWEST)
        learned[own[torch.from_numpy(chance.permutation(len(own))[:count])]] = False
    return learned


def _held_out(taught: Taught, images: Tensor, labels: Tensor, share: float) -> tuple[tuple[Tensor, Tensor], str]:
    """What was held out of the new pictures, and of old tasks what is kept."""
    kept, kept_labels = _recalled(taught)
    said = f"{100 * share:g}% of the new pictures, held out"
    if len(kept):
        said += "; old classes by their kept pictures, which the heads learn from"
    return (torch.cat([images, kept]), torch.cat([labels, kept_labels])), said


def _recalled(taught: Taught) -> tuple[Tensor, Tensor]:
    """(M, H, W, C) kept pictures that are in use, and (M,) their classes."""
    rows, labels = taught.memory.labelled()
    channels, height, width = taught.facts.input.size
    images = torch.empty((len(rows), height, width, channels), dtype=torch.uint8)
    for at, row in enumerate(rows.tolist()):
        images[at] = torch.from_numpy(taught.picture(row).copy())
    return images, labels


def _of_classes(folder: Path, input: Input, names: tuple[str, ...]) -> tuple[Tensor, Tensor, tuple[ZooError, ...]]:
    """Pictures of these classes, by their place in `names`, and what is wrong with bad ones; others are passed over.

    Raises:
        UsageError: None of the classes is there.
    """
    samples = _folder(folder)
    numbers = {name: k for k, name in enumerate(names)}
    own = torch.tensor([numbers.get(name, -1) for name in samples.names])[samples.labels]
    wanted = own >= 0
    if not wanted.any():
        raise UsageError(
            f"{folder} has no folder of a known or new class", hint=f"folders named {', '.join(names[:5])}"
        )
    samples = replace(samples, rows=samples.rows[wanted], labels=own[wanted], names=names)
    return cropped(samples, Preprocess(input))


def _memory_after(teaching: Teaching) -> tuple[Kept, tuple[bytes, ...]]:
    """What is kept once the task is learned: old classes as before, for `--undo`, new ones by herding."""
    task, taught = teaching.task, teaching.taught
    kept, memory = taught.facts.memory, taught.memory
    assert kept is not None
    quota = memory.quota(len(memory.rows) + task.classes)
    old = [[taught.pictures[int(row)] for row in rows] for rows in memory.rows]
    new = _herded(taught, task.images, task.labels - task.first, task.classes, quota, task.device)
    return _as_kept(kept, [*old, *new])


def _herded(
    taught: Taught, images: Tensor, labels: Tensor, classes: int, quota: int, device: torch.device
) -> list[list[bytes]]:
    """PNG files of the pictures of each class that are kept, the best first."""
    found = []
    for label in range(classes):
        own = images[labels == label]
        features = torch.cat(over_chunks(taught.learner.describe, taught, own, device))
        found.append([_png(own[row]) for row in herding(features, quota).cpu()])
    return found


def _as_kept(kept: Kept, pictures: list[list[bytes]]) -> tuple[Kept, tuple[bytes, ...]]:
    counts = tuple(len(own) for own in pictures)
    return msgspec.structs.replace(kept, counts=counts), tuple(picture for own in pictures for picture in own)


def _distinct(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each picture once, as a picture that is kept may also lie in a folder."""
    rows = {
        (label, image.numpy().tobytes()): row
        for row, (label, image) in enumerate(zip(labels.tolist(), images, strict=True))
    }
    return images[list(rows.values())], labels[list(rows.values())]


def _png(pixels: Tensor) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.numpy().squeeze()).save(file, "PNG")
    return file.getvalue()


def _threshold(taught: Taught, device: torch.device) -> float | None:
    """Score that 95% of the kept pictures reach; None while a head has not seen other classes."""
    if len(taught.facts.tasks) < 2:
        return None
    images, _ = _recalled(taught)
    scores = answers(taught, images, device).scores
    return float(scores.double().quantile(1 - KNOWN_SHARE, interpolation="lower"))


def _shares(taught: Taught, images: Tensor, truth: Tensor, device: torch.device) -> list[float | None]:
    """Share of right answers for every task."""
    ends = torch.tensor(taught.learner.task_sizes).cumsum(0)
    task = torch.searchsorted(ends, truth, right=True)
    known = task < len(ends)
    if not known.any():
        return [None] * len(ends)
    choice = answers(taught, images[known], device)
    right = [(task[known] == i) for i in range(len(ends))]
    return [accuracy(truth[known][mine], choice.classes[mine]) if mine.any() else None for mine in right]


def _rows(
    facts: Facts, truth: Tensor, before: list[float | None], after: list[float | None], on: str
) -> tuple[TaskRow, ...]:
    ends = torch.tensor([len(task.classes) for task in facts.tasks]).cumsum(0)
    task = torch.searchsorted(ends, truth, right=True)
    before = [*before, *([None] * (len(after) - len(before)))]
    return tuple(
        TaskRow(own.name, own.classes, int((task == i).sum()), before[i], after[i], on)
        for i, own in enumerate(facts.tasks)
    )
