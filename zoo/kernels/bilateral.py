"""Compiled loops of the pyramid texture filter: joint bilateral filter and banded resampling, float32 and float64.

Both work on strips of rows: what a strip needs is laid out anew, small enough for the cache, and strips are shared
among torch's number of threads. A result does not depend on how the rows are cut. The plain twins are
`zoo.layers.bilateral.joint_bilateral` and `zoo.layers.pyramid.resample`.
"""

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zoo.kernels.native import Kernels, compile_ir, host_features

__all__ = ["Engine", "joint_bilateral", "load", "resample"]

STRIP = 32  # rows laid out at a time
Array = NDArray[Any]
Band = tuple[Tensor, Tensor]  # `zoo.layers.pyramid.Band`

REALS = {torch.float32: "f32", torch.float64: "f64"}
NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
LOW = -2048.0  # an exponent below every `low` of the kernels
FAR = 64.0  # a scaled distance whose square is beyond `LOW`


class Engine(NamedTuple):
    """The kernels, single-precision lanes of their vectors, and rows of output that they work on at once."""

    kernels: Kernels
    lanes: int
    rows: int


@functools.cache
def load(cpu: str | None = None) -> Engine:
    """Compile once a process.

    Args:
        cpu: See `native.load`.

    Raises:
        NoKernels: The kernels cannot run here.
    """
    features = host_features()
    from zoo.kernels import emit_bilateral

    lanes, rows = (16, 2) if not cpu and features.get("avx512f") else (8, 1)  # as many as fit the vector registers
    made = emit_bilateral.module(lanes, rows)
    names = [function.name for function in made.functions if not function.is_declaration]
    return Engine(compile_ir(str(made), names, cpu), lanes, rows)


def joint_bilateral(
    image: Tensor, guide: Tensor, radius: int, sigma_s: float, sigma_r: float, *, cpu: str | None = None
) -> Tensor:
    """The filter of the plain twin.

    Args:
        image: (B, C, H, W) float32 or float64 on the CPU, C 1 or 3; the very tensor `guide` is filtered faster.
        guide: The same shape and dtype.
        radius: The window is 2 radius + 1 on a side.
        sigma_s: Standard deviation of the spatial weight in pixels.
        sigma_r: Standard deviation of the range weight.
        cpu: See `native.load`.

    Raises:
        NoKernels: They cannot run here.
        ValueError: Another kind of tensor.
    """
    _check(image, guide)
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    job = _Bilateral(load(cpu), image is guide, image.shape[1], image.dtype, radius, sigma_s, sigma_r)
    for arrays in zip(*(x.detach().numpy() for x in (image, guide, out)), strict=True):
        _over_strips(partial(job.strip, *arrays), image.shape[2])
    return out


def resample(x: Tensor, rows: Band, columns: Band, *, cpu: str | None = None) -> Tensor:
    """One banded matrix along the rows of (B, C, H, W), another along the columns.

    Raises:
        NoKernels: They cannot run here.
        ValueError: Not float32 or float64 on the CPU.
    """
    _check(x, x)
    kernels, lanes, _ = load(cpu)
    if x.shape[3] < lanes:  # a row fills a vector
        x = F.pad(x, (0, lanes - x.shape[3]))
    x = x.contiguous()
    out = x.new_empty((*x.shape[:2], len(rows[0]), len(columns[0])))
    (row_first, row_weight), (column_first, column_weight) = rows, columns
    row_weight, column_weight = (weight.to(x.dtype) for weight in (row_weight, column_weight))

    def run(plane: Array, target: Array, top: int, bottom: int) -> None:
        buffer = np.empty(x.shape[3], plane.dtype)
        kernels(
            f"resample_{REALS[x.dtype]}",
            plane.ctypes.data,
            plane.strides[0],
            plane.shape[1],
            target.ctypes.data,
            target.strides[0],
            target.shape[1],
            top,
            bottom,
            row_first.data_ptr(),
            row_weight.data_ptr(),
            row_weight.shape[1],
            column_first.data_ptr(),
            column_weight.data_ptr(),
            column_weight.shape[1],
            buffer.ctypes.data,
        )

    for plane, target in zip(*(tensor.detach().flatten(0, 1).numpy() for tensor in (x, out)), strict=True):
        _over_strips(partial(run, plane, target), len(target))
    return out


class _Bilateral:
    """One filter with its tables."""

    def __init__(
        self, engine: Engine, own: bool, channels: int, dtype: torch.dtype, radius: int, sigma_s: float, sigma_r: float
    ) -> None:
        self.kernels, self.rows = engine.kernels, engine.rows
        self.own = own
        self.name = f"bilateral_{'self' if own else 'joint'}{channels}_{REALS[dtype]}"
        self.vector = engine.lanes * 4 // dtype.itemsize
        self.radius = radius
        self.scale = math.sqrt(0.5 * math.log2(math.e)) / sigma_r
        squares = np.arange(-radius, radius + 1) ** 2
        exponents = (squares[:, None] + squares) * (-0.5 * math.log2(math.e) / sigma_s**2)
        above = ((self.rows - 1, self.rows - 1), (0, 0))
        self.spatial = np.pad(exponents, above, constant_values=LOW).astype(NUMPY[dtype])

    def strip(self, image: Array, guide: Array, out: Array, top: int, bottom: int) -> None:
        """Filter rows top to bottom of one picture (C, H, W)."""
        channels, height, width = image.shape
        first, last = max(0, top - self.radius), min(height, bottom + self.radius)
        blocks = -(-width // self.vector)
        size = (channels, last - first + self.rows, blocks * self.vector + 2 * self.radius)
        inner = (slice(None), slice(0, last - first), slice(self.radius, self.radius + width))
        near = guide[:, first:last] * self.scale
        padded = np.full(size, 2 * float(np.abs(near).max()) + FAR, near.dtype)
        padded[inner] = near
        values = padded
        if not self.own:
            values = np.zeros(size, image.dtype)
            values[inner] = image[:, first:last]
        filtered = np.empty((channels, bottom - top + self.rows, blocks * self.vector), image.dtype)
        self.kernels(
            self.name,
            padded.ctypes.data,
            values.ctypes.data,
            padded.strides[0],
            padded.strides[1],
            last - first,
            self.spatial.ctypes.data,
            self.radius,
            top - first,
            bottom - first,
            blocks,
            filtered.ctypes.data,
            filtered.strides[0],
            filtered.strides[1],
        )
        result = filtered[:, : bottom - top, :width]
        out[:, top:bottom] = result / self.scale if self.own else result


def _check(image: Tensor, guide: Tensor) -> None:
    if image.ndim != 4 or image.shape[1] not in (1, 3) or image.dtype not in REALS or image.device.type != "cpu":
        raise ValueError(
            f"(B, 1 or 3, H, W) of float32 or float64 on the CPU; this is {image.dtype} {tuple(image.shape)}"
        )
    if guide.shape != image.shape or guide.dtype != image.dtype or guide.device != image.device:
        raise ValueError(f"the guide is {guide.dtype} {tuple(guide.shape)}, the image {tuple(image.shape)}")


def _over_strips(run: Callable[[int, int], None], height: int) -> None:
    """Run over all rows, a strip at a time, on torch's number of threads. The kernels release the GIL.

    What runs calls numpy, not torch: torch would start its own threads from each of ours, and ours know nothing of the
    caller's inference mode.
    """
    strips = [(top, min(top + STRIP, height)) for top in range(0, height, STRIP)]
    threads = min(torch.get_num_threads(), len(strips))
    if threads < 2:
        for top, bottom in strips:
            run(top, bottom)
        return
    left = iter(strips)

    def work() -> None:
        for top, bottom in left:  # a list's iterator hands each strip to one thread
            run(top, bottom)

    others = [_pool(os.getpid(), threads - 1).submit(work) for _ in range(threads - 1)]  # a fork leaves threads behind
    work()
    for other in others:
        other.result()


@functools.cache
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="zoo-bilateral")
