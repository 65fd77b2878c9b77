"""Binary networks that run from packed bits, equal to their float simulation.

These are its parts; `zoo.layers.engine` puts them together.

How equality comes about: accumulators are integers in both. Behind them the kernels do what torch does, operation by
operation: multiply by the scale, ReLU, norm as one multiply-add with torch's own coefficients and rounding, addition
of the skip. Where a sign follows a norm directly, its threshold is found with torch's norm itself. Real convolutions
are torch's in both, on channels-last maps; that is the memory format in which the float network gives the very same
floats. sign(0) is 0, which no bit can hold: the kernels report such activations, and the few maps that have any go
through the convolution twice, once with the zeros as +1 and once as -1, since sign is the mean of both.
"""

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.kernels import binary_conv as kernels
from zoo.layers.classifier import StagedClassifier
from zoo.layers.packing import pack_bits, unpack_bits

__all__ = [
    "AddNorm",
    "PackedBlock",
    "PackedChain",
    "PackedClassifier",
    "PackedConv2d",
    "PackedStage",
    "PackedStem",
    "SignNorm",
    "sign_norm",
]

CHUNK = 1 << 21  # bytes of a float map that a stage works on at a time, so that it stays in the second-level cache
NEVER = torch.iinfo(torch.int32).max


class ZeroOutput(ValueError):
    """A norm whose output can be exactly 0, such as a freshly initialised one."""


def norm_affine(norm: nn.Module) -> Tensor:
    """float32 (2, C): alpha and beta of an evaluating norm, as torch itself computes them.

    Raises:
        ValueError: The norm keeps no running statistics.
    """
    mean, var, weight, bias, eps = _norm_parts(norm)
    ones, zeros = torch.ones(1, len(mean)), torch.zeros(1, len(mean))
    alpha = F.batch_norm(ones, torch.zeros_like(mean), var, weight, torch.zeros_like(bias), eps=eps)
    return torch.cat([alpha, F.batch_norm(zeros, mean, var, weight, bias, eps=eps)])


def _norm_parts(norm: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        raise ValueError(f"{norm} cannot be folded; a batch norm with running statistics is needed")
    mean, var = norm.running_mean.detach().float(), norm.running_var.detach().float()
    weight = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().float()
    bias = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().float()
    return mean, var, weight, bias, norm.eps


def thresholds(norm: nn.Module, scale: Tensor, fan_in: int) -> tuple[Tensor, Tensor]:
    """`lower` int32 and `flip` bool, (C,): norm(relu(acc * scale)) > 0 exactly where (acc >= lower) != flip.

    Found by bisection over the integers with torch's norm itself, which is monotone in each channel.

    Args:
        norm: Batch norm behind the ReLU.
        scale: float32 (1,), positive.
        fan_in: |acc| is at most this.

    Raises:
        ZeroOutput: Some accumulator gives exactly 0, whose sign one bit cannot hold.
    """
    mean, var, weight, bias, eps = _norm_parts(norm)
    flip = weight < 0

    def value(acc: Tensor) -> Tensor:
        return F.batch_norm((acc.float() * scale).relu().unsqueeze(0), mean, var, weight, bias, eps=eps)[0]

    low = torch.full(mean.shape, -fan_in, dtype=torch.int32)  # the switch lies in [low, high]
    high = torch.full(mean.shape, fan_in + 1, dtype=torch.int32)
    while (low < high).any():
        middle = (low + high) >> 1
        reached = (value(middle) > 0) != flip
        high = torch.where(reached, middle, high)
        low = torch.where(reached, low, (middle + 1).minimum(high))
    around = torch.stack([low - 1, low]).clamp(-fan_in, fan_in)
    zero = [c for c in range(len(low)) if (value(around[0])[c] == 0) | (value(around[1])[c] == 0)]
    if zero:
        raise ZeroOutput(f"channels {zero[:4]} of a norm give exactly 0, whose sign one bit cannot hold")
    return low, flip


def _fill(values: Tensor, by: float) -> Tensor:
    return F.pad(values, (0, -values.shape[-1] % 8), value=by).contiguous()


def unpack_weight(packed: Tensor, in_channels: int) -> Tensor:
    """+1 and -1 as float32 (OC, IC, kh, kw) in channels-last order, by a table of the 256 bytes."""
    table = unpack_bits(torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1), 8).view(256, 8)
    return F.embedding(packed.int(), table).flatten(-2)[..., :in_channels].permute(0, 3, 1, 2)


class Signs(NamedTuple):
    """Signs of a map as bits: `low` for x > 0, `high` for x >= 0, which is None where no x is exactly 0."""

    low: Tensor
    high: Tensor | None = None


def take_signs(x: Tensor, border: int, cpu: str | None) -> Signs:
    """Signs of a float32 map (B, H, W, C), with a border around."""
    return _with_zeros(*kernels.pack_signs(x, border, cpu=cpu), x, border, cpu)


def _with_zeros(bits: Tensor, zeros: bool, x: Tensor, border: int, cpu: str | None) -> Signs:
    if not zeros:
        return Signs(bits)
    return Signs(bits, kernels.pack_signs(torch.where(x == 0, 1.0, x), border, cpu=cpu)[0])


class PackedConv2d(nn.Module):
    """`BinaryConv2d` for evaluation from packed weights.

    With 1-bit activations it counts bits. With real ones it saves memory only: the weights are unpacked in each call.

    Args:
        packed: uint8 (OC, kh, kw, ceil(IC/8)), see `zoo.layers.packing`.
        scale: float32, one number.
        in_channels: Channels of the input.
        stride: Step of the kernel.
        padding: Zeros around the input.
        act_bits: 1 or 32.
        cpu: See `zoo.kernels.native.load`.
    """

    scale: Tensor
    packed: Tensor

    def __init__(
        self,
        packed: Tensor,
        scale: Tensor,
        in_channels: int,
        stride: int = 1,
        padding: int = 0,
        *,
        act_bits: int = 1,
        cpu: str | None = None,
    ) -> None:
        super().__init__()
        out, kh, kw, size = packed.shape
        if packed.dtype != torch.uint8 or size != -(-in_channels // 8):
            raise ValueError(f"packed weights {packed.dtype} {tuple(packed.shape)} do not hold {in_channels} channels")
        if scale.numel() != 1 or not scale.isfinite().all() or not (scale > 0).all():
            raise ValueError(f"the scale is {scale.tolist()}; one positive number is needed")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out, (kh, kw)
        self.stride, self.padding, self.act_bits, self.target = stride, padding, act_bits, cpu
        self.register_buffer("scale", scale.detach().float().reshape(1))
        if act_bits == 1:
            taps = kernels.lay_out(packed, in_channels)
            for name, value in taps._asdict().items():
                self.register_buffer(f"tap_{name}", value)
            self._taps = taps
        else:
            self.register_buffer("packed", packed)
        self._borders: dict[tuple[int, int], kernels.Borders] = {}

    @property
    def fan_in(self) -> int:
        return self.in_channels * self.kernel_size[0] * self.kernel_size[1]

    def borders(self, height: int, width: int) -> kernels.Borders:
        """Starting sums for an input of this size, made once a size."""
        if (height, width) not in self._borders:
            if len(self._borders) > 64:  # pictures of ever new sizes
                self._borders.clear()
            sums = self._taps.sums
            made = kernels.borders(sums, self.in_channels, height, width, self.stride, self.padding)
            self._borders[height, width] = made
        return self._borders[height, width]

    def edge(self, bits: Tensor) -> kernels.Borders:
        """`borders` for bits that carry the padding around them."""
        return self.borders(bits.shape[1] - 2 * self.padding, bits.shape[2] - 2 * self.padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.act_bits != 1:
            return (
                F.conv2d(x, unpack_weight(self.packed, self.in_channels), None, self.stride, self.padding) * self.scale
            )
        acc = self.count(take_signs(x.permute(0, 2, 3, 1), self.padding, self.target))
        return acc[..., : self.out_channels].permute(0, 3, 1, 2) * self.scale

    def count(self, signs: Signs) -> Tensor:
        """Integer accumulators int32 (B, OH, OW, OC), OC filled up to a multiple of 8."""
        edge = self.edge(signs.low)
        acc = kernels.conv_count(signs.low, self._taps, edge, self.stride, cpu=self.target)
        if signs.high is None:
            return acc
        return (
            acc + kernels.conv_count(signs.high, self._taps, edge, self.stride, cpu=self.target)
        ) >> 1  # the sum is even

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, act_bits={self.act_bits}"


class SignNorm(nn.Module):
    """A packed convolution, ReLU and norm of which only the sign is wanted: one threshold a channel.

    Args:
        conv: 1-bit activations.
        norm: Batch norm behind the ReLU.
    """

    lower: Tensor
    negative: Tensor
    flip: Tensor

    def __init__(self, conv: PackedConv2d, norm: nn.Module) -> None:
        super().__init__()
        lower, flip = thresholds(norm, conv.scale, conv.fan_in)
        self.conv = conv
        self.register_buffer("lower", _fill(lower, NEVER))
        self.register_buffer("negative", flip)
        self.register_buffer("flip", pack_bits(flip.float().view(1, -1, 1, 1)).flatten())

    def forward(self, signs: Signs, border: int) -> Signs:
        conv = self.conv
        if signs.high is not None:
            above = (conv.count(signs) >= self.lower) != self.negative
            return Signs(kernels.pack_signs(above.float(), border, cpu=conv.target)[0])
        edge = conv.edge(signs.low)
        bits = kernels.conv_sign(
            signs.low, conv._taps, edge, conv.stride, self.lower, self.flip, border, cpu=conv.target
        )
        return Signs(bits)


class AddNorm(nn.Module):
    """A packed convolution, ReLU, norm and the addition of a skip: floats and their signs.

    Args:
        conv: 1-bit activations, output channels in eights.
        norm: Batch norm behind the ReLU.
        skip_norm: Batch norm that the skip still has to go through.
    """

    affine: Tensor
    skip_affine: Tensor | None

    def __init__(self, conv: PackedConv2d, norm: nn.Module, skip_norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("affine", norm_affine(norm))
        self.register_buffer("skip_affine", None if skip_norm is None else norm_affine(skip_norm))

    def forward(
        self, signs: Signs, border: int, skip: Tensor | None = None, out: Tensor | None = None
    ) -> tuple[Tensor, Signs]:
        conv = self.conv
        if signs.high is None:
            edge = conv.edge(signs.low)
            ends = (conv.scale, self.affine, skip, self.skip_affine, border)
            out, bits, zeros = kernels.conv_add(
                signs.low, conv._taps, edge, conv.stride, *ends, out=out, cpu=conv.target
            )
            return out, _with_zeros(bits, zeros, out, border, conv.target)
        y = kernels.norm_(conv.count(signs) * conv.scale, self.affine, cpu=conv.target)
        if skip is not None:
            y += skip if self.skip_affine is None else _affine(skip, self.skip_affine)
        out = y if out is None else out.copy_(y)
        return out, take_signs(out, border, conv.target)


def _affine(x: Tensor, affine: Tensor) -> Tensor:
    """Multiply-add over the last dimension, rounded as a norm does it."""
    alpha, beta = affine
    y = F.batch_norm(x.flatten(0, -2), torch.zeros_like(alpha), torch.ones_like(alpha), alpha, beta, eps=0.0)
    return y.view(x.shape)


def sign_norm(conv: PackedConv2d, norm: nn.Module) -> SignNorm | AddNorm:
    """Thresholds where the norm allows it; where an accumulator can give exactly 0, floats whose zeros are seen."""
    try:
        return SignNorm(conv, norm)
    except ZeroOutput:
        return AddNorm(conv, norm)


def signs_behind(layer: SignNorm | AddNorm, signs: Signs, border: int) -> Signs:
    """Signs of a layer's output, whichever way it makes them."""
    return layer(signs, border) if isinstance(layer, SignNorm) else layer(signs, border)[1]


class PackedBlock(nn.Module):
    """A residual block on (B, H, W, C) floats and their bits.

    Args:
        block: With `conv1 bn1 conv2 bn2 downsample two_skips`, as in `zoo.models.reste`.
        convs: Its two convolutions, packed.
    """

    def __init__(self, block: nn.Module, convs: tuple[PackedConv2d, PackedConv2d]) -> None:
        super().__init__()
        downsample = block.get_submodule("downsample")
        norms = block.get_submodule("bn1"), block.get_submodule("bn2")
        skip_norm = None
        self.downsample: nn.Module | None = None if isinstance(downsample, nn.Identity) else downsample
        if isinstance(downsample, nn.Sequential):
            self.downsample, skip_norm = cast(tuple[nn.Module, nn.Module], tuple(downsample))
        self.two_skips = bool(block.two_skips)
        if self.two_skips:
            self.first: SignNorm | AddNorm = AddNorm(convs[0], norms[0], skip_norm)
            self.second = AddNorm(convs[1], norms[1])
        else:
            self.first = sign_norm(convs[0], norms[0])
            self.second = AddNorm(convs[1], norms[1], skip_norm)

    def shortcut(self, x: Tensor) -> Tensor:
        """What is added behind the first (two skips) or second convolution; its norm is folded into the addition."""
        if self.downsample is None:
            return x
        return self.downsample(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()

    def forward(self, signs: Signs, skip: Tensor, out: Tensor | None) -> tuple[Tensor, Signs]:
        between = self.second.conv.padding
        if self.two_skips:
            skip, signs = self.first(signs, between, skip)
        else:
            signs = signs_behind(self.first, signs, between)
        return self.second(signs, self.first.conv.padding, skip, out)  # blocks begin alike


class PackedStage(nn.Module):
    """Residual blocks on (B, C, H, W) floats, a few images at a time.

    Args:
        blocks: At least one.
    """

    def __init__(self, blocks: Iterable[PackedBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1).contiguous()
        first = cast(PackedBlock, self.blocks[0])
        # Of the whole batch, like the float network: in which order torch's convolution sums depends on the batch.
        skip = first.shortcut(x)
        out = torch.empty_like(skip)
        step = max(1, CHUNK // (4 * max(x.shape[1:].numel(), out.shape[1:].numel())))
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            self._run(x[part], skip[part], out[part])
        return out.permute(0, 3, 1, 2)

    def _run(self, x: Tensor, skip: Tensor, out: Tensor) -> None:
        first = cast(PackedBlock, self.blocks[0])
        signs = take_signs(x, first.first.conv.padding, first.first.conv.target)
        for i, block in enumerate(cast(Iterable[PackedBlock], self.blocks)):
            skip = skip if i == 0 else block.shortcut(x)
            x, signs = block(signs, skip, out if i == len(self.blocks) - 1 else None)


class PackedChain(nn.Module):
    """Convolutions one behind the other and a 2x2 max-pool, on (B, C, H, W) floats.

    Args:
        signs: All convolutions but the last.
        last: The last one.
    """

    def __init__(self, signs: Iterable[SignNorm | AddNorm], last: AddNorm) -> None:
        super().__init__()
        self.signs = nn.ModuleList(signs)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        layers = cast(list[SignNorm | AddNorm], list(self.signs))
        convs = [*(layer.conv for layer in layers), self.last.conv]
        x = x.permute(0, 2, 3, 1).contiguous()
        maps = []
        step = max(1, CHUNK // (4 * x.shape[1:3].numel() * convs[-1].out_channels))
        for start in range(0, max(1, len(x)), step):
            signs = take_signs(x[start : start + step], convs[0].padding, convs[0].target)
            for layer, behind in zip(layers, convs[1:], strict=True):
                signs = signs_behind(layer, signs, behind.padding)
            y, _ = self.last(signs, 0)
            maps.append(F.max_pool2d(y.permute(0, 3, 1, 2), 2))
        return maps[0] if len(maps) == 1 else torch.cat(maps)


class PackedStem(nn.Module):
    """Real convolution, ReLU, norm and perhaps a max-pool.

    Args:
        conv: torch's convolution.
        norm: Batch norm behind the ReLU.
        pool: Identity or a max-pool.
        cpu: See `zoo.kernels.native.load`.
    """

    affine: Tensor

    def __init__(self, conv: nn.Module, norm: nn.Module, pool: nn.Module, cpu: str | None) -> None:
        super().__init__()
        self.conv, self.pool, self.target = conv, pool, cpu
        self.register_buffer("affine", norm_affine(norm))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1).contiguous()
        return self.pool(kernels.norm_(x, self.affine, cpu=self.target).permute(0, 3, 1, 2))


class PackedClassifier(StagedClassifier):
    """A ReSTE network for evaluation on the CPU, packed; made by `to_packed`.

    Args:
        model: Gives the description that timm's interface needs, and what follows the last stage.
        stem: Image to the first stage's input.
        stages: In the order of `model.feature_info`.
        fc: The linear head.
        head_norm: Norm between the global mean and the head; None flattens the map instead.
    """

    def __init__(
        self,
        model: StagedClassifier,
        stem: nn.Module,
        stages: Iterable[nn.Module],
        fc: nn.Module,
        head_norm: nn.Module | None,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features = model.num_classes, model.num_features
        self.head_hidden_size, self.feature_info = model.head_hidden_size, model.feature_info
        self.pretrained_cfg = getattr(model, "pretrained_cfg", None)
        self.stem = stem
        for info, stage in zip(self.feature_info, stages, strict=True):
            self.add_module(str(info["module"]), stage)
        self.head_norm = head_norm
        self.fc = cast(nn.Linear, fc)

    def forward_stem(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def pool(self, x: Tensor) -> Tensor:
        if self.head_norm is not None:
            return self.head_norm(x.mean((2, 3)))
        x = x.flatten(1)
        if x.shape[1] != self.head_hidden_size:
            raise ValueError(f"the last map has {x.shape[1]} values; the head takes {self.head_hidden_size}")
        return x

    def train(self, mode: bool = True) -> "PackedClassifier":
        if mode:
            raise ValueError("a packed network only evaluates; train the float one and pack it again")
        return super().train(False)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)
