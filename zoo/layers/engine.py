"""What runs a binary network: packed bits or float simulation, and how a network becomes one or the other.

`prepare` is the entry: it chooses an engine for a model and says why. `to_packed` makes the packed network alone, from
a loaded model or straight from a packed state, whose weights are then never unpacked.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import settings
from zoo.kernels import int8_conv, native
from zoo.layers.binary import BinaryConv2d
from zoo.layers.classifier import StagedClassifier
from zoo.layers.packed import (
    AddNorm,
    PackedBlock,
    PackedChain,
    PackedClassifier,
    PackedConv2d,
    PackedStage,
    PackedStem,
    sign_norm,
)
from zoo.layers.packing import pack_bits

__all__ = ["FrozenBinaryConv2d", "choose_engine", "freeze", "prepare", "to_packed"]

State = Mapping[str, Tensor]


class FrozenBinaryConv2d(nn.Module):
    """`BinaryConv2d` for evaluation in what torch brings: the signs of the weights and their scale are taken once.

    Binary activations in float32 on the CPU are convolved in 8-bit integers, which changes no bit of the result.

    Args:
        conv: Where the weights come from.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, conv: BinaryConv2d) -> None:
        super().__init__()
        self.act_bits, self.stride = conv.act_bits, cast(tuple[int, int], conv.stride)
        self.padding = cast(tuple[int, int], conv.padding)
        self.scale_in_weight = conv.scale_in_weight
        scale = conv.scale.detach()
        sign = conv.weight.detach().sign()
        self.register_buffer("weight", sign * scale if conv.scale_in_weight else sign)
        self.register_buffer("scale", scale)
        counts = (
            self.act_bits == 1 and not self.scale_in_weight and bool((sign != 0).all()) and sign.device.type == "cpu"
        )
        self._in_integers = (
            int8_conv.SignConv(sign, scale, self.stride, self.padding) if counts and int8_conv.is_available() else None
        )

    def forward(self, x: Tensor) -> Tensor:
        is_plain = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.compiler.is_compiling()
        if self._in_integers and is_plain:
            return self._in_integers(x)
        x = F.conv2d(x.sign() if self.act_bits == 1 else x, self.weight, None, self.stride, self.padding)
        return x if self.scale_in_weight else x * self.scale


def _twin(module: nn.Module) -> nn.Module:
    """A copy with modules of its own and the same memory behind its tensors, which ask for no gradient."""
    shared: dict[int, Tensor] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    shared.update((id(b), b.detach()) for b in module.buffers())
    return copy.deepcopy(module, shared)


class _Source:
    """Where the parts of a packed network come from: the modules of a model, or a packed state under its names."""

    def __init__(self, model: nn.Module, state: State | None, cpu: str | None) -> None:
        self.model, self.state, self.target = model, state, cpu

    def conv(self, name: str) -> PackedConv2d:
        module = self.model.get_submodule(name)
        if not isinstance(module, BinaryConv2d):
            raise ValueError(f"{name} is {type(module).__name__}, no binary convolution")
        if module.scale_in_weight:
            raise ValueError(f"{name} multiplies its scale into the weights; only the other order is exact in integers")
        if self.state is None:
            weight = module.weight.detach()
            if (weight == 0).any() or not weight.isfinite().all():
                raise ValueError(f"{name}.weight holds zeros or non-finite values, which have no sign")
            packed, scale = pack_bits(weight), module.scale.detach()
        else:
            packed, scale = self.take(f"{name}.weight_packed"), self.take(f"{name}.weight_scale")
            out, _, kh, kw = module.weight.shape
            if packed.shape[:3] != (out, kh, kw):
                raise ValueError(
                    f"{name}.weight_packed is {tuple(packed.shape)}; the network wants ({out}, {kh}, {kw}, ...)"
                )
        stride, padding = module.stride[0], cast(tuple[int, int], module.padding)[0]
        return PackedConv2d(
            packed, scale, module.in_channels, stride, padding, act_bits=module.act_bits, cpu=self.target
        )

    def take(self, name: str) -> Tensor:
        assert self.state is not None
        if name not in self.state:
            raise ValueError(f"the packed state has no {name}; it belongs to another architecture")
        return self.state[name]

    def real(self, name: str) -> nn.Module:
        """A module that stays as it is, with the state's tensors (in float32, norms exactly) in place of its own."""
        module = self.model.get_submodule(name)
        return (_twin(module) if self.state is None else self._loaded(name)).requires_grad_(False).eval()

    def _loaded(self, name: str) -> nn.Module:
        with torch.device("meta"):
            module = copy.deepcopy(self.model.get_submodule(name)).to("meta")
        own = {}
        for key, value in module.state_dict().items():
            if key.endswith("num_batches_tracked"):
                own[key] = torch.zeros((), dtype=torch.int64)
                continue
            own[key] = self.take(f"{name}.{key}").float()
            if own[key].shape != value.shape:
                raise ValueError(f"{name}.{key} is {tuple(own[key].shape)}; the network wants {tuple(value.shape)}")
        module.load_state_dict(own, assign=True)
        return module


def _is_residual(stage: nn.Module) -> bool:
    parts = ("conv1", "bn1", "conv2", "bn2", "downsample", "two_skips")
    return isinstance(stage, nn.Sequential) and all(hasattr(block, part) for block in stage for part in parts)


def _residual(source: _Source, name: str) -> PackedStage:
    blocks = []
    for i in range(len(cast(nn.Sequential, source.model.get_submodule(name)))):
        block = nn.Module()
        for part in ("bn1", "bn2", "downsample"):
            block.add_module(part, source.real(f"{name}.{i}.{part}"))
        block.two_skips = source.model.get_submodule(f"{name}.{i}").two_skips
        blocks.append(PackedBlock(block, (source.conv(f"{name}.{i}.conv1"), source.conv(f"{name}.{i}.conv2"))))
    return PackedStage(blocks)


def _chain(source: _Source, name: str) -> PackedChain:
    numbers = cast(tuple[int, ...], source.model.get_submodule(name).numbers)
    layers = [(source.conv(f"{name}.conv{n}"), source.real(f"{name}.bn{n}")) for n in numbers]
    return PackedChain((sign_norm(*layer) for layer in layers[:-1]), AddNorm(*layers[-1]))


def to_packed(model: nn.Module, state: State | None = None, *, cpu: str | None = None) -> nn.Module:
    """The packed network of an evaluating ReSTE network on the CPU.

    A classifier of `zoo.models.reste` with 1-bit activations becomes a `PackedClassifier`. In any other network, and
    with real activations, each `BinaryConv2d` becomes a `PackedConv2d` and the rest stays.

    Args:
        model: Loaded, or on the meta device (where only its shapes count) when a state is given.
        state: Packed state, see `zoo.layers.packing`; its weights are not unpacked, real tensors stay where they are,
            memory map included.
        cpu: See `zoo.kernels.native.load`.

    Raises:
        ValueError: The state does not fit the model, or a weight, scale or norm has no packed form.
    """
    source = _Source(model, state, cpu)
    convs = [(name, m) for name, m in model.named_modules() if isinstance(m, BinaryConv2d)]
    if not convs:
        raise ValueError(f"{type(model).__name__} has no binary convolution")
    fits = all(conv.act_bits == 1 and conv.in_channels % 8 == 0 and conv.out_channels % 8 == 0 for _, conv in convs)
    stem = ("conv1", "bn1") if hasattr(model, "conv1") else ("conv0", "bn0")
    if not fits or not isinstance(model, StagedClassifier) or not hasattr(model, stem[0]):
        return _replaced(source, [name for name, _ in convs])
    pool = source.real("maxpool") if hasattr(model, "maxpool") else nn.Identity()
    packed_stem = PackedStem(source.real(stem[0]), source.real(stem[1]), pool, cpu)
    stages = []
    for info in model.feature_info:
        name = str(info["module"])
        stages.append((_residual if _is_residual(model.get_submodule(name)) else _chain)(source, name))
    head_norm = source.real("head_norm") if hasattr(model, "head_norm") else None
    return PackedClassifier(model, packed_stem, stages, source.real("fc"), head_norm).requires_grad_(False).eval()


def _replaced(source: _Source, names: list[str]) -> nn.Module:
    """A copy of the model with its binary convolutions packed."""
    network = _twin(source.model)
    for name in names:
        network.set_submodule(name, source.conv(name))
    if source.state is not None:
        own = {}
        for key in network.state_dict():
            of_packed = any(key.startswith(f"{name}.") for name in names)
            if not of_packed:
                blank = key.endswith("num_batches_tracked")
                own[key] = torch.zeros((), dtype=torch.int64) if blank else source.take(key).float()
        network.load_state_dict(own, strict=False, assign=True)
    return network.requires_grad_(False).eval()


def freeze(model: nn.Module) -> nn.Module:
    """A copy whose binary convolutions keep the signs of their weights, for evaluation in plain torch.

    Same outputs, without the work of binarising the weights in each call.
    """
    network = _twin(model)
    for name, module in list(network.named_modules()):
        if isinstance(module, BinaryConv2d):
            network.set_submodule(name, FrozenBinaryConv2d(module))
    return network.eval()


def _binary_convs(model: nn.Module) -> Iterator[BinaryConv2d]:
    return (m for m in model.modules() if isinstance(m, BinaryConv2d))


def choose_engine(
    model: nn.Module, requested: str = "auto", *, device: str | torch.device = "cpu", cpu: str | None = None
) -> tuple[str, str]:
    """Name of the engine that will run a model, such as "packed (llvm, avx512-vpopcntdq)" or "float", and why.

    Args:
        model: Any network.
        requested: "auto", "float" or "packed"; "auto" asks `zoo.settings.engine`.
        device: Where it shall run.
        cpu: See `zoo.kernels.native.load`.

    Raises:
        ValueError: Another word.
    """
    if requested not in ("auto", "float", "packed"):
        raise ValueError(f"engine is {requested!r}; 'auto', 'float' and 'packed' exist")
    wanted = settings.engine() if requested == "auto" else requested
    first = next(_binary_convs(model), None)
    if first is None:
        return "float", "the network has no binary convolutions"
    if wanted == "float":
        return "float", "asked for"
    if torch.device(device).type != "cpu":
        return "float", f"packed kernels run on the CPU, not on {torch.device(device).type}"
    if first.weight.dtype != torch.float32:
        return "float", f"packed kernels calculate in float32, the network is {first.weight.dtype}"
    if first.act_bits != 1:
        if wanted == "packed":
            return "packed (weights only)", "activations are real: memory is saved, time is not"
        return "float", "activations are real, so packing would save memory only"
    try:
        return (
            f"packed (llvm, {native.load(cpu).instructions})",
            "bits are counted in integers, equal to the float network",
        )
    except native.NoKernels as error:
        return "float", str(error)


def prepare(
    model: nn.Module, engine: str = "auto", *, device: str | torch.device = "cpu", cpu: str | None = None
) -> tuple[nn.Module, str]:
    """A network that gives the same outputs as `model` in evaluation, fast, and a line that names engine and reason.

    A network without binary convolutions comes back as it is. Where packed kernels cannot run, the float engine does
    with the signs of the weights taken once.

    Args:
        model: Loaded and on `device`.
        engine: "auto", "float" or "packed".
        device: Where it runs.
        cpu: See `zoo.kernels.native.load`.

    Raises:
        ValueError: Another engine.
    """
    name, reason = choose_engine(model, engine, device=device, cpu=cpu)
    if name.startswith("packed"):
        try:
            return to_packed(model, cpu=cpu), f"{name}: {reason}"
        except ValueError as error:  # a network that bits cannot express, such as a freshly initialised one
            name, reason = "float", str(error)
    if next(_binary_convs(model), None) is None:
        return model, f"{name}: {reason}"
    return freeze(model), f"{name}: {reason}"
