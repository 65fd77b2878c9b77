"""The card: everything known about one checkpoint, written once, in the front matter of `cards/<arch>.<tag>.md`."""

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from zoo.errors import CardError, one_line

__all__ = ["Card", "Figure", "Input", "Origin", "Paper", "Traits", "Weights", "read_card"]

Task = Literal["classify", "embed", "reid", "retrieve", "ground", "filter", "teach"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the front matter; an unknown key is an error."""


class Paper(_Part, frozen=True):
    """The publication that a checkpoint follows."""

    title: str
    year: int
    arxiv: str | None = None
    venue: str | None = None


class Origin(_Part, frozen=True):
    """Where the weights came from.

    Attributes:
        by: Who trained them.
        recipe: Name of the recipe, for ours.
        data: Names of the training sets.
        url: Where the authors' file is, for theirs.
        converted: The command that made ours from theirs.
        commit: Version of the code that trained them.
        seed: Seed of the run.
        epochs: Epochs run.
    """

    by: Literal["zoo", "authors"]
    recipe: str | None = None
    data: tuple[str, ...] = ()
    url: str | None = None
    converted: str | None = None
    commit: str | None = None
    seed: int | None = None
    epochs: int | None = None


class Input(_Part, frozen=True):
    """Preprocessing, in timm's terms: resize the short side to size / crop_pct, crop the centre, normalise.

    With `crop_mode` "squash" both sides are resized to theirs, whatever that does to the aspect ratio.
    """

    size: tuple[int, int, int] = (3, 224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos"] = "bicubic"
    crop_pct: float = 0.875
    crop_mode: Literal["center", "squash"] = "center"
    fixed_size: bool = False

    def __post_init__(self) -> None:
        if min(self.size) < 1 or not 0 < self.crop_pct <= 1:
            raise ValueError("size holds positive numbers and crop_pct lies in (0, 1]")
        if not len(self.mean) == len(self.std) == self.size[0]:
            raise ValueError("mean and std have one value a channel")


class Traits(_Part, frozen=True):
    """Module names that timm needs to change the input channels and the head."""

    first_conv: str | None = None
    classifier: str | None = None


class Weights(_Part, frozen=True):
    """The file: where it is, how long, which.

    Attributes:
        status: "bundled" in the package, "published" on the Hub, "unpublished", or "none" for what needs no weights.
        bytes: Length of the file.
        sha256: Its digest, in lower-case hex.
        format: "float", or the packed layout's name.
    """

    status: Literal["bundled", "published", "unpublished", "none"]
    bytes: int | None = None
    sha256: str | None = None
    format: str = "float"

    def __post_init__(self) -> None:
        if self.status in ("bundled", "published") and (self.bytes is None or self.sha256 is None):
            raise ValueError(f"weights that are {self.status} need bytes and sha256")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError("sha256 is 64 lower-case hex digits")

    @property
    def available(self) -> bool:
        """Whether the network can be had ready for use."""
        return self.status != "unpublished"


class Figure(_Part, frozen=True):
    """One measured or published number.

    Attributes:
        metric: Field's name, such as top1.
        dataset: Set it was measured on.
        split: Part of the set.
        value: The number, in the metric's usual unit (top1 in per cent).
        by: "paper" for the authors' figure, "zoo" for ours.
        command: What measures it again.
        date: Day of the measurement, YYYY-MM-DD.
        machine: Where.
        note: What a reader must know to compare.
    """

    metric: str
    dataset: str
    split: str
    value: float
    by: Literal["paper", "zoo"]
    command: str | None = None
    date: str | None = None
    machine: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if self.by == "zoo" and not (self.command and self.date):
            raise ValueError("a figure by zoo says the command and the date")


class Card(_Part, frozen=True):
    """One checkpoint. `name` and `body` come from the file, the rest from its front matter.

    Attributes:
        name: `<arch>.<tag>`.
        body: The card's text, Markdown.
        builder: Function that makes the network, `module:function`; the function's name is the architecture.
        builder_args: What it is called with.
        task: What the network is for.
        summary: One line.
        default: Whether the bare architecture means this checkpoint.
        aliases: Other names of it.
        license: SPDX identifier of the weights, lower case.
        paper: The publication.
        origin: Where the weights came from; none while there are none.
        input: Preprocessing.
        traits: Module names for timm.
        labels: Name of the label list.
        weights: The file.
        params: Parameters of the built network, in units.
        gmacs: Multiply-accumulates of one input, in 10^9.
        figures: Measured and published numbers.
        limits: What it cannot do.
    """

    name: str
    body: str
    builder: str
    task: Task
    summary: str
    license: str
    weights: Weights
    builder_args: dict[str, Any] = {}
    default: bool = False
    aliases: tuple[str, ...] = ()
    paper: Paper | None = None
    origin: Origin | None = None
    input: Input = Input()
    traits: Traits = Traits()
    labels: str | None = None
    params: int | None = None
    gmacs: float | None = None
    figures: tuple[Figure, ...] = ()
    limits: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """Name before the dot."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """Name behind the dot."""
        return self.name.partition(".")[2]

    def figure(self, by: str = "zoo") -> Figure | None:
        """The main figure by us or by the paper: the first one listed."""
        return next((figure for figure in self.figures if figure.by == by), None)


def read_card(path: Path) -> Card:
    """The card in a file.

    Args:
        path: `cards/<arch>.<tag>.md`.

    Raises:
        CardError: No front matter, bad YAML, an unknown or ill-typed field; says the file and the line where known.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CardError(f"{path}: {error.reason} at byte {error.start}", hint="save it as UTF-8") from None
    parts = re.match(r"---\n(.*?\n)---\n(.*)", text, re.DOTALL)
    if not parts:
        raise CardError(f"{path}:1: no front matter", hint="a card opens with YAML between two lines of ---")
    front, body = parts.groups()
    _refuse_aliases(path, front)
    try:
        fields = msgspec.yaml.decode(front)
        if not isinstance(fields, dict):
            raise CardError(f"{path}:2: the front matter is no table", hint="write `key: value` lines")
        card = msgspec.convert({**fields, "name": path.stem, "body": body.strip()}, Card)
    except msgspec.ValidationError as error:
        raise CardError(
            f"{path}:{_line(front, str(error))}: {error}", hint="see the card template in CONTRIBUTING.md"
        ) from None
    except msgspec.DecodeError as error:
        found = re.search(r"line (\d+)", str(error.__cause__ or error))
        raise CardError(
            f"{path}:{int(found[1]) + 1 if found else 2}: {one_line(error)}", hint="mend the YAML"
        ) from None
    except CardError:
        raise
    except Exception as error:  # YAML's own types raise whatever odd values lead to: a day 45, a number of 5000 digits
        raise CardError(f"{path}:2: {one_line(error)}", hint="mend the YAML") from None
    if card.builder.partition(":")[2] != card.architecture:
        raise CardError(
            f"{path}:{_line(front, '$.builder')}: builder {card.builder} does not make {card.architecture}",
            hint="the function is named as the file before its dot",
        )
    return card


def _refuse_aliases(path: Path, front: str) -> None:
    """YAML lets a value stand for another; nine lines of that unfold into a thousand million values."""
    if "*" not in front:
        return
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        aliases = [event for event in yaml.parse(front, Loader=loader) if isinstance(event, yaml.AliasEvent)]
    except yaml.YAMLError:
        return  # the decoder says where
    if aliases:
        raise CardError(f"{path}:{aliases[0].start_mark.line + 2}: an alias", hint="write the value out")


def _line(front: str, error: str) -> int:
    """Line in the file of the key that a msgspec error names, as far as can be told without a parser's marks."""
    path = re.search(r"`\$\.(\w+)", error)
    field = re.search(r"field `(\w+)`", error)
    key = path[1] if path else field[1] if field else ""
    if path and field:  # an unknown key inside a table: look for it behind the table's own key
        inner = re.search(rf"\b{field[1]}\b\s*:", front[front.find(path[1]) :])
        if inner:
            return 2 + front.count("\n", 0, front.find(path[1]) + inner.start())
    found = re.search(rf"^{key}\b", front, re.MULTILINE) if key else None
    return 2 + front.count("\n", 0, found.start()) if found else 1
