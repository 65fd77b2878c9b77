"""Files with narrower numbers: INT8 for ONNX, bfloat16 for torch, and what that costs on real pictures."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.datasets import Pictures
from zoo.data.sources import Samples, aligned, array_samples, open_data
from zoo.data.transforms import Preprocess
from zoo.errors import IntegrityError
from zoo.export.check import Run
from zoo.registry.card import Card
from zoo.registry.labels import label_names

__all__ = ["Accuracy", "Bfloat16", "compare_accuracy", "pictures_of", "to_int8"]

CALIBRATION = 256  # pictures of the training part that say how large activations get
BATCH = 32


@dataclass(frozen=True)
class Accuracy:
    """What narrower numbers cost.

    Attributes:
        dataset: Set.
        count: Pictures of its test part.
        float32: Percentage of them that the network gets right.
        reduced: Percentage that the file gets right.
        agreement: Percentage on which both name the same class.
    """

    dataset: str
    count: int
    float32: float
    reduced: float
    agreement: float


class Bfloat16(nn.Module):
    """A network in bfloat16 that takes and gives float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.to(torch.bfloat16)).float()


def pictures_of(card: Card, data: str, split: str, root: Path | None) -> Samples:
    """One part of a set, its classes numbered as the card's.

    Raises:
        InputError: It is not there.
        UsageError: It has other classes.
    """
    found = open_data(data, split, root)
    if card.labels:
        found = aligned(found, label_names(card.labels), data)
    return array_samples(found) if isinstance(found, Pictures) else found


def to_int8(onnx: bytes, card: Card, training: Samples) -> bytes:
    """An ONNX file whose convolutions and products are in 8-bit integers, weights with a scale a channel.

    Args:
        onnx: The file in float32.
        card: Says how pictures are prepared.
        training: Pictures that say how large activations get; the first 256 of a fixed order are looked at.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))[:CALIBRATION]
    batches = _batches(training[order.sort().values], Preprocess(card.input))

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def get_next(self) -> dict[str, Any] | None:
            found = next(batches, None)
            return found and {"image": found[0].numpy()}

    with tempfile.TemporaryDirectory() as folder:
        source, ready, target = (Path(folder) / f"{name}.onnx" for name in ("float", "ready", "int8"))
        source.write_bytes(onnx)
        # its optimisation would multiply scales into binary weights; see `to_onnx`
        quant_pre_process(source, ready, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            ready,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        )
        return _with_facts_of(onnx, target.read_bytes())


@torch.inference_mode()
def compare_accuracy(run: Run, model: nn.Module, card: Card, data: str, test: Samples, *, max_drop: float) -> Accuracy:
    """What a file gets right beside what its network gets right.

    Args:
        run: The file's outputs.
        model: The network, evaluating, in float32.
        card: Says how pictures are prepared.
        data: Name of the set.
        test: Its test part.
        max_drop: Points of top-1 that the file may lose.

    Raises:
        IntegrityError: It loses more.
    """
    right = reduced = same = 0
    for x, labels in _batches(test, Preprocess(card.input)):
        expected, found = model(x).argmax(1), run(x).argmax(1)
        right += int((expected == labels).sum())
        reduced += int((found == labels).sum())
        same += int((expected == found).sum())
    share = 100 / len(test)
    if share * (right - reduced) > max_drop:
        raise IntegrityError(
            f"the reduced file is right on {share * reduced:.2f}% of {data}, the network on {share * right:.2f}%",
            hint=f"it may lose {max_drop:g} points; --max-drop allows more",
        )
    return Accuracy(data, len(test), share * right, share * reduced, share * same)


def _batches(samples: Samples, preprocess: Preprocess) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, C, H, W) and labels (B,)."""
    for start in range(0, len(samples), BATCH):
        rows = range(start, min(start + BATCH, len(samples)))
        pictures = torch.stack([torch.from_numpy(preprocess.crop(samples.image(row)).copy()) for row in rows])
        yield preprocess.normalise(pictures), samples.labels[start : start + BATCH]


def _with_facts_of(onnx: bytes, reduced: bytes) -> bytes:
    """The metadata of one file in the other."""
    from onnx import load_model_from_string

    proto = load_model_from_string(reduced)
    del proto.metadata_props[:]
    proto.metadata_props.extend(load_model_from_string(onnx).metadata_props)
    return proto.SerializeToString()
