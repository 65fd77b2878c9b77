"""Blur and resizing of image pyramids, as banded matrices along one axis.

Both are separable and linear, mirrored borders included, so a blur and a resize behind it are one matrix an axis. Row i
of a `Band` is nonzero in a short run of columns, which is all that is kept of it.

The resize is MATLAB's `imresize(..., "bilinear")` with its default antialiasing: the triangle is as wide as a pixel of
the coarser grid, weights sum to 1, and what lies outside is mirrored with the edge pixel repeated. Pillow and torch
drop outside taps instead, which differs near the border.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Band", "apply_band", "blurred_enlargement", "blurred_reduction", "enlargement", "resample"]

BLUR = np.exp(-0.5 * np.arange(-2, 3.0) ** 2)  # 5 taps of a Gaussian, sigma 1
BLUR /= BLUR.sum()


class Band(NamedTuple):
    """A banded matrix: `first` int64 (n,), the first column of each row's run; `weight` float64 (n, taps)."""

    first: Tensor
    weight: Tensor


def enlargement(size: int, to: int) -> Band:
    """Resize alone, from `size` to `to` pixels."""
    return _cached("resize", size, to)


def blurred_reduction(size: int, to: int) -> Band:
    """Blur, then resize: a level of the Gaussian pyramid from the one before it."""
    return _cached("reduce", size, to)


def blurred_enlargement(size: int, to: int) -> Band:
    """Resize, then blur: what the Laplacian pyramid subtracts."""
    return _cached("enlarge", size, to)


@functools.lru_cache(maxsize=256)
def _cached(what: str, size: int, to: int) -> Band:
    if what == "reduce":
        return _product(_resize(size, to), _blur(size), size)
    if what == "enlarge":
        return _product(_blur(to), _resize(size, to), size)
    return _band(*_resize(size, to), size)


Taps = tuple[NDArray[np.int64], NDArray[np.float64]]  # (n, taps) columns, any order and repeated, and their weights


def _resize(size: int, to: int) -> Taps:
    ratio = to / size
    half = max(1.0, 1 / ratio)
    centre = (np.arange(to) + 0.5) / ratio - 0.5
    columns = np.floor(centre - half).astype(np.int64)[:, None] + np.arange(math.ceil(2 * half) + 2)
    weights = np.maximum(0.0, 1 - min(ratio, 1.0) * np.abs(centre[:, None] - columns))
    return _mirrored(columns, size), weights / weights.sum(1, keepdims=True)


def _blur(size: int) -> Taps:
    columns = np.arange(size)[:, None] + np.arange(-2, 3)
    return _mirrored(columns, size), np.broadcast_to(BLUR, columns.shape)


def _mirrored(columns: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Columns 0 .. size-1, size-1 .. 0, again and again."""
    inside = columns % (2 * size)
    return np.minimum(inside, 2 * size - 1 - inside)


def _product(second: Taps, first: Taps, size: int) -> Band:
    """The matrix of `first`, then `second`."""
    columns = first[0][second[0]]  # (n, taps of the second, taps of the first)
    weights = second[1][:, :, None] * first[1][second[0]]
    return _band(columns.reshape(len(columns), -1), weights.reshape(len(weights), -1), size)


def _band(columns: NDArray[np.int64], weights: NDArray[np.float64], size: int) -> Band:
    """Gather each row's weights into one run, equally long for all rows."""
    low = np.where(weights > 0, columns, size).min(1)
    high = np.where(weights > 0, columns, -1).max(1)
    taps = int((high - low).max()) + 1
    low = np.minimum(low, size - taps)
    run = np.zeros((len(columns), taps))
    offsets = np.where(weights > 0, columns - low[:, None], 0)
    np.add.at(run, (np.arange(len(columns))[:, None], offsets), weights)
    with torch.inference_mode(False):  # it is kept, and the next caller may want gradients through it
        return Band(torch.from_numpy(low), torch.from_numpy(run))


def apply_band(x: Tensor, band: Band, dim: int) -> Tensor:
    """The matrix along one axis of `x`; differentiable."""
    first = band.first.to(x.device)
    shape = [1] * x.dim()
    shape[dim] = -1
    weight = band.weight.to(x.device, x.dtype)
    terms = (x.index_select(dim, first + tap) * weight[:, tap].view(shape) for tap in range(weight.shape[1]))
    return functools.reduce(torch.add, terms)


def resample(x: Tensor, rows: Band, columns: Band) -> Tensor:
    """(..., H, W): one matrix along the rows, another along the columns."""
    return apply_band(apply_band(x, rows, -2), columns, -1)
