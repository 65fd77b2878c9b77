"""LLVM IR of the two loops of the pyramid texture filter: a joint bilateral filter, and banded resampling.

As in `zoo.kernels.emit`, a function takes one pointer to an array of 64-bit integers, in the order of `BILATERAL_ARGS`
and `RESAMPLE_ARGS`, and vectors are explicit.

The guide comes scaled by sqrt(log2(e) / 2) / sigma_r, so that a weight is 2^(spatial - |difference|^2) with `spatial`
a table of exponents. One vector covers neighbouring pixels of a row; `rows` rows of output are worked on at once and
share what is loaded of the pixels around them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numpy.polynomial import Chebyshev, Polynomial

from zoo.kernels.emit import I32, I64, PTR, Emitter, function

__all__ = ["BILATERAL_ARGS", "RESAMPLE_ARGS", "Real", "module"]

BILATERAL_ARGS = (
    "guide",  # (C, strip rows + slack, row length): scaled, `radius` columns of far-off values on each side
    "image",  # the same shape with zeros at the sides; not read where the guide filters itself
    "plane",  # bytes from a channel to the next
    "row",  # bytes from a row to the next
    "strip_rows",  # rows that are pixels of the picture
    "spatial",  # (2 radius + 2 rows - 1, 2 radius + 1): log2 of the spatial weights; rows that no window has are LOW
    "radius",
    "first",  # rows of the strip to filter, first to end, `rows` at a time
    "end",
    "blocks",  # vectors in a row of output
    "out",  # (C, end - first + slack, blocks * lanes)
    "out_plane",
    "out_row",
)

RESAMPLE_ARGS = (
    "x",  # (rows in, columns in)
    "x_row",  # bytes from a row to the next
    "columns",  # columns in, at least a vector
    "out",  # (rows out, columns out)
    "out_row",
    "out_columns",
    "first",  # rows of the output, first to end
    "end",
    "row_first",  # i64 (rows out,): first row in that an output row depends on
    "row_weight",  # (rows out, row_taps)
    "row_taps",
    "column_first",  # i64 (columns out,)
    "column_weight",  # (columns out, column_taps)
    "column_taps",
    "buffer",  # (columns in,): scratch
)


@dataclass(frozen=True)
class Real:
    """What differs between single and double precision.

    Args:
        name: "f32" or "f64", the suffix of the functions.
        kind: LLVM type of a number.
        whole: Integer type of the same width.
        mantissa: Bits of the mantissa.
        low: Exponent below which a weight counts as nothing: 2^low is the smallest normal number.
        degree: Of the polynomial for 2^x on [-1/2, 1/2]; its relative error is 3e-6 and 3e-16.
    """

    name: str
    kind: ir.Type
    whole: ir.IntType
    mantissa: int
    low: float
    degree: int

    @property
    def size(self) -> int:
        return 4 if self.name == "f32" else 8

    @property
    def round_to_whole(self) -> float:
        """Added to a number and taken away again, it leaves the nearest whole one."""
        return 1.5 * 2.0**self.mantissa


REALS = (Real("f32", ir.FloatType(), I32, 23, -126.0, 4), Real("f64", ir.DoubleType(), I64, 52, -1022.0, 10))


def power_of_two(degree: int) -> list[float]:
    """Coefficients of a near-minimax polynomial for 2^x on [-1/2, 1/2], lowest first."""
    fitted = Chebyshev.interpolate(np.exp2, degree, domain=[-0.5, 0.5])
    return [float(c) for c in fitted.convert(kind=Polynomial).coef]


@dataclass
class Vectors:
    """Arithmetic on vectors of one kind inside one function."""

    e: Emitter
    real: Real
    lanes: int

    @property
    def kind(self) -> ir.VectorType:
        return ir.VectorType(self.real.kind, self.lanes)

    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.kind, [value] * self.lanes)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Give a * b + c, fused where the CPU can."""
        return self.e.intrinsic(f"llvm.fmuladd.v{self.lanes}{self.real.name}", self.kind, a, b, c)

    def load(self, pointer: ir.Value) -> ir.Value:
        return self.e.load(self.kind, pointer, align=self.real.size)

    def scalar(self, pointer: ir.Value) -> ir.Value:
        """One number, in all lanes."""
        return self.e.splat(self.e.load(self.real.kind, pointer, align=self.real.size), self.kind)

    def zero(self) -> ir.Value:
        return self.e.variable(self.kind, ir.Constant(self.kind, None))

    def value(self, slot: ir.Value) -> ir.Value:
        return self.e.b.load(slot, typ=self.kind)

    def exp2(self, x: ir.Value) -> ir.Value:
        """2^x for x <= 0; the exponent stops at `low`."""
        b, real = self.e.b, self.real
        low, magic = self.constant(real.low), self.constant(real.round_to_whole)
        x = b.select(b.fcmp_ordered(">", x, low), x, low)
        shifted = b.fadd(x, magic)  # its last bits are the whole part
        fraction = b.fsub(x, b.fsub(shifted, magic))
        *lower, total = (self.constant(c) for c in power_of_two(real.degree))
        for coefficient in reversed(lower):
            total = self.fma(total, fraction, coefficient)
        whole = ir.VectorType(real.whole, self.lanes)
        exponent = b.shl(b.bitcast(shifted, whole), ir.Constant(whole, [real.mantissa] * self.lanes))
        return b.bitcast(b.add(b.bitcast(total, whole), exponent), self.kind)


def module(lanes: int, rows: int) -> ir.Module:
    """All functions: `bilateral_{self,joint}{1,3}_{f32,f64}` and `resample_{f32,f64}`.

    Args:
        lanes: Single-precision numbers in a vector; half as many double ones.
        rows: Rows of output at once.
    """
    made = ir.Module("bilateral")
    for real in REALS:
        count = lanes * 4 // real.size
        for channels in (1, 3):
            for own in (True, False):
                _bilateral(made, real, count, rows, channels, own)
        _resample(made, real, count)
    return made


def _bilateral(module: ir.Module, real: Real, lanes: int, rows: int, channels: int, own: bool) -> None:
    """Joint bilateral filter of a strip; with `own` the guide filters itself."""
    name = f"bilateral_{'self' if own else 'joint'}{channels}_{real.name}"
    e, a = function(module, name, BILATERAL_ARGS)
    b, v = e.b, Vectors(e, real, lanes)
    step = lanes * real.size
    above = b.add(a["radius"], I64(rows - 1))
    width = b.add(b.mul(a["radius"], I64(2)), I64(1))
    spatial_row = b.mul(width, I64(real.size))
    centre = b.mul(a["radius"], I64(real.size))
    with e.loop(a["first"], a["end"], rows) as y:
        top = _larger(e, b.sub(y, a["radius"]), I64(0))
        bottom = _smaller(e, b.add(b.add(y, above), I64(1)), a["strip_rows"])
        with e.loop(I64(0), a["blocks"]) as block:
            column = b.mul(block, I64(step))
            middles = [
                [v.load(_pixel(e, a, "guide", c, b.add(y, I64(r)), b.add(column, centre))) for c in range(channels)]
                for r in range(rows)
            ]
            sums = [[v.zero() for _ in range(channels + 1)] for _ in range(rows)]
            with e.loop(top, bottom) as near:
                tables = []
                for r in range(rows):  # dy of row y + r is near - y - r; the table starts at -(radius + rows - 1)
                    table_row = b.add(b.sub(near, b.add(y, I64(r))), above)
                    tables.append(b.add(a["spatial"], b.mul(table_row, spatial_row)))
                guides = [_pixel(e, a, "guide", c, near, column) for c in range(channels)]
                images = guides if own else [_pixel(e, a, "image", c, near, column) for c in range(channels)]
                with e.loop(I64(0), width) as dx:
                    guide = [v.load(e.at(pointer, dx, real.size)) for pointer in guides]
                    image = guide if own else [v.load(e.at(pointer, dx, real.size)) for pointer in images]
                    for middle, table, total in zip(middles, tables, sums, strict=True):
                        exponent = v.scalar(e.at(b.inttoptr(table, PTR), dx, real.size))
                        _add_tap(v, exponent, guide, image, middle, total)
            for r, total in enumerate(sums):
                _store_means(v, a, [v.value(slot) for slot in total], b.sub(b.add(y, I64(r)), a["first"]), column)
    b.ret_void()


def _add_tap(
    v: Vectors,
    exponent: ir.Value,
    guide: Sequence[ir.Value],
    image: Sequence[ir.Value],
    middle: Sequence[ir.Value],
    sums: Sequence[ir.Value],
) -> None:
    """Add one neighbour to a pixel's sums: the weighted channels, then the weights."""
    b = v.e.b
    for other, own in zip(guide, middle, strict=True):
        difference = b.fsub(other, own)
        exponent = v.fma(b.fneg(difference), difference, exponent)
    weight = v.exp2(exponent)
    for slot, value in zip(sums, image, strict=False):
        b.store(v.fma(weight, value, v.value(slot)), slot)
    b.store(b.fadd(v.value(sums[-1]), weight), sums[-1])


def _store_means(v: Vectors, a: dict[str, ir.Value], sums: Sequence[ir.Value], row: ir.Value, column: ir.Value) -> None:
    b = v.e.b
    place = b.add(b.add(a["out"], b.mul(row, a["out_row"])), column)
    for c, total in enumerate(sums[:-1]):
        address = b.add(place, b.mul(a["out_plane"], I64(c)))
        v.e.store(b.fdiv(total, sums[-1]), b.inttoptr(address, PTR))


def _pixel(e: Emitter, a: dict[str, ir.Value], name: str, channel: int, row: ir.Value, column: ir.Value) -> ir.Value:
    """Address of a vector of a strip; `column` in bytes."""
    offset = e.b.add(e.b.mul(a["plane"], I64(channel)), e.b.add(e.b.mul(row, a["row"]), column))
    return e.b.inttoptr(e.b.add(a[name], offset), PTR)


def _resample(module: ir.Module, real: Real, lanes: int) -> None:
    """A banded matrix along the rows, then one along the columns, an output row at a time."""
    e, a = function(module, f"resample_{real.name}", RESAMPLE_ARGS)
    b, v = e.b, Vectors(e, real, lanes)
    buffer = b.inttoptr(a["buffer"], PTR)
    blocks = b.udiv(b.add(a["columns"], I64(lanes - 1)), I64(lanes))
    with e.loop(a["first"], a["end"]) as y:
        first = e.load(I64, e.at(b.inttoptr(a["row_first"], PTR), y, 8), align=8)
        source = b.add(a["x"], b.mul(first, a["x_row"]))
        weights = e.at(b.inttoptr(a["row_weight"], PTR), b.mul(y, a["row_taps"]), real.size)
        with e.loop(I64(0), blocks) as block:
            # the last vector ends with the row, over what the one before it did
            column = b.mul(_smaller(e, b.mul(block, I64(lanes)), b.sub(a["columns"], I64(lanes))), I64(real.size))
            total = v.zero()
            with e.loop(I64(0), a["row_taps"]) as tap:
                values = v.load(b.inttoptr(b.add(b.add(source, b.mul(tap, a["x_row"])), column), PTR))
                b.store(v.fma(v.scalar(e.at(weights, tap, real.size)), values, v.value(total)), total)
            e.store(v.value(total), e.at(buffer, column))
        out = b.inttoptr(b.add(a["out"], b.mul(y, a["out_row"])), PTR)
        with e.loop(I64(0), a["out_columns"]) as x:
            e.store(_dot(v, a, buffer, x), e.at(out, x, real.size))
    b.ret_void()


def _dot(v: Vectors, a: dict[str, ir.Value], buffer: ir.Value, x: ir.Value) -> ir.Value:
    """One output: the weights of column x times the buffer."""
    e, b, kind, size = v.e, v.e.b, v.real.kind, v.real.size
    first = e.load(I64, e.at(b.inttoptr(a["column_first"], PTR), x, 8), align=8)
    weights = e.at(b.inttoptr(a["column_weight"], PTR), b.mul(x, a["column_taps"]), size)
    values = e.at(buffer, first, size)
    total = e.variable(kind, ir.Constant(kind, 0.0))
    with e.loop(I64(0), a["column_taps"]) as tap:
        weight, value = (e.load(kind, e.at(pointer, tap, size), align=size) for pointer in (weights, values))
        added = e.intrinsic(f"llvm.fmuladd.{v.real.name}", kind, weight, value, b.load(total, typ=kind))
        b.store(added, total)
    return b.load(total, typ=kind)


def _larger(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
    return e.b.select(e.b.icmp_signed(">", x, y), x, y)


def _smaller(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
    return e.b.select(e.b.icmp_signed("<", x, y), x, y)
