"""Authors' checkpoints to ours: keys renamed, completeness proven, written as safetensors."""

import argparse
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.build import Faults, compare, skeleton
from zoo.errors import InputError, IntegrityError, UsageError
from zoo.hub.checkpoint import facts_for, write_whole
from zoo.hub.fetch import sha256_of
from zoo.registry.card import Card
from zoo.registry.names import resolve

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Keys", "Report", "convert", "rename", "survey"]

Keys = Iterable[tuple[str, str | None]]  # authors' pattern -> our text, applied in this order; None drops the key
WRAPPERS = ("state_dict", "model")  # where training scripts put the weights, the surer one first


@dataclass(frozen=True)
class Report:
    """What became of every key.

    Attributes:
        architecture: Name of the network.
        builder_args: What `zoo.create_model` needs to build it.
        source: Name of the authors' file.
        source_sha256: Its digest.
        renamed: Authors' key, our key, shape.
        kept: Key, shape.
        dropped: Key, and its shape or what it was.
        faults: What keeps the file from filling the network: kind to keys. Empty when it was, or could be, converted.
    """

    architecture: str
    builder_args: dict[str, Any]
    source: str
    source_sha256: str
    renamed: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    kept: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of the network is there, and nothing else."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "complete": self.is_complete}

    def __str__(self) -> str:
        counts = f"{len(self.renamed)} keys renamed, {len(self.kept)} kept, {len(self.dropped)} dropped"
        return f"{self.source} as {self.architecture}: {counts}; {Faults(self.faults) if self.faults else 'complete'}"


def convert(architecture: str, source: Path, out: Path, /, *, packed: bool = False, **builder_args: Any) -> Report:
    """Write the authors' checkpoint as ours; nothing is written unless it fills the network completely.

    Args:
        architecture: Name of the network, or of one of its checkpoints, whose builder arguments then apply.
        source: Authors' pickle (read without running code) or safetensors file.
        out: File to write, `.safetensors`.
        packed: Store binary weights as bits; everything else stays as it is.
        **builder_args: What the tensors do not show, such as `act_bits=32`; class count and channels they do.

    Raises:
        UnknownName: No such architecture.
        UsageError: Arguments that the builder does not take, or `packed` for a network without binary layers.
        InputError: The source cannot be read, or `out` cannot be written.
        IntegrityError: The source holds no weights, or not all of this network.
    """
    from safetensors.torch import save

    if out.suffix != ".safetensors":
        raise UsageError(f"{out} is not called .safetensors", hint=f"--out {out.with_suffix('.safetensors')}")
    state, model, report = _match(architecture, source, builder_args)
    if report.faults:
        raise IntegrityError(
            f"{source} does not fill {report.architecture}: {Faults(report.faults)}",
            hint=f"{_another_size(state, model)}check the architecture and its arguments; nothing was written",
        )
    layout = "float"
    if packed:
        state, layout = _pack(state, model, source)
    made_by = {"source": report.source, "source_sha256": report.source_sha256}
    metadata = facts_for(report.architecture, report.builder_args, layout, **made_by)
    write_whole(out, save({key: value.contiguous().clone() for key, value in state.items()}, metadata))
    return report


def survey(architecture: str, source: Path, /, **builder_args: Any) -> Report:
    """The report that `convert` would give, faults included; nothing is written. Arguments and errors are the same."""
    return _match(architecture, source, builder_args)[2]


def rename(state: "Mapping[str, Tensor]", keys: Keys) -> "dict[str, Tensor]":
    """A state under our keys.

    Args:
        state: The authors' state.
        keys: (pattern, replacement) pairs for `re.sub`, in this order; a replacement of None drops what matches.

    Raises:
        ValueError: Two keys become one.
    """
    keys = tuple(keys)
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        ours = _renamed(key, keys)
        if ours in renamed:
            raise ValueError(f"two keys become {ours}")
        if ours is not None:
            renamed[ours] = value
    return renamed


def _renamed(key: str, keys: Keys) -> str | None:
    for pattern, replacement in keys:
        if replacement is not None:
            key = re.sub(pattern, replacement, key)
        elif re.search(pattern, key):
            return None
    return key


def _match(
    architecture: str, source: Path, builder_args: Mapping[str, Any]
) -> "tuple[dict[str, Tensor], nn.Module, Report]":
    """The renamed state, the network it is for, and the report."""
    import torch

    card = resolve(architecture)
    theirs = _unwrap(_read(source), source)
    tensors = {key: value for key, value in theirs.items() if isinstance(value, torch.Tensor)}
    dropped = [(key, type(value).__name__) for key, value in theirs.items() if key not in tensors]
    if not tensors:
        raise IntegrityError(
            f"{source} holds no tensors by name", hint="give the authors' checkpoint, not an optimizer or a log"
        )
    keys = tuple(getattr(_skeleton(card, builder_args), "authors_keys", ()))
    try:
        state = rename(tensors, keys)
    except ValueError as error:
        raise IntegrityError(f"{source}: {error}", hint=f"is it a checkpoint of {card.architecture}?") from None
    args = {**card.builder_args, **_shown(state, card), **builder_args}
    model = _skeleton(card, args)
    report = Report(
        card.architecture, args, source.name, sha256_of(source), dropped=dropped, faults=compare(state, model)
    )
    for key, value in tensors.items():
        ours, shape = _renamed(key, keys), tuple(value.shape)
        if ours is None:
            report.dropped.append((key, str(shape)))
        elif ours == key:
            report.kept.append((key, shape))
        else:
            report.renamed.append((key, ours, shape))
    return state, model, report


def _skeleton(card: Card, args: Mapping[str, Any]) -> "nn.Module":
    try:
        return skeleton(card, {**card.builder_args, **args})
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{card.architecture} cannot be built with {dict(args)}: {error}", hint="check --set"
        ) from error


def _shown(state: "Mapping[str, Tensor]", card: Card) -> dict[str, int]:
    """Class count and input channels, as the head and the first convolution show them."""
    head, stem = state.get(f"{card.traits.classifier}.weight"), state.get(f"{card.traits.first_conv}.weight")
    shown = {}
    if head is not None and head.ndim and "num_classes" in card.builder_args:
        shown["num_classes"] = head.shape[0]
    if stem is not None and stem.ndim == 4:
        shown["in_chans"] = stem.shape[1]
    return shown


def _another_size(state: "Mapping[str, Tensor]", model: "nn.Module") -> str:
    """What a file shows of the network's arguments, where the network built for it has others."""
    shown_args: Callable[[Mapping[str, Tensor]], dict[str, Any]] = getattr(model, "shown_args", lambda state: {})
    file, built = shown_args(state), shown_args(model.state_dict())
    unlike = [key for key in file if file[key] != built[key]]
    if not unlike:
        return ""
    settings = " ".join(f"--set {key}={str(file[key]).replace(' ', '')}" for key in unlike)
    return f"the file shows {settings}, in place of {', '.join(f'{key}={built[key]}' for key in unlike)}; "


def _read(source: Path) -> object:
    """What is in a file, without running code from it.

    Raises:
        InputError: It cannot be opened.
        IntegrityError: It is neither a pickle of plain weights nor a safetensors file.
    """
    import torch
    from safetensors.torch import load_file

    if not source.is_file() or not os.access(source, os.R_OK):
        raise InputError(f"{source} is no file that can be read", hint="check the path")
    try:
        if source.suffix == ".safetensors":
            return load_file(source)
        with torch.serialization.safe_globals([argparse.Namespace]):  # a script's options, saved beside the weights
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile pickle raises whatever its bytes lead to
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise IntegrityError(
            f"{source} cannot be read as plain weights: {reason}",
            hint="only tensors and plain containers are read; save it again as torch.save(model.state_dict(), FILE)",
        ) from error


def _unwrap(content: object, source: Path) -> dict[str, Any]:
    """The weights inside what training scripts save around them."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise IntegrityError(f"{source} holds no weights by name", hint="give a file with a state_dict")
    names = {key: key for key in content}
    while all(name.startswith("module.") for name in names.values()):  # what DataParallel adds, once a wrapping
        names = {key: name.removeprefix("module.") for key, name in names.items()}
    return {names[key]: value for key, value in content.items()}


def _pack(state: "dict[str, Tensor]", model: "nn.Module", source: Path) -> "tuple[dict[str, Tensor], str]":
    import torch

    from zoo.layers.packing import FORMAT, pack

    model.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in state.items()}, assign=True
    )
    try:
        packed = pack(model, dtype=torch.float32)
    except ValueError as error:
        raise IntegrityError(f"{source} cannot be packed: {error}", hint="convert it without packing") from error
    if not any(key.endswith(".weight_packed") for key in packed):
        raise UsageError(f"{type(model).__name__} has no binary layers to pack", hint="convert it without packing")
    return packed, FORMAT
