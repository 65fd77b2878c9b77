"""Authors' checkpoints to ours: keys renamed, completeness proven, written as safetensors."""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.build import Faults, builder_of, compare, create_model, pretrained_cfg, skeleton
from zoo.data.texts import ARRAY_FAULTS
from zoo.errors import InputError, IntegrityError, UsageError, one_line
from zoo.hub.checkpoint import facts_for, read_contents, write_whole
from zoo.hub.fetch import sha256_of
from zoo.registry.card import Card
from zoo.registry.names import resolve
from zoo.registry.timm_cfg import IN_TIMM
from zoo.unpickle import read_pickle, unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Keys", "Report", "convert", "rename", "survey"]

Keys = Iterable[tuple[str, str | None]]  # authors' pattern -> our text, applied in this order; None drops the key
TOLERANCE = 1e-4  # of the largest output: float32 sums in another order, and a packed scale that is rounded once more


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
        added: Key and shape of what the file lacks and the network's own first values stand for.
        faults: What keeps the file from filling the network: kind to keys. Empty when it was, or could be, converted.
        parity: Which outputs the written file was seen to give, and how nearly; none where nothing was compared.
    """

    architecture: str
    builder_args: dict[str, Any]
    source: str
    source_sha256: str
    renamed: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    kept: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    added: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    parity: dict[str, Any] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of the network is there, and nothing else."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "complete": self.is_complete}

    def __str__(self) -> str:
        counts = f"{len(self.renamed)} keys renamed, {len(self.kept)} kept, {len(self.dropped)} dropped"
        counts += f", {len(self.added)} added untrained" if self.added else ""
        return f"{self.source} as {self.architecture}: {counts}; {Faults(self.faults) if self.faults else 'complete'}"


def convert(
    architecture: str,
    source: Path,
    out: Path,
    /,
    *,
    packed: bool = False,
    check: Path | None = None,
    **builder_args: Any,
) -> Report:
    """Write the authors' checkpoint as ours; nothing is written unless it fills the network and gives its outputs.

    The outputs are those in `check`, from the authors' code. Without it, they are those of the network filled with the
    authors' tensors, for a stated random image: that proves the file and its packing, not the architecture.

    Args:
        architecture: Name of the network, or of one of its checkpoints, whose builder arguments then apply.
        source: Authors' pickle (read without running code, in a process with limits) or safetensors file.
        out: File to write, `.safetensors`.
        packed: Store binary weights as bits; everything else stays as it is.
        check: NumPy `.npz` with `input` and the authors' `output` for it.
        **builder_args: What the tensors do not show, such as `act_bits=32`; class count and channels they do.

    Raises:
        UnknownName: No such architecture.
        UsageError: Arguments that the builder does not take, or `packed` for a network without binary layers.
        InputError: The source or `check` cannot be read, or `out` cannot be written.
        IntegrityError: The source holds no weights, or not all of this network, or gives other outputs.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} is not called .safetensors", hint=f"--out {out.with_suffix('.safetensors')}")
    state, model, report = _match(architecture, source, builder_args)
    if report.faults:
        raise IntegrityError(
            f"{source} does not fill {report.architecture}: {Faults(report.faults)}",
            hint=f"{_another_size(state, model)}check the architecture and its arguments; nothing was written",
        )
    stored, layout = _pack(state, model, source) if packed else (state, "float")
    report = replace(report, parity=_parity(resolve(architecture), report, state, stored, layout, check))
    write_whole(out, _file(report, stored, layout))
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
    card = resolve(architecture)
    tensors, dropped = _read(source)
    model = _skeleton(card, builder_args)
    keys = tuple(getattr(model, "authors_keys", ()))
    try:
        state = rename(tensors, keys)
    except ValueError as error:
        raise IntegrityError(f"{source}: {error}", hint=f"is it a checkpoint of {card.architecture}?") from None
    inferred: Callable[[Mapping[str, Tensor]], dict[str, Any]] = getattr(model, "inferred_args", lambda state: {})
    args = {**card.builder_args, **_shown(state, card), **inferred(state), **builder_args}
    model = _skeleton(card, args)
    complete: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = getattr(model, "complete", lambda state: {})
    added = complete(state)
    state |= added
    report = Report(
        card.architecture,
        args,
        source.name,
        sha256_of(source),
        dropped=dropped,
        added=[(key, tuple(value.shape)) for key, value in added.items()],
        faults=compare(state, model),
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


def _read(source: Path) -> "tuple[dict[str, Tensor], list[tuple[str, str]]]":
    """The tensors in a file by name, and what else is among them.

    Raises:
        InputError: It cannot be opened.
        IntegrityError: It is neither a pickle of plain weights nor a safetensors file.
    """
    from safetensors.torch import load_file

    if not source.is_file() or not os.access(source, os.R_OK):
        raise InputError(f"{source} is no file that can be read", hint="check the path")
    if source.suffix != ".safetensors":
        return read_pickle(source)
    read_contents(source)
    try:
        return unwrap(load_file(source)), []
    except ValueError as error:
        raise IntegrityError(f"{source} holds {error}", hint="give a file with a state_dict") from None


def _file(report: Report, state: "Mapping[str, Tensor]", layout: str) -> bytes:
    """The safetensors file: tensors, and in its metadata what made it."""
    from safetensors.torch import save

    made_by: dict[str, Any] = {"source": report.source, "source_sha256": report.source_sha256}
    if report.parity:
        made_by["parity"] = report.parity
    metadata = facts_for(report.architecture, report.builder_args, layout, **made_by)
    return save({key: value.contiguous().clone() for key, value in state.items()}, metadata)


def _parity(
    card: Card,
    report: Report,
    state: "Mapping[str, Tensor]",
    stored: "Mapping[str, Tensor]",
    layout: str,
    check: Path | None,
) -> dict[str, Any] | None:
    """How nearly the file to be written gives the outputs it should.

    Raises:
        InputError: `check` does not hold an input and an output that the network can take and give.
        IntegrityError: It gives others.
    """
    import torch

    if check is None and card.task not in IN_TIMM:  # what else networks take is not known here
        return None
    if check:
        stated, image, expected = _stated(check)
    else:
        stated, image = _probe(card, report)
        reference = builder_of(card)(pretrained=False, pretrained_cfg=pretrained_cfg(card), **report.builder_args)
        reference.load_state_dict(dict(state))
        with torch.inference_mode():
            expected = reference.eval()(image)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "converted.safetensors")
        path.write_bytes(_file(report, stored, layout))
        model = create_model(card.name, checkpoint_path=path).eval()
        try:
            with torch.inference_mode():
                got = model(image)
            difference = float((got - expected).abs().max())
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{check}: {one_line(error)}", hint=f"give input and output of {card.architecture}"
            ) from error
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise IntegrityError(
            f"{report.source} as {card.architecture} gives outputs that differ by {difference:.2g} from {stated['by']}",
            hint="check the architecture and its arguments (--set act_bits=32 ...); nothing was written",
        )
    first = [round(value, 6) for value in expected.flatten()[:5].tolist()]
    return {**stated, "first_outputs": first, "largest_difference": difference, "allowed": allowed}


def _stated(check: Path) -> "tuple[dict[str, Any], Tensor, Tensor]":
    """The authors' outputs: what they are, input, output."""
    import numpy as np
    import torch

    try:
        with np.load(check) as arrays:
            image, output = (torch.from_numpy(arrays[key]) for key in ("input", "output"))
    except ARRAY_FAULTS as error:
        raise InputError(
            f"{check} holds no input and output: {one_line(error)}",
            hint="numpy.savez(FILE, input=x, output=model(x)) with the authors' model",
        ) from None
    return {"by": check.name, "sha256": sha256_of(check)}, image, output


def _probe(card: Card, report: Report) -> "tuple[dict[str, Any], Tensor]":
    """A random image that anybody can draw again: how, and the image."""
    import torch

    shape = [1, report.builder_args.get("in_chans", card.input.size[0]), *card.input.size[1:]]
    drawn = f"torch.randn({shape}, generator=torch.Generator().manual_seed(0))"
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return {"by": "the authors' tensors in this network", "input": drawn}, image


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
