"""A taught model, one `.zoo` file: an extractor, what each task added to it, and the pictures it keeps.

The file is a safetensors file. Tensors: the network's own (those of the extractor only where they cannot be had again
by its name and sha256) and the kept pictures, PNG files back to back. Facts: JSON under the metadata key `zoo`.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import zoo
from zoo.build import compare
from zoo.data.exemplars import Memory
from zoo.data.images import read_picture
from zoo.data.transforms import Preprocess
from zoo.errors import IntegrityError, UsageError, one_line
from zoo.hub.checkpoint import Contents, read_contents, write_whole
from zoo.hub.fetch import sha256_of, weights_path
from zoo.models.acl import ACL, Choice
from zoo.models.distilled import Distilled
from zoo.models.extractors import lite0_extractor
from zoo.registry.card import Input
from zoo.registry.names import resolve
from zoo.tasks.extractor import open_extractor, without_weights

__all__ = [
    "FORMAT",
    "Base",
    "Facts",
    "Kept",
    "TaskFacts",
    "Taught",
    "TaughtNetwork",
    "acl_lite0",
    "described",
    "new_network",
    "read_taught",
    "taught_file",
]

FORMAT = "taught-v1"
PICTURES, LENGTHS = "memory.pictures", "memory.lengths"
EXTRACTOR = "backbone."  # under which a network has its extractor


class TaughtNetwork(Protocol):
    """What a method's network can do besides being an `nn.Module`."""

    @property
    def task_sizes(self) -> tuple[int, ...]:
        """Classes of each task."""

    def choose(self, x: Tensor) -> Choice:
        """The answers to normalised (B, C, H, W) pictures."""

    def over_time(self, x: Tensor) -> list[Choice | None]:
        """The answers as they were after each task, the last ones as they are; None for what is not kept."""

    def optimized(self, x: Tensor) -> nn.Module:
        """A copy that answers alike in less time, tried on a picture (1, C, H, W); the network itself if none does."""

    def describe(self, x: Tensor) -> Tensor:
        """(B, D) features by which pictures are picked to be kept."""

    def remove_task(self) -> None:
        """Forget the newest task."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the facts; an unknown key is an error."""


class Base(_Part, frozen=True):
    """The extractor.

    Attributes:
        name: A checkpoint of ours, or "timm:" and a network of timm.
        sha256: Of the file that holds its weights; None if they are in this one.
    """

    name: str
    sha256: str | None = None


class TaskFacts(_Part, frozen=True):
    """One task.

    Attributes:
        name: What it is called.
        classes: Its classes' names.
        counts: Pictures of each that it was learned from.
        settings: How.
        measured: Share of right answers for this and every earlier task after it was learned; None where there were no
            pictures to measure on.
        measured_on: What those pictures were.
        threshold: Score below which a picture shows none of the classes learned by then; None after the first task,
            whose head never saw another class.
    """

    name: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    settings: dict[str, Any] = {}
    measured: tuple[float | None, ...] = ()
    measured_on: str = ""
    threshold: float | None = None


class Kept(_Part, frozen=True):
    """The pictures kept to go on learning from.

    Attributes:
        limit: How many may be used, in all or of a class.
        is_per_class: Whether `limit` is of a class.
        counts: Of each class, how many are in the file, the best first: as many as before the last task, which `--undo`
            may bring back; only the first ones, by `limit`, are used.
    """

    limit: int
    is_per_class: bool = False
    counts: tuple[int, ...] = ()


class Facts(_Part, frozen=True):
    """All that a file says about itself.

    Attributes:
        method: What learned it, and what its network is.
        base: The extractor.
        arguments: What the method builds its network with besides.
        input: Preprocessing.
        tasks: In the order they were learned.
        memory: None for a file that can only answer.
        seed: Of its training.
        zoo: Version that wrote it.
        format: Of the file.
    """

    method: str
    base: Base
    arguments: dict[str, Any]
    input: Input
    tasks: tuple[TaskFacts, ...] = ()
    memory: Kept | None = None
    seed: int = 0
    zoo: str = zoo.__version__
    format: str = FORMAT

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes, in order of arrival."""
        return tuple(name for task in self.tasks for name in task.classes)


@dataclass(frozen=True)
class Taught:
    """A taught model in memory.

    Attributes:
        facts: What it says about itself.
        network: The method's network with its values, evaluating.
        pictures: The kept pictures as PNG files, class by class, in herding order.
        sha256: Of the file it was read from; None of one that was never written.
    """

    facts: Facts
    network: nn.Module
    pictures: tuple[bytes, ...] = field(default=(), repr=False)
    sha256: str | None = None

    @property
    def learner(self) -> TaughtNetwork:
        """The network, as what a method's network can do."""
        return cast(TaughtNetwork, self.network)

    @property
    def memory(self) -> Memory:
        """Rows of `pictures` that are in use.

        Raises:
            UsageError: No pictures were kept.
        """
        kept = self.facts.memory
        if kept is None:
            raise UsageError(
                "this model keeps no pictures of its classes, so it cannot learn more without forgetting them",
                hint="zoo teach MODEL.zoo --remember FOLDER gives it pictures of its classes",
            )
        rows = torch.split(torch.arange(len(self.pictures)), list(kept.counts)) if kept.counts else ()
        memory = Memory(kept.limit, kept.is_per_class)
        quota = memory.quota(len(rows)) if rows else 0
        return replace(memory, rows=tuple(mine[:quota] for mine in rows))

    def picture(self, row: int) -> NDArray[np.uint8]:
        """(H, W, C) of a kept picture.

        Raises:
            InputError: It is damaged.
        """
        return Preprocess(self.facts.input).crop(read_picture(self.pictures[row], name=f"kept picture {row}").image)

    def undone(self) -> "Taught":
        """The model before its last task: same adapters, the heads as they were, the pictures that were kept.

        Raises:
            UsageError: There is no task to take away.
        """
        facts = self.facts
        if len(facts.tasks) < 2:
            raise UsageError(
                "there is no second task to take away" if facts.tasks else "nothing was taught yet",
                hint="remove the file to start over",
            )
        self.learner.remove_task()
        left = len(facts.classes) - len(facts.tasks[-1].classes)
        kept, pictures = facts.memory, self.pictures
        if kept:
            kept = msgspec.structs.replace(kept, counts=kept.counts[:left])
            pictures = pictures[: sum(kept.counts)]
        facts = msgspec.structs.replace(facts, tasks=facts.tasks[:-1], memory=kept)
        return replace(self, facts=facts, pictures=pictures)

    def without_memory(self) -> "Taught":
        """The same for answering only."""
        return replace(self, facts=msgspec.structs.replace(self.facts, memory=None), pictures=())

    def to_bytes(self, dtype: torch.dtype = torch.float32) -> bytes:
        """The file.

        Args:
            dtype: Of the floating point tensors; the statistics of norms stay float32.
        """
        from safetensors.torch import save

        state = {
            key: _stored(key, value, dtype)
            for key, value in self.network.state_dict().items()
            if not (self.facts.base.sha256 and key.startswith(EXTRACTOR))
        }
        if self.facts.memory:
            state[PICTURES] = torch.from_numpy(np.frombuffer(b"".join(self.pictures), np.uint8).copy())
            state[LENGTHS] = torch.tensor([len(picture) for picture in self.pictures], dtype=torch.int64)
        return save(state, {"zoo": json.dumps(msgspec.to_builtins(self.facts), sort_keys=True)})

    def write(self, path: Path) -> "Taught":
        """Write the model's file whole; whoever reads it, or a kill, meets the old one or the new one.

        Raises:
            UsageError: The file is no longer the one that this model was read from.
            InputError: It cannot be written.
        """
        if self.sha256 and path.exists() and sha256_of(path) != self.sha256:
            raise UsageError(f"{path} was changed by another process meanwhile", hint="run the command again")
        return self.write_copy(path)

    def write_copy(self, path: Path, dtype: torch.dtype = torch.float32) -> "Taught":
        """The same over whatever is there; `dtype` as for `to_bytes`."""
        write_whole(path, self.to_bytes(dtype))
        return replace(self, sha256=sha256_of(path))


def taught_file(name: str) -> Path | None:
    """The file of a taught model, by its path or by a checkpoint's name; None of another model.

    Raises:
        UnknownName: It is neither.
        WeightsUnavailable, IntegrityError: As `weights_path`.
    """
    if name.endswith(".zoo"):
        return Path(name)
    card = resolve(name)
    return weights_path(card) if card.task == "teach" else None


def read_taught(path: Path) -> Taught:
    """A taught model from its file, which is not trusted.

    Raises:
        WeightsUnavailable: There is no such file, or its extractor's weights cannot be had.
        InputError: It cannot be opened.
        IntegrityError: It is broken, it is something else, or its extractor's file changed.
    """
    contents = read_contents(path)
    facts = _facts(path, contents)
    from safetensors.torch import load_file

    state = load_file(path)
    pictures = _pictures(path, facts, state.pop(PICTURES, None), state.pop(LENGTHS, None))
    network = _network(path, facts, contents)
    own = network.state_dict()
    if facts.base.sha256:
        state |= {key: value for key, value in own.items() if key.startswith(EXTRACTOR)}
    faults = compare(state, network)
    if faults:
        raise IntegrityError(f"{path} does not fit its own description: {faults}", hint="get the file again")
    network.load_state_dict(state)
    return Taught(facts, network.eval(), pictures, sha256_of(path))


def described(path: Path, taught: Taught) -> dict[str, Any]:
    """What a file holds, as plain JSON types: summary, method, extractor and so on as text, tasks as tables."""
    facts, kept = taught.facts, taught.facts.memory
    numbers = {key: value.numel() for key, value in taught.network.named_parameters()}
    below = sum(count for key, count in numbers.items() if key.startswith(EXTRACTOR))
    own = sum(count for key, count in numbers.items() if not key.startswith((EXTRACTOR, "past.")))
    threshold = facts.tasks[-1].threshold
    used = sum(len(rows) for rows in taught.memory.rows) if kept else 0
    return {
        "summary": f"{len(facts.classes)} classes taught in {len(facts.tasks)} tasks",
        "method": facts.method,
        "extractor": f"{facts.base.name}, {'by its sha256' if facts.base.sha256 else 'in the file'}",
        "input": f"{facts.input.size[2]}x{facts.input.size[1]} pixels, {facts.input.interpolation}",
        "parameters": f"{own:,} of its tasks, {below:,} of the extractor",
        "memory": f"{used} pictures of at most {kept.limit}" if kept else "none: it can answer, not learn more",
        "unknown": f"scores below {threshold:.3f}" if threshold is not None else "cannot be told before a second task",
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "version": f"zoo {facts.zoo}",
        "tasks": msgspec.to_builtins(facts.tasks),
    }


def new_network(facts: Facts, backbone: nn.Module) -> nn.Module:
    """The network of a method with a given extractor, with as many tasks as the facts name.

    Raises:
        ValueError, TypeError: Arguments that it does not take.
    """
    return METHODS[facts.method](backbone, [len(task.classes) for task in facts.tasks], **facts.arguments)


def _adapters(
    backbone: nn.Module, task_sizes: Sequence[int], stages: Sequence[str], channels: Sequence[int], num_features: int
) -> nn.Module:
    network = ACL(backbone, stages, channels, num_features)
    for size in task_sizes:
        if network.task_sizes:
            network.keep_heads()
        network.add_task(size)
    return network


def acl_lite0(
    pretrained: bool = False,
    pretrained_cfg: dict[str, Any] | None = None,
    task_sizes: Sequence[int] = (2, 2, 3),
    num_classes: int | None = None,
    in_chans: int | None = None,
) -> nn.Module:
    """ACL on the extractor that comes with the package: 371,187 parameters of adapters a task.

    Args:
        pretrained: Read it, extractor included, from the taught file that `pretrained_cfg` names.
        pretrained_cfg: From the card.
        task_sizes: Classes of each task.
        num_classes: The tasks say it.
        in_chans: The extractor says it.
    """
    if pretrained and pretrained_cfg:
        return read_taught(Path(pretrained_cfg["file"])).network
    return _adapters(lite0_extractor(), task_sizes, ("blocks.3", "blocks.4", "blocks.5"), (40, 80, 112), 1280)


# how a method's network is made of an extractor and its tasks' sizes; another method adds a line
METHODS: dict[str, Callable[..., nn.Module]] = {"adapters": _adapters, "distill": Distilled}


def _facts(path: Path, contents: Contents) -> Facts:
    if not str(contents.facts.get("format", "")).startswith("taught-"):
        raise IntegrityError(f"{path} is no taught model", hint="zoo teach makes one; zoo predict NAME takes others")
    if contents.facts["format"] != FORMAT:
        raise IntegrityError(f"{path} has a format that this version does not know", hint="update zoo")
    try:
        facts = msgspec.convert(contents.facts, Facts)
        if facts.method not in METHODS:
            raise ValueError(f"no method {facts.method!r}")
        if not facts.tasks or any(not task.classes or len(task.counts) != len(task.classes) for task in facts.tasks):
            raise ValueError("a task without classes")
    except (msgspec.ValidationError, ValueError) as error:
        raise IntegrityError(f"{path} does not describe itself: {error}", hint="get the file again") from None
    return facts


def _network(path: Path, facts: Facts, contents: Contents) -> nn.Module:
    """The network to fill, its extractor filled where it comes from elsewhere."""
    largest = max((side for shape in contents.shapes.values() for side in shape), default=0)
    asked = [*facts.arguments.get("channels", ()), *(len(task.classes) for task in facts.tasks)]
    if any(type(number) is not int or not 0 < number <= largest for number in asked):
        raise IntegrityError(f"{path} describes sizes that it does not have: {asked}", hint="get the file again")
    if facts.base.sha256:
        extractor = open_extractor(facts.base.name)
        if extractor.sha256 != facts.base.sha256:
            raise IntegrityError(
                f"{path} was taught on another file of {facts.base.name}: sha256 {facts.base.sha256[:12]}, "
                f"now {str(extractor.sha256)[:12]}",
                hint="use the version of zoo, or the file, that it was taught with; its answers would be wrong",
            )
        backbone = extractor.network
    else:
        backbone = without_weights(facts.base.name)
    try:
        return new_network(facts, backbone)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise IntegrityError(f"{path} cannot be built: {one_line(error)}", hint="get the file again") from None


def _pictures(path: Path, facts: Facts, content: Tensor | None, lengths: Tensor | None) -> tuple[bytes, ...]:
    """The kept pictures, not yet decoded."""
    if facts.memory is None:
        return ()
    sizes = lengths.tolist() if lengths is not None and lengths.ndim == 1 else []
    if (
        content is None
        or len(sizes) != sum(facts.memory.counts)
        or len(facts.memory.counts) != len(facts.classes)
        or any(size < 1 for size in sizes)
        or sum(sizes) != (content.numel() if sizes else 0)
    ):
        raise IntegrityError(f"{path} holds other pictures than it says", hint="get the file again")
    file = io.BytesIO(content.numpy().tobytes())
    return tuple(file.read(size) for size in sizes)


def _stored(key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    is_free = value.is_floating_point() and not key.endswith(("running_mean", "running_var"))
    return value.detach().cpu().to(dtype if is_free else value.dtype).contiguous()
