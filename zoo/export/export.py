"""Networks as files for other runtimes, written only after they have given the network's own outputs."""

import copy
import io
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import zoo
from zoo.build import create_model
from zoo.errors import InputError, UsageError, one_line
from zoo.export.check import BATCH_SIZES, FORMATS, compare_outputs, open_exported
from zoo.export.parts import Part, of_modality, part_of, tasks_of
from zoo.export.reduced import Accuracy, Bfloat16, compare_accuracy, pictures_of, to_int8
from zoo.extras import need
from zoo.hub.checkpoint import class_names, write_whole
from zoo.hub.fetch import sha256_of
from zoo.layers.binary import BinaryConv2d
from zoo.layers.engine import freeze
from zoo.registry.card import Card
from zoo.registry.names import resolve

__all__ = ["METADATA_FILE", "Exported", "export", "facts_of", "to_onnx", "to_openvino", "to_torch_export", "trace"]

METADATA_FILE = "zoo.json"  # name among torch.export's extra files
NEEDS = {"onnx": ("export",), "openvino": ("export", "openvino"), "torch-export": ()}  # extras
DTYPES = {"onnx": ("float32", "int8"), "torch-export": ("float32", "bfloat16"), "openvino": ("float32",)}

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
        accuracy: Of a reduced file, beside the network's.
    """

    path: Path
    format: str
    bytes: int
    largest_difference: float
    batch_sizes: tuple[int, ...]
    accuracy: Accuracy | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "path": str(self.path),
            "format": self.format,
            "bytes": self.bytes,
            "largest_difference": self.largest_difference,
            "batch_sizes": list(self.batch_sizes),
            "accuracy": asdict(self.accuracy) if self.accuracy else None,
        }


def export(
    name: str,
    out: Path,
    *,
    format: str = "onnx",
    task: str | None = None,
    dtype: str = "float32",
    data: str | None = None,
    data_root: Path | None = None,
    max_drop: float = 1.0,
    dynamic_size: bool = False,
    checkpoint_path: Path | None = None,
    opset: int | None = None,
    modality: str | None = None,
) -> Exported:
    """Write a network with its weights, preprocessing and labels as one file for another runtime.

    Binary networks are written as their float simulation. The file is compared with the network before it gets its
    name; one that disagrees is removed. Narrower numbers cannot agree to rounding: there the accuracy on a set decides.

    Args:
        name: Checkpoint.
        out: File to write, `.onnx`, `.pt2`, or `.xml` with its weights beside it in `.bin`.
        format: "onnx", "torch-export" or "openvino".
        task: "classify", or "embed" for the features before the head; by default what the card says. "video" or "text"
            of a network that compares the two.
        dtype: "float32"; "int8" in ONNX; "bfloat16" in torch-export.
        data: Set with the parts train and test, for a reduced file: calibration, and accuracy.
        data_root: Folder that holds it.
        max_drop: Points of top-1 that a reduced file may lose.
        dynamic_size: Leave height and width open.
        checkpoint_path: Weights in place of the card's.
        opset: Version of ONNX's operators, 18 to 25; torch's own choice by default.
        modality: Of a network for several, "visible" or "infrared": each has a file of its own.

    Raises:
        UnknownName: No such model.
        UsageError: No such format or type, a name that does not fit it, a network that fixes its size, a package that
            is not installed, or a modality that the network does not have or wants to be told.
        InputError: The file cannot be written, or the set cannot be read.
        WeightsUnavailable: There are no weights.
        IntegrityError: The weights are not what they should be, or the file does not compute what the network does.
    """
    card = resolve(name)
    what = _task_of(card, task)
    _refuse(out, format, opset)
    _refuse_reduced(what, format, dtype, data)
    model = create_model(card.name, pretrained=True, checkpoint_path=checkpoint_path).eval().requires_grad_(False)
    whole = of_modality(model, card, modality)
    part = part_of(whole, card, what, _input_size(model, card))
    module = Bfloat16(copy.deepcopy(part.module)) if dtype == "bfloat16" else part.module
    program, dynamic = trace(module, part.size, dynamic_size, dtype=part.dtype)
    facts = facts_of(card, whole, checkpoint_path, part) | {"task": what, "dtype": dtype}
    facts |= {"batch": "dynamic" if dynamic else 1, "size": "dynamic" if dynamic_size else "fixed"}
    batch_sizes = BATCH_SIZES if dynamic else (1,)
    names = part.input, part.output
    file = out.with_name(f".{out.stem}.{os.getpid()}.part{out.suffix}")  # runtimes go by the suffix
    try:
        if format == "torch-export":
            write_whole(file, to_torch_export(program, facts))
        elif format == "openvino":
            to_openvino(to_onnx(program, facts, opset, names), facts, file)
        else:
            data_of = to_onnx(program, facts, opset, names)
            if dtype == "int8":
                data_of = to_int8(data_of, card, pictures_of(card, str(data), "train", data_root))
            write_whole(file, data_of)
        accuracy, difference = None, 0.0
        if dtype == "float32":
            difference = _compare(file, part, batch_sizes, dynamic_size)
        else:
            test = pictures_of(card, str(data), "test", data_root)
            accuracy = compare_accuracy(open_exported(file), part.module, card, str(data), test, max_drop=max_drop)
        length = _put(file, out)
    finally:
        for left in (file, file.with_suffix(".bin")):
            left.unlink(missing_ok=True)
    return Exported(out, format, length, difference, batch_sizes, accuracy)


def _compare(file: Path, part: Part, batch_sizes: tuple[int, ...], dynamic_size: bool) -> float:
    """The largest difference between a file and its network, also at other sizes where these are open.

    Raises:
        IntegrityError: It is more than rounding.
        UsageError: There are no pictures on which the two must agree.
    """
    run = open_exported(file)
    difference = compare_outputs(run, part.module, part.inputs(max(batch_sizes)), batch_sizes)
    for side in (16, 40) if dynamic_size else ():
        channels, height, width = part.size
        pictures = part.inputs(2, (channels, height + side, width + 2 * side))
        difference = max(difference, compare_outputs(run, part.module, pictures, (1, 2)))
    return difference


def trace(
    model: nn.Module, size: tuple[int, ...], dynamic_size: bool = False, *, dtype: torch.dtype = torch.float32
) -> tuple[torch.export.ExportedProgram, bool]:
    """The graph of an evaluating network, and whether it takes batches of any size; one that does not takes one input.

    Signs of binary weights are taken before: their latent values would double the work and are of no use elsewhere.

    Args:
        model: The network.
        size: (C, H, W) of its input.
        dynamic_size: Leave height and width open as well.
        dtype: Type of the input.

    Raises:
        UsageError: They were to be open, and the network fixes them.
    """
    frozen = freeze(model)
    if dynamic_size:
        if len(size) != 3:
            raise UsageError("only the size of single pictures can be left open", hint="export it with one size")
        return _trace_open(frozen, size), True
    # two pictures: torch takes a side of 1 for a constant. AUTO lets a network fix its batch in place of an error.
    dynamic_shapes = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(frozen, (torch.ones(2, *size, dtype=dtype),), dynamic_shapes=dynamic_shapes)
    dynamic = bool(program.range_constraints)  # of the batch, the one side that may vary
    if not dynamic:
        program = torch.export.export(frozen, (torch.ones(1, *size, dtype=dtype),))
    return _stripped(program), dynamic


def _trace_open(frozen: nn.Module, size: tuple[int, ...]) -> torch.export.ExportedProgram:
    """The graph with batch, height and width open."""
    sides = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    example = torch.zeros(2, size[0], size[1] + 32, size[2] + 64)  # sides that are alike would be taken for one
    try:
        with torch.inference_mode():
            frozen(torch.zeros(1, *size)), frozen(example)  # torch may trace what runs at one size alone
        program = torch.export.export(frozen, (example,), dynamic_shapes=(sides,))
    except Exception as error:  # torch's own, of many kinds
        raise UsageError(f"its size cannot be left open: {one_line(error)}", hint="export it with one size") from error
    if len(program.range_constraints) < len(sides):
        raise UsageError("the network fixes the size of its pictures", hint="export it with one size")
    return _stripped(program)


def _stripped(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    program.example_inputs = None  # as large as the pictures they are
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine
    return program


def to_openvino(onnx: bytes, facts: Mapping[str, Any], path: Path) -> None:
    """OpenVINO's two files, `.xml` and beside it `.bin`, with the facts under `rt_info/zoo`.

    Args:
        onnx: The network as ONNX.
        facts: See `facts_of`.
        path: The first of them.
    """
    import openvino

    model = openvino.convert_model(io.BytesIO(onnx))
    for key, value in facts.items():
        model.set_rt_info(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), ["zoo", key])
    openvino.save_model(model, path, compress_to_fp16=False)


def _put(part: Path, out: Path) -> int:
    """Give what was written its name; returns its bytes."""
    weights = part.with_suffix(".bin")
    length = part.stat().st_size
    if weights.exists():
        length += weights.stat().st_size
        weights.replace(out.with_suffix(".bin"))
    part.replace(out)
    return length


def _task_of(card: Card, task: str | None) -> str:
    """What is written of a network.

    Raises:
        UsageError: It has no such part, or none.
    """
    known = tasks_of(card)
    if task not in (None, *known) or not known:
        raise UsageError(
            f"{card.name} cannot be exported{f' to {task}' if task else ''}",
            hint=f"--task {' or '.join(known)}" if known else f"a network of another task than {card.task}",
        )
    if task is None and card.task not in known:  # neither is the whole
        raise UsageError(
            f"{card.name} has two encoders, each with a file of its own", hint=f"--task {' or '.join(known)}"
        )
    return task or known[0]


def _refuse_reduced(task: str, format: str, dtype: str, data: str | None) -> None:
    """What can be told to be wrong about the type.

    Raises:
        UsageError: See `export`.
    """
    if dtype not in DTYPES[format]:
        raise UsageError(f"no {dtype} in {format} files", hint=", ".join(DTYPES[format]))
    if dtype != "float32" and (data is None or task != "classify"):
        raise UsageError(
            f"{dtype} loses accuracy; a set has to say how much", hint="a classifier, and --data-set cifar10 --data DIR"
        )


def to_onnx(
    program: torch.export.ExportedProgram,
    facts: Mapping[str, Any],
    opset: int | None = None,
    names: tuple[str, str] = ("image", "logits"),
) -> bytes:
    """One ONNX file, weights inside, facts under the model's metadata properties: text as it is, the rest as JSON.

    Args:
        program: The graph.
        facts: See `facts_of`.
        opset: Version of the operators.
        names: Of the input and of the output.

    Raises:
        UsageError: The installed packages do not write that version.
    """
    try:
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,  # it talks on stdout otherwise
            opset_version=opset,
            input_names=[names[0]],
            output_names=[names[1]],
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).partition("<class")[2] or str(error)
        raise UsageError(f"it cannot be written as ONNX: {reason[:300]}", hint="--format torch-export") from error
    proto = cast(torch.onnx.ONNXProgram, written).model_proto
    if opset not in (None, proto.opset_import[0].version):
        raise UsageError(f"this torch does not write opset {opset} for this network", hint="leave the opset out")
    for node in proto.graph.node:
        del node.metadata_props[:]  # torch's trace of where a node came from, a sixth of a small file
    del proto.graph.value_info[:]  # shapes that every runtime infers
    _scale_behind_relu(proto.graph)
    for value in (*proto.graph.input, *proto.graph.output):
        for side, name in zip(value.type.tensor_type.shape.dim, ("batch", "", "height", "width"), strict=False):
            if side.dim_param:
                side.dim_param = name
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


def facts_of(
    card: Card, model: nn.Module, checkpoint_path: Path | None = None, part: Part | None = None
) -> dict[str, Any]:
    """What whoever runs the file has to know: preprocessing, labels, name, licence, arithmetic.

    Args:
        card: The checkpoint's card.
        model: The network, or what one modality needs of it.
        checkpoint_path: Where its weights came from, if not from the card.
        part: What is written of it, where that is not the whole.
    """
    facts: dict[str, Any] = {
        "name": card.name,
        "task": card.task,
        "summary": card.summary,
        "license": card.license,
        "made_by": f"zoo {zoo.__version__}, torch {torch.__version__}",
    }
    if part is None or not part.words:
        facts |= {
            "input_size": card.input.size,
            "pixels": "RGB from 0 to 1, minus mean, divided by std; batch, channel, row, column",
            "mean": card.input.mean,
            "std": card.input.std,
            "interpolation": card.input.interpolation,
            "crop_pct": card.input.crop_pct,
            "crop_mode": card.input.crop_mode,
        }
    facts |= part.facts if part else {}
    labels = class_names(card, checkpoint_path)
    if labels and len(labels) == getattr(model, "num_classes", 0):  # a checkpoint may have classes of its own
        facts["labels"] = labels
    if modality := getattr(model, "modality", None):
        facts["modality"] = modality
    digest = sha256_of(checkpoint_path) if checkpoint_path else card.weights.sha256
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
    for extra in NEEDS[format]:
        need(extra, f"{format} export")
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
