"""A training recipe: a TOML file decoded into checked types."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from zoo.errors import UnknownName, UsageError

__all__ = ["Data", "Optimizer", "Recipe", "Schedule", "load_recipe", "recipe_names"]

FOLDER = Path(__file__).parent / "recipes"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the recipe; an unknown key is an error."""


class Data(_Part, frozen=True):
    """What is trained on.

    Attributes:
        name: Set, such as cifar10.
        padding: Zeros around the picture before a random square is cut out of it.
        flip: Whether half of the pictures are mirrored.
        crop: Side of that square while `crop_epochs` last; after them it is the picture's. Small squares train fast.
        crop_epochs: Epochs of the small squares.
        still_epochs: Epochs at the end whose pictures are not shifted; small networks end better on what they will see.
        held_out: Training pictures a seed sets aside for measuring progress; 0 measures on none.
    """

    name: str
    padding: int = 4
    flip: bool = True
    crop: int = 0
    crop_epochs: int = 0
    still_epochs: int = 0
    held_out: int = 0

    def __post_init__(self) -> None:
        if min(self.padding, self.crop, self.crop_epochs, self.still_epochs, self.held_out) < 0:
            raise ValueError("padding, crop, crop_epochs, still_epochs and held_out are not negative")
        if bool(self.crop) != bool(self.crop_epochs):
            raise ValueError("crop and crop_epochs go together")


class Optimizer(_Part, frozen=True):
    """How weights move.

    Attributes:
        name: "sgd" or "adam".
        lr: Learning rate at its highest.
        momentum: Of SGD.
        weight_decay: On every parameter, as in the paper.
        clip_norm: Longest gradient; 0 leaves it.
    """

    name: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0 or self.clip_norm < 0 or not 0 <= self.momentum < 1:
            raise ValueError("lr is positive, weight_decay and clip_norm are not negative, momentum lies in [0, 1)")


class Schedule(_Part, frozen=True):
    """How long, in which steps.

    Attributes:
        epochs: Passes over the data.
        batch_size: Pictures a step, over all processes and accumulated parts.
        accumulate: Parts that a batch is split into.
        warmup: Epochs of growing learning rate.
        shape: "cosine" falls step by step; "epoch_cosine" is the paper's, constant within an epoch.
        evaluate_every: Epochs between measurements.
        save_every: Steps between checkpoints; 0 saves at the end of an epoch.
    """

    epochs: int
    batch_size: int = 128
    accumulate: int = 1
    warmup: int = 0
    shape: Literal["cosine", "epoch_cosine"] = "cosine"
    evaluate_every: int = 1
    save_every: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.accumulate, self.evaluate_every) < 1:
            raise ValueError("epochs, batch_size, accumulate and evaluate_every are positive")
        if not 0 <= self.warmup < self.epochs or self.save_every < 0:
            raise ValueError("warmup is shorter than the training and save_every is not negative")
        if self.batch_size % self.accumulate:
            raise ValueError("batch_size divides into its accumulated parts")


class Recipe(_Part, frozen=True):
    """Everything a run depends on besides the data and the code.

    Attributes:
        model: Architecture.
        method: Which of `zoo.train.methods` adds to the plain loop.
        data: What is trained on.
        schedule: How long, in which steps.
        optimizer: How weights move.
        model_args: Arguments of the builder.
        method_args: Arguments of the method.
        precision: "no", "bf16" or "fp16".
        channels_last: Memory layout of pictures and weights.
        compile: Whether torch.compile fuses the step; needs a C++ compiler on a CPU.
        seed: Of initial weights, order and augmentation.
    """

    model: str
    data: Data
    schedule: Schedule
    method: str = "plain"
    optimizer: Optimizer = Optimizer()
    model_args: dict[str, Any] = {}
    method_args: dict[str, Any] = {}
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = False
    compile: bool = False
    seed: int = 0

    def to_json(self) -> str:
        """The resolved recipe as one line of JSON."""
        return msgspec.json.encode(self).decode()


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of that name, or in that file, with `table.key=value` replaced.

    Args:
        name: One of `recipe_names()`, or a path to a TOML file.
        overrides: Values in TOML, `schedule.epochs=3`; a bare word is taken as a string.

    Raises:
        UnknownName: No such recipe.
        UsageError: Not TOML, an unknown key, a value of the wrong type or range; names the key and its line.
    """
    path = FOLDER / f"{name}.toml" if (FOLDER / f"{name}.toml").exists() else Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, recipe_names(), 3, 0)
        raise UnknownName(f"no recipe {name!r}", hint=f"nearest: {', '.join(near)}; or give a path to a TOML file")
    text = path.read_text(encoding="utf-8")
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path.name}: {error}", hint="mend the TOML") from None
    for override in overrides:
        _override(fields, override)
    try:
        return msgspec.convert(fields, Recipe)
    except msgspec.ValidationError as error:
        raise _explain(path.name, text, str(error)) from None


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
    fields[last] = parsed


def _explain(name: str, text: str, error: str) -> UsageError:
    """The decoder's complaint with the line it is about and, for an unknown key, the nearest right one."""
    where = re.search(r" - at `\$\.([\w.]+)`", error)
    unknown = re.search(r"unknown field `(\w+)`", error)
    table = where[1] if where else ""
    key = unknown[1] if unknown else table.rpartition(".")[2]
    found = re.search(rf"^\s*(\[)?{re.escape(key)}\b", text, re.MULTILINE) if key else None
    line = f"{name}:{text.count(chr(10), 0, found.end()) + 1}" if found else name
    if not unknown:
        return UsageError(f"{line}: {error}", hint="see the recipe's keys with: zoo train --dry-run")
    parts: dict[str, type[msgspec.Struct]] = {"data": Data, "schedule": Schedule, "optimizer": Optimizer}
    near = difflib.get_close_matches(key, parts.get(table, Recipe).__struct_fields__, 1, 0)
    return UsageError(f"{line}: unknown key {f'{table}.{key}'.lstrip('.')}", hint=f"did you mean {near[0]}?")
