"""Radiance .hdr pictures (RGBE): red, green, blue of eight bits under one exponent, run-length coded."""

import re
import struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from zoo.data.images import check_size
from zoo.errors import InputError

__all__ = ["read_radiance", "write_radiance"]

RUNS = range(8, 0x8000)  # widths whose rows may be coded channel by channel


def read_radiance(file: BinaryIO, name: str) -> NDArray[np.float32]:
    """Linear RGB (H, W, 3), upright.

    Args:
        file: At its beginning.
        name: What errors call it.

    Raises:
        InputError: It is damaged, too large, or holds XYZ.
    """
    head = b""
    while (line := file.readline(1000)).strip():
        head += line
    if not line:
        raise InputError(f"{name} is damaged: it ends within its header", hint="fetch or save it again")
    if b"32-bit_rle_xyze" in head:
        raise InputError(f"{name} holds XYZ colours", hint="save it as RGB: FORMAT=32-bit_rle_rgbe")
    size = file.readline(1000)
    order = re.fullmatch(rb"([-+])([XY]) (\d+) ([-+])([XY]) (\d+)\s*", size)
    if not order or order[2] == order[5]:
        raise InputError(f"{name} is damaged: {size[:40]!r} is no picture size", hint="fetch or save it again")
    rows, columns = int(order[3]), int(order[6])
    check_size(columns, rows, name)
    try:
        packed = _rows(np.frombuffer(file.read(), np.uint8), rows, columns)
    except IndexError:
        raise InputError(f"{name} is damaged: it ends within its pixels", hint="fetch or save it again") from None
    return _upright(_unpack(packed), order[1] + order[2], order[4] + order[5])


def _rows(data: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """(rows, columns, 4) bytes.

    Raises:
        IndexError: There are too few.
    """
    packed = np.empty((rows, columns, 4), np.uint8)
    at = 0
    for row in packed:
        if columns in RUNS and data[at : at + 4].tobytes() == struct.pack(">BBH", 2, 2, columns):
            at = _coded_row(data, at + 4, row)
        else:
            at = _plain_row(data, at, row)
    return packed


def _coded_row(data: NDArray[np.uint8], at: int, row: NDArray[np.uint8]) -> int:
    """One channel after the other, each in runs: 128 + n repeats a byte, n copies the next n."""
    columns = len(row)
    for channel in range(4):
        done = 0
        while done < columns:
            count = int(data[at])
            repeated = count > 128
            count = count - 128 if repeated else count
            if not 0 < count <= columns - done or at + 1 + (1 if repeated else count) > len(data):
                raise IndexError
            row[done : done + count, channel] = data[at + 1] if repeated else data[at + 1 : at + 1 + count]
            at += 2 if repeated else 1 + count
            done += count
    return at


def _plain_row(data: NDArray[np.uint8], at: int, row: NDArray[np.uint8]) -> int:
    """Four bytes a pixel; in the oldest form (1, 1, 1, n) repeats the pixel before, the next such one 256 n times."""
    if len(data) - at >= 4 * len(row):
        pixels = data[at : at + 4 * len(row)].reshape(-1, 4)
        if not (pixels[:, :3] == 1).all(1).any():
            row[:] = pixels
            return at + 4 * len(row)
    done, shift = 0, 0
    while done < len(row):
        pixel = data[at : at + 4]
        if len(pixel) < 4:
            raise IndexError
        at += 4
        if (pixel[:3] == 1).all():
            count = int(pixel[3]) << shift
            if not done or count > len(row) - done:
                raise IndexError
            row[done : done + count] = row[done - 1]
            done, shift = done + count, shift + 8
        else:
            row[done] = pixel
            done, shift = done + 1, 0
    return at


def _unpack(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    scale = np.ldexp(np.float32(1), packed[..., 3:].astype(np.int32) - 136)
    return np.where(packed[..., 3:] > 0, packed[..., :3] * scale, np.float32(0)).astype(np.float32)


def _upright(pixels: NDArray[np.float32], rows: bytes, columns: bytes) -> NDArray[np.float32]:
    """Turn what is stored along `rows`, then `columns`, such as b"-Y" and b"+X", into top-down rows."""
    if rows.endswith(b"X"):
        pixels, rows, columns = pixels.swapaxes(0, 1), columns, rows
    if rows == b"+Y":
        pixels = pixels[::-1]
    if columns == b"-X":
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def write_radiance(file: BinaryIO, pixels: NDArray[np.float32]) -> None:
    """Linear RGB (H, W, 3), not coded in runs; negative values, which the format lacks, become 0."""
    positive = np.maximum(pixels, 0)
    mantissa, exponent = np.frexp(positive.max(2))
    scale = np.where(mantissa > 1e-32, np.ldexp(np.float64(256), -exponent), 0.0)
    packed = np.empty((*pixels.shape[:2], 4), np.uint8)
    packed[..., :3] = positive * scale[..., None]
    packed[..., 3] = np.where(scale > 0, np.clip(exponent + 128, 0, 255), 0)
    height, width = pixels.shape[:2]
    file.write(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n" + f"-Y {height} +X {width}\n".encode())
    file.write(packed.tobytes())
