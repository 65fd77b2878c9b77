"""Networks as files for other runtimes, written only after they have given the network's own outputs."""

import hashlib
import importlib.util
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import zoo
from zoo.build import create_model
from zoo.errors import InputError, UsageError
from zoo.export.check import BATCH_SIZES, FORMATS, check
from zoo.hub.checkpoint import write_whole
from zoo.layers.binary import BinaryConv2d
from zoo.layers.engine import freeze
from zoo.registry.card import Card
from zoo.registry.labels import label_names
from zoo.registry.names import resolve

__all__ = ["METADATA_FILE", "Exported", "export", "facts_of", "to_onnx", "to_torch_export", "trace"]

METADATA_FILE = "zoo.json"  # name among torch.export's extra files
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSETS = range(18, 26)  # torch writes these itself; others go through converters that give up halfway


@dataclass(frozen=True)
class Exported:
    """What was written and how well it agrees.

    Attributes:
        path: The file.
        format: "onnx" or "torch-export".
        bytes: Its length.
        largest_difference: Between its outputs and the network's.
        batch_sizes: Pictures in the batches that were compared; only 1 where the network fixes its batch.
    """

    path: Path
    format: str
    bytes: int
    largest_difference: float
    batch_sizes: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "path": str(self.path),
            "format": self.format,
            "bytes": self.bytes,
            "largest_difference": self.largest_difference,
            "batch_sizes": list(self.batch_sizes),
        }


def export(
    name: str,
    out: Path,
    *,
    format: str = "onnx",
    checkpoint_path: Path | None = None,
    opset: int | None = None,
    modality: str | None = None,
) -> Exported:
    """Write a network with its weights, preprocessing and labels as one file for another runtime.

    Binary networks are written as their float simulation. The file is compared with the network before it gets its
    name; one that disagrees is removed.

    Args:
        name: Checkpoint.
        out: File to write, `.onnx` or `.pt2`.
        format: "onnx" or "torch-export".
        checkpoint_path: Weights in place of the card's.
        opset: Version of ONNX's operators, 18 to 25; torch's own choice by default.
        modality: Of a network for several, "visible" or "infrared": each has a file of its own.

    Raises:
        UnknownName: No such model.
        UsageError: No such format, a name that does not fit it, a package that is not installed, or a modality that the
            network does not have or wants to be told.
        InputError: The file cannot be written.
        WeightsUnavailable: There are no weights.
        IntegrityError: The weights are not what they should be, or the file does not compute what the network does.
    """
    card = resolve(name)
    _refuse(out, format, opset)
    model = create_model(card.name, pretrained=True, checkpoint_path=checkpoint_path).eval().requires_grad_(False)
    size = _input_size(model, card)
    model = _of_modality(model, card, modality)
    program, dynamic = trace(model, size)
    facts = facts_of(card, model, dynamic, checkpoint_path)
    data = to_onnx(program, facts, opset) if format == "onnx" else to_torch_export(program, facts)
    batch_sizes = BATCH_SIZES if dynamic else (1,)
    part = out.with_name(f".{out.stem}.{os.getpid()}.part{out.suffix}")  # runtimes go by the suffix
    try:
        write_whole(part, data)
        difference = check(part, model, size, batch_sizes=batch_sizes)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return Exported(out, format, len(data), difference, batch_sizes)


def _of_modality(model: nn.Module, card: Card, modality: str | None) -> nn.Module:
    """The part of a network that one modality needs; the network itself where there are none to choose from."""
    part: Callable[[str], nn.Module] | None = getattr(model, "one_modality", None)
    if part is None and modality:
        raise UsageError(f"{card.name} knows no modalities", hint="leave the modality out")
    if part is None:
        return model
    try:
        return part(modality or "")
    except ValueError as error:
        raise UsageError(f"{card.name}: {error}", hint="each has a file of its own: --modality visible") from None


def trace(model: nn.Module, size: tuple[int, ...]) -> tuple[torch.export.ExportedProgram, bool]:
    """The graph of an evaluating network, and whether it takes batches of any size; one that does not takes one input.

    Signs of binary weights are taken before: their latent values would double the work and are of no use elsewhere.

    Args:
        model: The network.
        size: (C, H, W) of its input.
    """
    frozen = freeze(model)
    # two pictures: torch takes a side of 1 for a constant. AUTO lets a network fix its batch in place of an error.
    dynamic_shapes = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(frozen, (torch.zeros(2, *size),), dynamic_shapes=dynamic_shapes)
    dynamic = bool(program.range_constraints)  # of the batch, the one side that may vary
    if not dynamic:
        program = torch.export.export(frozen, (torch.zeros(1, *size),))
    program.example_inputs = None  # as large as the pictures they are
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine
    return program, dynamic


def to_onnx(program: torch.export.ExportedProgram, facts: Mapping[str, Any], opset: int | None = None) -> bytes:
    """One ONNX file, weights inside, facts under the model's metadata properties: text as it is, the rest as JSON.

    The input is called `image` and the output `logits` (`features` for a network that does not classify).

    Args:
        program: The graph.
        facts: See `facts_of`.
        opset: Version of the operators.

    Raises:
        UsageError: The installed packages do not write that version.
    """
    output = "logits" if facts["task"] == "classify" else "features"
    written = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,  # it talks on stdout otherwise
        opset_version=opset,
        input_names=["image"],
        output_names=[output],
    )
    proto = cast(torch.onnx.ONNXProgram, written).model_proto
    if opset not in (None, proto.opset_import[0].version):
        raise UsageError(f"this torch does not write opset {opset} for this network", hint="leave the opset out")
    for node in proto.graph.node:
        del node.metadata_props[:]  # torch's trace of where a node came from, a sixth of a small file
    del proto.graph.value_info[:]  # shapes that every runtime infers
    _scale_behind_relu(proto.graph)
    for value in (*proto.graph.input, *proto.graph.output):
        side = value.type.tensor_type.shape.dim[0]
        if side.dim_param:
            side.dim_param = "batch"
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        proto.metadata_props.add(key=key, value=text)
    return proto.SerializeToString()


def _scale_behind_relu(graph: Any) -> None:
    """Turn relu(conv(x) * scale) into relu(conv(x)) * scale, which is the same float for float for a scale above 0.

    onnxruntime multiplies a scale that follows a convolution into its weights. Sums of signs are then no longer whole
    numbers but rounded, and one of exactly 0 comes out of the ReLU as 1e-8: `zoo.layers.binary` tells why that matters.
    """
    from onnx.numpy_helper import to_array

    users = Counter(name for node in graph.node for name in node.input)
    made_by = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for relu in graph.node:
        scaled = made_by.get(relu.input[0]) if relu.op_type == "Relu" else None
        if scaled is None or scaled.op_type != "Mul" or users[scaled.output[0]] > 1:
            continue
        conv, scale = made_by.get(scaled.input[0]), constants.get(scaled.input[1])
        if conv is not None and conv.op_type == "Conv" and scale is not None and (to_array(scale) > 0).all():
            scaled.op_type, relu.op_type = "Relu", "Mul"  # each in the other's place, so that the order holds
            scaled.name, relu.name = relu.name, scaled.name
            del scaled.input[1]
            relu.input.append(scale.name)


def to_torch_export(program: torch.export.ExportedProgram, facts: Mapping[str, Any]) -> bytes:
    """A `torch.export` archive with the facts as JSON in its extra file `zoo.json`."""
    data = io.BytesIO()
    torch.export.save(program, data, extra_files={METADATA_FILE: json.dumps(facts, ensure_ascii=False)})
    return data.getvalue()


def facts_of(card: Card, model: nn.Module, dynamic: bool, checkpoint_path: Path | None = None) -> dict[str, Any]:
    """What whoever runs the file has to know: preprocessing, labels, name, licence, arithmetic.

    Args:
        card: The checkpoint's card.
        model: The network.
        dynamic: Whether it takes batches of any size.
        checkpoint_path: Where its weights came from, if not from the card.
    """
    facts: dict[str, Any] = {
        "name": card.name,
        "task": card.task,
        "summary": card.summary,
        "license": card.license,
        "input_size": card.input.size,
        "pixels": "RGB from 0 to 1, minus mean, divided by std; batch, channel, row, column",
        "mean": card.input.mean,
        "std": card.input.std,
        "interpolation": card.input.interpolation,
        "crop_pct": card.input.crop_pct,
        "batch": "dynamic" if dynamic else 1,
        "made_by": f"zoo {zoo.__version__}, torch {torch.__version__}",
    }
    labels = label_names(card.labels) if card.labels else ()
    if labels and len(labels) == getattr(model, "num_classes", 0):  # a checkpoint may have classes of its own
        facts["labels"] = labels
    if modality := getattr(model, "modality", None):
        facts["modality"] = modality
    digest = _sha256(checkpoint_path) if checkpoint_path else card.weights.sha256
    if digest:
        facts["weights_sha256"] = digest
    binary = [module for module in model.modules() if isinstance(module, BinaryConv2d)]
    if binary:
        facts["act_bits"] = binary[0].act_bits
        facts["arithmetic"] = "float32 simulation of a binary network: signs are stored and multiplied as float32"
    return facts


def _refuse(out: Path, format: str, opset: int | None) -> None:
    """What can be told to be wrong before any work.

    Raises:
        UsageError: See `export`.
        InputError: There is no folder for the file, or it is closed.
    """
    if format not in FORMATS:
        raise UsageError(f"no export format {format!r}", hint=" or ".join(FORMATS))
    suffix = FORMATS[format]
    if out.suffix != suffix:
        raise UsageError(f"{out} is not called {suffix}, as {format} files are", hint=f"--out {out.stem}{suffix}")
    if opset is not None and (format != "onnx" or opset not in OPSETS):
        known = f"{OPSETS[0]} to {OPSETS[-1]}"
        raise UsageError(f"opset {opset} for {format}: only ONNX has opsets, {known} here", hint="leave it out")
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if format == "onnx" and missing:
        raise UsageError(f"ONNX export needs {', '.join(missing)}", hint="pip install 'zoo[export]'")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        fault = "is a folder" if out.is_dir() else f"cannot be written: {out.parent} is no folder that takes files"
        raise InputError(f"{out} {fault}", hint="choose another place")


def _input_size(model: nn.Module, card: Card) -> tuple[int, ...]:
    """(C, H, W) of the card, once it is known to be the network's.

    Raises:
        UsageError: The checkpoint takes other channels, for which the card has no mean and std.
    """
    channels = cast(dict[str, Any], model._model_args).get("in_chans", card.input.size[0])
    if channels != card.input.size[0]:
        raise UsageError(
            f"the checkpoint takes {channels} channels; the preprocessing of {card.name} is for {card.input.size[0]}",
            hint="write a card for it",
        )
    return card.input.size


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
