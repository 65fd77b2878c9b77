"""A training recipe: a TOML file decoded into checked types."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from zoo.data.texts import read_text
from zoo.errors import UnknownName, UsageError

__all__ = ["Augment", "Data", "Distill", "Optimizer", "Recipe", "Schedule", "headline", "load_recipe", "recipe_names"]

FOLDER = Path(__file__).parent / "recipes"

BEHIND_WARMUP = 20  # epochs that "epoch_cosine" needs there: it goes 10% above lr, over 4 tenfold, over 3 it fails

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the recipe; an unknown key is an error."""


class Data(_Part, frozen=True):
    """What is trained on.

    Attributes:
        name: Set, such as cifar10, or a place of files: see `zoo.data.sources.open_data`.
        split: Part that is learnt.
        eval_split: Part that progress is measured on besides `held_out`; none if empty.
        size: Side of the pictures; 0 takes the pictures' own where they are arrays, the card's where they are files.
        padding: Zeros around the picture before a random square is cut out of it.
        flip: Whether half of the pictures are mirrored.
        crop: Side of that square while `crop_epochs` last; after them it is the picture's. Small squares train fast.
        crop_epochs: Epochs of the small squares.
        still_epochs: Epochs at the end whose pictures are not shifted; small networks end better on what they will see.
        held_out: Training pictures a seed sets aside for measuring progress; 0 measures on none.
        bad_share: Share of the files that may be unreadable; another picture stands in for each of them.
    """

    name: str
    split: str = "train"
    eval_split: str = ""
    size: Count = 0
    padding: Count = 4
    flip: bool = True
    crop: Count = 0
    crop_epochs: Count = 0
    still_epochs: Count = 0
    held_out: Count = 0
    bad_share: Share = 0.01

    def __post_init__(self) -> None:
        if bool(self.crop) != bool(self.crop_epochs):
            raise ValueError("crop and crop_epochs go together")


class Augment(_Part, frozen=True):
    """What timm does to pictures beyond shifting and mirroring; nothing by default.

    Attributes:
        scale: Smallest and largest share of the area that a random crop keeps before it is resized; takes the place of
            the shift by `data.padding`.
        ratio: Narrowest and widest aspect of that crop.
        auto: timm's name of a policy, such as "rand-m9-mstd0.5-inc1".
        jitter: Strength of random brightness, contrast and saturation.
        erase: Share of the pictures with a rectangle of noise.
        mixup: Parameter of the beta distribution that pairs of pictures are mixed by; 0 mixes none.
        cutmix: The same for pairs of which one gets a rectangle of the other.
        mix_prob: Share of the batches (or pictures) that are mixed.
        switch_prob: Share of those that are cut, where both are on.
        mix_mode: Whether a batch, each pair or each picture has its own share.
        repeats: Times a picture comes in one batch, each time augmented anew (repeated augmentation).
    """

    scale: tuple[Share, Share] | None = None
    ratio: tuple[Amount, Amount] = (3 / 4, 4 / 3)
    auto: str = ""
    jitter: Amount = 0.0
    erase: Share = 0.0
    mixup: Amount = 0.0
    cutmix: Amount = 0.0
    mix_prob: Share = 1.0
    switch_prob: Share = 0.5
    mix_mode: Literal["batch", "pair", "elem"] = "batch"
    repeats: Positive = 1

    def __post_init__(self) -> None:
        if self.scale and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale is (smallest, largest) share of the area, above 0")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio is (narrowest, widest), above 0")
        if self.auto and not re.match(r"(rand|augmix|original|v0)", self.auto):
            raise ValueError(f"auto is {self.auto!r}; timm's policies begin with rand, augmix, original or v0")


class Optimizer(_Part, frozen=True):
    """How weights move.

    Attributes:
        name: timm's name of the optimizer.
        lr: Learning rate at its highest.
        momentum: Of SGD.
        nesterov: Whether SGD looks ahead.
        betas: Of Adam and its relatives.
        weight_decay: On every parameter for sgd and adam, as in the ReSTE paper, and for methods with rates of their
            own for parts of a network; else not on biases and norms.
        layer_decay: Factor of the learning rate from one layer to the one below it; 1 leaves all the same, as such
            methods do.
        clip_norm: Longest gradient; 0 leaves it.
        ema: Decay of the average of the weights that is measured and kept, which grows towards it; 0 keeps none.
    """

    name: Literal["sgd", "adam", "adamw", "nadamw", "lamb", "lion"] = "sgd"
    lr: Annotated[float, Meta(gt=0)] = 0.1
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Amount = 0.0
    layer_decay: Annotated[float, Meta(gt=0, le=1)] = 1.0
    clip_norm: Amount = 0.0
    ema: Annotated[float, Meta(ge=0, lt=1)] = 0.0


class Schedule(_Part, frozen=True):
    """How long, in which steps.

    Attributes:
        epochs: Passes over the data.
        batch_size: Pictures a step, over all processes and accumulated parts.
        accumulate: Parts that a batch is split into.
        warmup: Epochs of growing learning rate, or a part of one; whole ones for "epoch_cosine".
        shape: "cosine" and "linear" fall step by step; "step" falls by `step_rate` at each of `step_epochs`; "constant"
            stays; "epoch_cosine" is the ReSTE paper's, constant within an epoch, for trainings much longer than their
            warm-up.
        min_lr: Where the cosine and the line end.
        step_epochs: Epochs before which "step" falls.
        step_rate: Factor of each fall.
        evaluate_every: Epochs between measurements.
        save_every: Steps between checkpoints; 0 saves at the end of an epoch.
    """

    epochs: Positive
    batch_size: Positive = 128
    accumulate: Positive = 1
    warmup: Amount = 0
    shape: Literal["cosine", "linear", "step", "constant", "epoch_cosine"] = "cosine"
    min_lr: Amount = 0.0
    step_epochs: tuple[Positive, ...] = ()
    step_rate: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    evaluate_every: Positive = 1
    save_every: Count = 0

    def __post_init__(self) -> None:
        if self.warmup >= self.epochs:
            raise ValueError("warmup is shorter than the training")
        if self.shape == "epoch_cosine" and int(self.warmup) and self.epochs - int(self.warmup) < BEHIND_WARMUP:
            raise ValueError(f'"epoch_cosine" has no warmup, or {BEHIND_WARMUP} epochs and more behind it')
        if self.batch_size % self.accumulate:
            raise ValueError("batch_size divides into its accumulated parts")
        if bool(self.step_epochs) != (self.shape == "step"):
            raise ValueError('step_epochs and shape = "step" go together')


class Distill(_Part, frozen=True):
    """A teacher whose answers count beside the labels.

    Attributes:
        teacher: Checkpoint of ours, or "timm:" and a name of timm's; of the same classes.
        checkpoint: A .safetensors file in place of its published weights.
        weight: Share of the teacher in the loss.
        temperature: Softness of both answers.
        kind: "soft" compares distributions, "hard" takes the teacher's first answer for the label.
    """

    teacher: str
    checkpoint: str = ""
    weight: Share = 0.5
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    kind: Literal["soft", "hard"] = "soft"


class Recipe(_Part, frozen=True):
    """Everything a run depends on besides the data and the code.

    Attributes:
        model: Architecture of ours, or "timm:" and a name of timm's.
        method: Which of `zoo.train.methods` adds to the plain loop.
        data: What is trained on.
        schedule: How long, in which steps.
        augment: What is done to the pictures.
        optimizer: How weights move.
        distill: Who teaches.
        init: First weights: a checkpoint of ours, a .safetensors file, or "pretrained"; random if empty. A head for
            another number of classes starts afresh.
        model_args: Arguments of the builder.
        method_args: Arguments of the method.
        precision: "no", "bf16" or "fp16".
        weights: Type of the finished checkpoint's matrices and kernels.
        channels_last: Memory layout of pictures and weights.
        compile: Whether torch.compile fuses the step; needs a C++ compiler on a CPU.
        checkpointing: Whether activations are computed again in the backward pass rather than kept.
        seed: Of initial weights, order and augmentation.
    """

    model: str
    data: Data
    schedule: Schedule
    method: str = "plain"
    augment: Augment = Augment()
    optimizer: Optimizer = Optimizer()
    distill: Distill | None = None
    init: str = ""
    model_args: dict[str, Any] = {}
    method_args: dict[str, Any] = {}
    precision: Literal["no", "bf16", "fp16"] = "no"
    weights: Literal["float32", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    checkpointing: bool = False
    seed: Count = 0

    def __post_init__(self) -> None:
        if (self.augment.mixup or self.augment.cutmix) and self.schedule.batch_size // self.schedule.accumulate % 2:
            raise ValueError("mixup and cutmix pair pictures: the parts of a batch are even")

    def to_json(self) -> str:
        """The resolved recipe as one line of JSON."""
        return msgspec.json.encode(self).decode()


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def headline(name: str) -> str:
    """What the comment at the head of a packaged recipe says below its command."""
    lines = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    comment = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    return comment[1] if len(comment) > 1 else ""


def load_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of that name, or in that file, with `table.key=value` replaced.

    Args:
        name: One of `recipe_names()`, or a path to a TOML file.
        overrides: Values in TOML, `schedule.epochs=3`; a bare word is taken as a string. In place of a whole table it
            is the table's name: `data=DIR` is `data.name=DIR`.

    Raises:
        UnknownName: No such recipe.
        UsageError: Not TOML, an unknown key, a value of the wrong type or range; names the key and its line.
    """
    path = FOLDER / f"{name}.toml" if (FOLDER / f"{name}.toml").exists() else Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, recipe_names(), 3, 0)
        raise UnknownName(f"no recipe {name!r}", hint=f"nearest: {', '.join(near)}; or give a path to a TOML file")
    text = read_text(path, "a recipe is a TOML file", UsageError)
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path.name}: {error}", hint="mend the TOML") from None
    for override in overrides:
        _override(fields, override)
    try:
        return msgspec.convert(fields, Recipe)
    except msgspec.ValidationError as error:
        raise _explain(path.name, text, overrides, str(error)) from None


def _override(fields: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"{override!r} is no override", hint="write key=value, such as schedule.epochs=3")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *tables, last = key.split(".")
    for table in tables:
        fields = fields.setdefault(table, {})
        if not isinstance(fields, dict):
            raise UsageError(
                f"{key}: {table} is no table", hint="zoo train --dry-run RECIPE prints the recipe's tables"
            )
    if isinstance(fields.get(last), dict) and not isinstance(parsed, dict) and f"{key}.name" in _types():
        fields, last = fields[last], "name"  # data=DIR and optimizer=adamw say what they mean
    fields[last] = parsed


def _explain(name: str, text: str, overrides: tuple[str, ...], error: str) -> UsageError:
    """The decoder's complaint with the place it is about and, for an unknown word, the nearest right one."""
    where = re.search(r" - at `\$\.?([\w.]*)", error)
    unknown = re.search(r"unknown field `(.+?)`", error)
    key = ".".join(part for part in (where[1] if where else "", unknown[1] if unknown else "") if part)
    place = _place(name, text, overrides, key)
    if unknown:
        return UsageError(f"{place}: unknown key {key}", hint=f"did you mean {_nearest_key(key)}?")
    said = f"{key}: {error.partition(' - at ')[0]}" if key else error
    wrong = re.search(r"Invalid enum value '(.*)'", error)
    if wrong:
        choices = [str(choice) for choice in get_args(_types()[key])]
        near = difflib.get_close_matches(wrong[1], choices, 1, 0)
        return UsageError(f"{place}: {said}", hint=f"did you mean {near[0]}? It is one of {', '.join(choices)}")
    return UsageError(f"{place}: {said}", hint="see the recipe's keys with: zoo train --dry-run RECIPE")


def _place(name: str, text: str, overrides: tuple[str, ...], key: str) -> str:
    """Where a key was given: the override, or the line of the file, or that of the table around it."""
    for override in reversed(overrides):
        if key and f"{override.partition('=')[0]}.".startswith(f"{key}."):
            return override
    table, lines = "", {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([\w.]+)\]", line):
            table = header[1]
            lines[table] = number
        elif entry := re.match(r"\s*([\w.]+)\s*=", line):
            lines[f"{table}.{entry[1]}".lstrip(".")] = number
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f"{name}:{lines[key]}" if key else name


def _types() -> dict[str, Any]:
    """Every key of a recipe with its type, those of tables as `table.key`."""
    parts = {"data": Data, "schedule": Schedule, "augment": Augment, "optimizer": Optimizer, "distill": Distill}
    types = dict(get_type_hints(Recipe))
    for table, part in parts.items():
        types |= {f"{table}.{key}": kind for key, kind in get_type_hints(part).items()}
    return types


def _nearest_key(key: str) -> str:
    """The key most like it, in its own table if there is one so near, else in any."""
    table, _, word = key.rpartition(".")
    known = [other for other in _types() if other.rpartition(".")[0] == table]
    near = difflib.get_close_matches(word, [other.rpartition(".")[2] for other in known], 1)
    if near:
        return near[0]
    elsewhere = {other.rpartition(".")[2]: other for other in reversed(_types())}
    return elsewhere[difflib.get_close_matches(word, elsewhere, 1, 0)[0]]
