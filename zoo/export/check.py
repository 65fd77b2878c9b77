"""Whether an exported file computes what its network computes, found by running both."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.errors import IntegrityError, UsageError, one_line
from zoo.layers.engine import FrozenBinaryConv2d, freeze

__all__ = ["BATCH_SIZES", "FORMATS", "Run", "check", "compare_outputs", "open_exported", "steady_pictures"]

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2", "openvino": ".xml"}
BATCH_SIZES = (1, 2, 5)

# Of the largest output, or of 1 where all are smaller. Runtimes sum in different orders: at most 3e-6 in the networks
# here, while one wrong sign among a ResNet-20's weights moved outputs by a hundred times what is allowed.
TOLERANCE = 1e-4

# A sign turns rounding into a jump: two correct float32 runtimes may find a binarised activation that is nearly 0 on
# different sides of it, and their outputs then differ by a hundred times the tolerance. A wider tolerance would hide
# real faults, so the pictures are chosen instead: ones on which every binarised activation is further from 0 than
# rounding reaches, told by float64. A layer's rounding errors are nearly normal; beyond six times their root mean
# square lies one in 10^9, and a picture has 10^5 to 10^7 activations, few of them near 0.
STEADY = 6.0
DRAWS = 200  # of ImageNet-sized pictures, one in two to four is steady; of CIFAR-sized ones nearly all are

Run = Callable[[Tensor], Tensor]


def check(path: Path, model: nn.Module, size: Sequence[int], *, batch_sizes: Sequence[int] = BATCH_SIZES) -> float:
    """The largest difference between the outputs of an exported file and those of its network, over some batch sizes.

    Args:
        path: What `zoo.export.export` wrote.
        model: The network that it was made from, evaluating, in float32 on the CPU.
        size: (C, H, W) of its input.
        batch_sizes: Pictures in each batch.

    Raises:
        IntegrityError: The file does not run, or its outputs are others than the network's.
        UsageError: No pictures were found on which two runtimes must agree.
    """
    pictures = steady_pictures(model, size, max(batch_sizes))
    return compare_outputs(open_exported(path), model, pictures, batch_sizes)


def open_exported(path: Path) -> Run:
    """What runs an exported file on the CPU: `.onnx` in onnxruntime, `.pt2` in torch, `.xml` in OpenVINO.

    Raises:
        IntegrityError: It cannot be opened.
    """
    try:
        return {".onnx": _onnx, ".pt2": _torch_export, ".xml": _openvino}[path.suffix](path)
    except Exception as error:  # each runtime raises kinds of its own, onnxruntime eleven
        raise IntegrityError(
            f"the exported file cannot be opened: {one_line(error)}", hint="export it again"
        ) from error


@torch.inference_mode()
def compare_outputs(run: Run, model: nn.Module, pictures: Tensor, batch_sizes: Sequence[int]) -> float:
    """The largest difference between what `run` and a network make of the same batches.

    Args:
        run: Takes a batch and gives outputs.
        model: The network.
        pictures: (N, C, H, W), steady; a batch takes the last ones.
        batch_sizes: Pictures in each batch.

    Raises:
        IntegrityError: `run` fails, or the difference is more than rounding.
    """
    largest = 0.0
    for count in batch_sizes:
        batch = pictures[-count:]
        expected = model(batch)
        try:
            found = run(batch)
        except Exception as error:  # as above
            raise IntegrityError(
                f"the exported file does not run on a batch of {count}: {one_line(error)}", hint="export it again"
            ) from error
        if found.shape != expected.shape:
            raise IntegrityError(
                f"the exported file gives {tuple(found.shape)} for a batch of {count}, "
                f"the network {tuple(expected.shape)}",
                hint="it is of another network; export it again",
            )
        difference, scale = float((found - expected).abs().max()), max(1.0, float(expected.abs().max()))
        if not difference <= TOLERANCE * scale:  # the other way round, not a number would pass
            raise IntegrityError(
                f"the exported file's outputs differ from the network's by {difference:.2g} on a batch of {count}, "
                f"where rounding explains {TOLERANCE * scale:.2g}",
                hint="do not use it; try another version of torch or of the runtime",
            )
        largest = max(largest, difference)
    return largest


@torch.inference_mode()
def steady_pictures(model: nn.Module, size: Sequence[int], count: int) -> Tensor:
    """(N, C, H, W) of normal noise on which no sign of a network depends on rounding; always the same ones.

    Args:
        model: Evaluating, in float32 on the CPU.
        size: (C, H, W).
        count: N.

    Raises:
        UsageError: There are too few.
    """
    generator = torch.Generator().manual_seed(0)
    single = freeze(model)
    layers = [m for m in single.modules() if isinstance(m, FrozenBinaryConv2d) and m.act_bits == 1]
    if not layers:
        return torch.randn(count, *size, generator=generator)
    double = copy.deepcopy(single).double()
    found: list[Tensor] = []
    for _ in range(DRAWS):
        picture = torch.randn(1, *size, generator=generator)
        if _is_steady(_binarised(single, picture), _binarised(double, picture.double())):
            found.append(picture)
            if len(found) == count:
                return torch.cat(found)
    raise UsageError(
        f"of {DRAWS} random pictures {len(found)} keep all activations clear of 0; {count} are needed for the check",
        hint="a network whose signs hang on rounding gives other results in every runtime",
    )


def _binarised(network: nn.Module, x: Tensor) -> list[Tensor]:
    """What the binary layers take the sign of, layer by layer."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for module in network.modules()
        if isinstance(module, FrozenBinaryConv2d)
    ]
    network(x)
    for hook in hooks:
        hook.remove()
    return seen


def _is_steady(single: list[Tensor], double: list[Tensor]) -> bool:
    """Whether rounding leaves the sign of each activation alone.

    An exact 0 in both precisions counts as no rounding: a ReLU left it. Where a real convolution before the ReLU came
    within rounding of 0, that is wrong, and a good file may be refused; a bad one is not kept.
    """
    for low, high in zip(single, double, strict=True):
        reach = STEADY * (low - high).square().mean().sqrt()
        near = high.abs() <= reach
        if (near & ~((low == 0) & (high == 0))).any():
            return False
    return True


def _onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; its warnings go to stderr past Python
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _openvino(path: Path) -> Run:
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(core.read_model(path), "CPU", options)
    return lambda x: torch.from_numpy(compiled(x.numpy())[0].copy())


def _torch_export(path: Path) -> Run:
    return torch.export.load(path).module()
