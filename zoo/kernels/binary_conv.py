"""Convolutions of signs from packed bits: XOR, popcount, and the norm or threshold behind them in one pass.

With bits 1 = +1 and 0 = -1 the product of two sign vectors is n - 2 popcount(a xor w). What zero padding contributes,
neither +1 nor -1 but nothing, is put right exactly in the starting value of the sum, which depends on the border only.

Maps are (B, H, W, C) here. Bits of a map are uint8 (B, H + 2 border, W + 2 border, ceil(C/8)) with zeros in the
border, bit c % 8 of byte c // 8 is channel c. `load` in `zoo.kernels.native` says whether these functions can run on
this machine; their plain twin is `zoo.layers.binary.BinaryConv2d`, the float simulation.

The functions are registered as torch operators under `torch.ops.zoo`, with shapes for tracing.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.kernels import native

__all__ = ["Taps", "borders", "conv_add", "conv_count", "conv_sign", "lay_out", "norm_", "pack_signs"]

LANES = 8
SLACK = 8  # the last word of the last row may reach that far beyond the map
SPLIT = 1 << 18  # below that many vector operations, waking a second thread costs more than it saves


class Taps(NamedTuple):
    """Weights of one convolution as the kernels read them; output channels are filled up to a multiple of 8.

    `weight` int64 (OC/8, kh, words, 8), `mask` int64 (words,), `sums` int32 (kh, kw, OC): over the input channels of
    a tap.
    """

    weight: Tensor
    mask: Tensor
    sums: Tensor


class Borders(NamedTuple):
    """What the sums start from: `base` int32 (row kinds, column kinds, OC), found by `rows` (OH,) + `columns` (OW,)."""

    base: Tensor
    rows: Tensor
    columns: Tensor


def lay_out(packed: Tensor, in_channels: int) -> Taps:
    """Weights of `reste-packed-v1`, uint8 (OC, kh, kw, ceil(IC/8)), in the kernels' order."""
    out, _, kw, _ = packed.shape
    counts = torch.arange(256, dtype=torch.uint8).unsqueeze(-1).bitwise_right_shift(torch.arange(8, dtype=torch.uint8))
    ones = counts.bitwise_and(1).sum(-1, dtype=torch.int32)[packed.int()].sum(-1, dtype=torch.int32)
    fill = -out % LANES
    sums = torch.nn.functional.pad(2 * ones - in_channels, (0, 0, 0, 0, 0, fill)).permute(1, 2, 0).contiguous()
    runs = packed.flatten(2)  # (OC, kh, bytes under a kernel row)
    mask = torch.full((1, runs.shape[-1]), 255, dtype=torch.uint8)
    if in_channels % 8:
        mask[0, runs.shape[-1] // kw - 1 :: runs.shape[-1] // kw] = (1 << in_channels % 8) - 1
    wide = -runs.shape[-1] % 8
    words = torch.nn.functional.pad(runs, (0, wide, 0, 0, 0, fill)).contiguous().view(torch.int64)
    mask = torch.nn.functional.pad(mask, (0, wide)).view(torch.int64).flatten()
    return Taps(words.view(-1, LANES, *words.shape[1:]).permute(0, 2, 3, 1).contiguous(), mask, sums)


def borders(sums: Tensor, in_channels: int, height: int, width: int, stride: int, padding: int) -> Borders:
    """Starting values for maps of one size: all products +1, and what lies outside counted as nothing.

    Args:
        sums: Of `Taps`.
        in_channels: Channels of the input.
        height: Rows of the input, without border.
        width: Columns of the input.
        stride: Step of the kernel.
        padding: Border of zeros.

    Raises:
        ValueError: The kernel is larger than the padded map.
    """
    kh, kw, out = sums.shape
    valid_rows = _inside(height, kh, stride, padding)
    valid_columns = _inside(width, kw, stride, padding)
    kinds_y, rows = torch.unique(valid_rows, dim=0, return_inverse=True)  # (kinds, kh), (OH,)
    kinds_x, columns = torch.unique(valid_columns, dim=0, return_inverse=True)
    outside = 1 - kinds_y[:, None, :, None] * kinds_x[None, :, None, :]  # (row kinds, column kinds, kh, kw)
    # border bits are 0, that is -1: each outside tap has put -sums into the product
    base = kh * kw * in_channels + (outside.flatten(2).double() @ sums.flatten(0, 1).double())
    return Borders(base.to(torch.int32).contiguous(), rows * len(kinds_x) * out, columns * out)


def _inside(size: int, kernel: int, stride: int, padding: int) -> Tensor:
    """(positions, kernel): 1 where a tap lies on the map."""
    count = (size + 2 * padding - kernel) // stride + 1
    if count < 1:
        raise ValueError(f"a kernel of {kernel} does not fit {size} pixels with padding {padding}")
    at = torch.arange(count).unsqueeze(1) * stride - padding + torch.arange(kernel)
    return ((at >= 0) & (at < size)).long()


def _blank(batch: int, height: int, width: int, channels: int, border: int) -> Tensor:
    shape = (batch, height + 2 * border, width + 2 * border, -(-channels // 8))
    count = shape[0] * shape[1] * shape[2] * shape[3]
    return torch.zeros(count + SLACK, dtype=torch.uint8)[:count].view(shape)


def _readable(bits: Tensor) -> Tensor:
    """The bits where the kernels may read a word beyond the last row."""
    if bits.is_contiguous() and bits.untyped_storage().nbytes() - bits.storage_offset() >= bits.numel() + SLACK:
        return bits
    copy = torch.zeros(bits.numel() + SLACK, dtype=torch.uint8)[: bits.numel()].view(bits.shape)
    return copy.copy_(bits)


@functools.cache
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="zoo-kernels")


def _spread(run: Callable[[int, int], None], pixels: int, cost: int) -> None:
    """Run over all pixels, on torch's number of threads when it is worth it. The kernels release the GIL."""
    threads = min(torch.get_num_threads(), pixels * cost // SPLIT, pixels // 16)
    if threads < 2:
        run(0, pixels)
        return
    edges = [pixels * i // threads for i in range(threads + 1)]
    pool = _pool(os.getpid(), torch.get_num_threads() - 1)  # threads do not survive a fork
    others = [pool.submit(run, first, end) for first, end in pairwise(edges[1:])]
    run(0, edges[1])
    for other in others:
        other.result()


def _bits_args(bits: Tensor, border: int) -> tuple[int, ...]:
    _, rows, columns, size = bits.shape
    return bits.data_ptr(), rows * columns * size, columns * size, size, border * (columns + 1) * size


def _conv(
    name: str,
    x: Tensor,
    taps: Taps,
    edge: Borders,
    stride: int,
    cpu: str | None,
    outs: tuple[int, ...],
    rest: tuple[int, ...],
) -> None:
    kernels = native.load(cpu)
    if x.dtype != torch.uint8 or x.device.type != "cpu":
        raise ValueError(f"bits are uint8 on the CPU; these are {x.dtype} on {x.device}")
    batch, rows, columns, size = x.shape
    blocks, kernel_rows, words, _ = taps.weight.shape
    out_height, out_width = edge.rows.numel(), edge.columns.numel()
    pointers = tuple(t.data_ptr() for t in (x, taps.weight, taps.mask, edge.base, edge.rows, edge.columns))
    row = columns * size
    shape = (
        out_height * out_width,
        out_width,
        rows * row,
        stride * row,
        stride * size,
        row,
        kernel_rows,
        words,
        blocks,
    )

    def run(first: int, end: int) -> None:
        kernels(name, *pointers, first, end, *shape, *outs, *rest)

    _spread(run, batch * out_height * out_width, kernel_rows * words * blocks)


NONE = (0, 0, 0, 0, 0)  # no bits wanted


def conv_count(x: Tensor, taps: Taps, edge: Borders, stride: int, *, cpu: str | None = None) -> Tensor:
    """Integer accumulators int32 (B, OH, OW, OC), OC filled up to a multiple of 8.

    Args:
        x: Bits of the input, with the convolution's padding as border.
        taps: Weights.
        edge: `borders` for the size of the input.
        stride: Step of the kernel.
        cpu: See `native.load`.
    """
    x = _readable(x)
    out = torch.empty((len(x), edge.rows.numel(), edge.columns.numel(), taps.sums.shape[-1]), dtype=torch.int32)
    _conv("conv_count", x, taps, edge, stride, cpu, (out.data_ptr(), *NONE), (0,) * 9)
    return out


def conv_sign(
    x: Tensor,
    taps: Taps,
    edge: Borders,
    stride: int,
    lower: Tensor,
    flip: Tensor,
    border: int,
    *,
    cpu: str | None = None,
) -> Tensor:
    """Bits of the output where the norm's sign is all that is needed: (acc >= lower) != flip.

    Args:
        x: Bits of the input, with the convolution's padding as border.
        taps: Weights.
        edge: `borders` for the size of the input.
        stride: Step of the kernel.
        lower: int32 (OC,), filled up to a multiple of 8 with the largest int32.
        flip: uint8 (OC/8,), a bit a channel.
        border: Of the bits that come back.
        cpu: See `native.load`.
    """
    x = _readable(x)
    bits = _blank(len(x), edge.rows.numel(), edge.columns.numel(), taps.sums.shape[-1], border)
    outs = (0, *_bits_args(bits, border))
    _conv("conv_sign", x, taps, edge, stride, cpu, outs, (lower.data_ptr(), flip.data_ptr(), *(0,) * 7))
    return bits


def conv_add(
    x: Tensor,
    taps: Taps,
    edge: Borders,
    stride: int,
    scale: Tensor,
    affine: Tensor,
    skip: Tensor | None,
    skip_affine: Tensor | None,
    border: int,
    *,
    out: Tensor | None = None,
    cpu: str | None = None,
) -> tuple[Tensor, Tensor, bool]:
    """relu(acc * scale) * alpha + beta + skip in float32 (B, OH, OW, OC), its bits (> 0), and whether any is exactly 0.

    Args:
        x: Bits of the input, with the convolution's padding as border.
        taps: Weights; OC a multiple of 8.
        edge: `borders` for the size of the input.
        stride: Step of the kernel.
        scale: float32 (1,).
        affine: float32 (2, OC), alpha and beta of the norm.
        skip: float32 (B, OH, OW, OC) to be added, contiguous.
        skip_affine: float32 (2, OC); skip * alpha + beta is added.
        border: Of the bits that come back.
        out: Where the floats go, contiguous.
        cpu: See `native.load`.

    Raises:
        ValueError: A map or coefficient has another shape or dtype.
    """
    x = _readable(x)
    shape = (len(x), edge.rows.numel(), edge.columns.numel(), taps.sums.shape[-1])
    out = torch.empty(shape) if out is None else out
    for tensor in (out, skip):
        if tensor is not None and (
            tensor.shape != shape or not tensor.is_contiguous() or tensor.dtype != torch.float32
        ):
            raise ValueError(
                f"a float32 map {shape} is needed, contiguous; this is {tensor.dtype} {tuple(tensor.shape)}"
            )
    for tensor in (scale, affine, skip_affine):
        if tensor is not None and tensor.dtype != torch.float32:
            raise ValueError(f"the kernels calculate in float32; a coefficient is {tensor.dtype}")
    bits = _blank(*shape, border)
    outs = (out.data_ptr(), *_bits_args(bits, border))
    rest = (0, 0, scale.data_ptr(), affine[0].data_ptr(), affine[1].data_ptr())
    skips = 0 if skip is None else skip.data_ptr()
    folds = (0, 0) if skip_affine is None else (skip_affine[0].data_ptr(), skip_affine[1].data_ptr())
    zeros = ctypes.c_uint8(0)
    _conv("conv_add", x, taps, edge, stride, cpu, outs, (*rest, skips, *folds, ctypes.addressof(zeros)))
    return out, bits, zeros.value != 0


def pack_signs(x: Tensor, border: int, *, cpu: str | None = None) -> tuple[Tensor, bool]:
    """Bits (x > 0) of a float32 map (B, H, W, C) with a border of zeros around, and whether any x is exactly 0.

    Raises:
        ValueError: Another dtype or device.
    """
    kernels = native.load(cpu)
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise ValueError(f"signs are taken of float32 on the CPU; this is {x.dtype} on {x.device}")
    fill = -x.shape[-1] % LANES
    x = torch.nn.functional.pad(x, (0, fill), value=-1.0).contiguous() if fill else x.contiguous()
    batch, height, width, channels = x.shape
    bits = _blank(batch, height, width, channels, border)
    zeros = ctypes.c_uint8(0)
    places = (height * width, width, channels // LANES, *_bits_args(bits, border), ctypes.addressof(zeros))
    _spread(
        lambda first, end: kernels("pack", x.data_ptr(), first, end, *places), batch * height * width, channels // 8
    )
    return bits, zeros.value != 0


def norm_(x: Tensor, affine: Tensor, *, cpu: str | None = None) -> Tensor:
    """relu(x) * alpha + beta in place, on a contiguous float32 map (B, H, W, C), C a multiple of 8.

    Raises:
        ValueError: Another kind of map.
    """
    kernels = native.load(cpu)
    if not x.is_contiguous() or x.dtype != torch.float32 or x.shape[-1] % LANES:
        raise ValueError(
            f"a contiguous float32 map with channels in eights is needed; this is {x.dtype} {tuple(x.shape)}"
        )
    blocks = x.shape[-1] // LANES
    ends = (blocks, affine[0].data_ptr(), affine[1].data_ptr())
    _spread(lambda first, end: kernels("norm", x.data_ptr(), first, end, *ends), x.numel() // x.shape[-1], blocks)
    return x


def _register() -> None:
    """Make `pack_signs`, `binary_conv2d`, `binary_conv2d_sign` and `binary_conv2d_add` of `torch.ops.zoo`."""
    ops = torch.library.Library("zoo", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch does not annotate it
    weight = "Tensor x, Tensor weight, Tensor mask, Tensor sums, Tensor base, Tensor rows, Tensor columns, int stride"

    def parts(weight: Tensor, mask: Tensor, sums: Tensor, *edge: Tensor) -> tuple[Taps, Borders]:
        return Taps(weight, mask, sums), Borders(*edge)

    def count(x: Tensor, *rest: Any) -> Tensor:
        return conv_count(x, *parts(*rest[:6]), rest[6])

    def sign(x: Tensor, *rest: Any) -> Tensor:
        return conv_sign(x, *parts(*rest[:6]), *rest[6:])

    def add(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        out, bits, zeros = conv_add(x, *parts(*rest[:6]), *rest[6:])
        return out, bits, torch.tensor(zeros)

    def shape(x: Tensor, rest: tuple[Any, ...]) -> tuple[int, int, int, int]:
        return len(x), rest[4].shape[0], rest[5].shape[0], rest[2].shape[-1]

    def blank(x: Tensor, size: tuple[int, int, int, int], border: int) -> Tensor:
        batch, height, width, channels = size
        shape = (batch, height + 2 * border, width + 2 * border, -(-channels // 8))
        return x.new_empty(shape, dtype=torch.uint8)

    def fake_add(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        size = shape(x, rest)
        return x.new_empty(size, dtype=torch.float32), blank(x, size, rest[-1]), x.new_empty((), dtype=torch.bool)

    for schema, run, fake in (
        (
            "pack_signs(Tensor x, int border) -> Tensor",
            lambda x, border: pack_signs(x, border)[0],
            lambda x, border: blank(x, (x.shape[0], x.shape[1], x.shape[2], x.shape[3]), border),
        ),
        (
            f"binary_conv2d({weight}) -> Tensor",
            count,
            lambda x, *rest: x.new_empty(shape(x, rest), dtype=torch.int32),
        ),
        (
            f"binary_conv2d_sign({weight}, Tensor lower, Tensor flip, int border) -> Tensor",
            sign,
            lambda x, *rest: blank(x, shape(x, rest), rest[-1]),
        ),
        (
            f"binary_conv2d_add({weight}, Tensor scale, Tensor affine, Tensor? skip, Tensor? skip_affine, int border)"
            " -> (Tensor, Tensor, Tensor)",
            add,
            fake_add,
        ),
    ):
        ops.define(schema)  # type: ignore[no-untyped-call]  # nor this
        name = schema.partition("(")[0]
        ops.impl(name, run, "CPU")  # type: ignore[no-untyped-call]  # nor this
        torch.library.register_fake(f"zoo::{name}", fake, lib=ops)
    _LIBRARIES.append(ops)  # the operators live as long as this object


_LIBRARIES: list[torch.library.Library] = []
_register()
