"""LLVM IR of the 1-bit kernels, written with explicit vectors so that no auto-vectoriser has to guess.

Every function takes one pointer to an array of 64-bit integers (pointers and sizes in the order
of `CONV_ARGS`, `PACK_ARGS` and `NORM_ARGS`), so that a call costs the same however many arguments there are.

Bits are bytes: channel c of a pixel is bit c % 8 (least significant first) of byte c // 8, and a pixel takes
ceil(C/8) bytes. The pixels under one row of a convolution kernel are therefore one run of bytes, read as 64-bit words
whatever the channel count; a mask blanks what the last word reads beyond the run. Eight output channels form one
vector: their weights for a word lie side by side, the activations' word is broadcast.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

__all__ = ["CONV_ARGS", "LANES", "NORM_ARGS", "PACK_ARGS", "Emitter", "function", "module"]

LANES = 8  # output channels in a vector, and the bits of one output byte

CONV_ARGS = (
    "x",  # padded bits (B, Hp, Wp, bytes)
    "weight",  # i64 (OC/8, kh, words, 8)
    "mask",  # i64 (words,), which bits of a kernel row's words count
    "base",  # i32 (row kinds, column kinds, OC): the accumulator when all bits agree, zero padding included
    "row_base",  # i64 (OH,), element of `base` where the output row's kind begins
    "column_base",  # i64 (OW,), the same for the column, to be added
    "first",  # output pixels first to end, counted through the batch
    "end",
    "out_pixels",  # OH * OW
    "out_width",  # OW
    "image_bytes",  # of x: from an image to the next
    "row_step",  # of x: from the window of an output row to the next row's
    "column_step",
    "row_bytes",  # of x: from a row to the next
    "kernel_rows",
    "words",
    "blocks",  # OC / 8
    "out",  # i32 or f32 (pixels, OC)
    "bits",  # padded bits of the output
    "bits_image",  # bytes from an image to the next, a row to the next, a pixel to the next
    "bits_row",
    "bits_pixel",
    "bits_start",  # bytes from the border's corner to the first pixel
    "lower",  # i32 (OC,): the bit is (acc >= lower) != flip
    "flip",  # u8 (OC/8,)
    "scale",  # f32 (1,)
    "alpha",  # f32 (OC,): y = relu(acc * scale) * alpha + beta
    "beta",
    "skip",  # f32 (pixels, OC), or 0
    "skip_alpha",  # f32 (OC,), or 0: skip * skip_alpha + skip_beta is what is added
    "skip_beta",
    "zeros",  # u8, set to nonzero when a float of the output is exactly 0
)

PACK_ARGS = (
    "x",  # f32 (pixels, C)
    "first",
    "end",
    "out_pixels",
    "out_width",
    "blocks",  # C / 8
    "bits",
    "bits_image",
    "bits_row",
    "bits_pixel",
    "bits_start",
    "zeros",  # u8, set to nonzero when an x is exactly 0
)

NORM_ARGS = ("x", "first", "end", "blocks", "alpha", "beta")  # f32 (pixels, C), changed in place; f32 (C,)

PLACES = ("window", "base", "out", "bits", "skip")  # of each output pixel in a tile
I8, I32, I64, F32, PTR = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.PointerType()
WORDS = ir.VectorType(I64, LANES)
INTS = ir.VectorType(I32, LANES)
FLOATS = ir.VectorType(F32, LANES)


@dataclass
class Emitter:
    """A builder at work inside one function, with the few things said again and again."""

    b: ir.IRBuilder
    fused: bool = False

    def at(self, pointer: ir.Value, offset: ir.Value, size: int = 1) -> ir.Value:
        """Address `offset` elements of `size` bytes behind a pointer."""
        return self.b.gep(pointer, [self.b.mul(offset, I64(size)) if size > 1 else offset], source_etype=I8)

    def load(self, kind: ir.Type, pointer: ir.Value, align: int = 1) -> ir.Value:
        return self.b.load(pointer, align=align, typ=kind)

    def store(self, value: ir.Value, pointer: ir.Value) -> None:
        self.b.store(value, pointer, align=1)

    def splat(self, scalar: ir.Value, kind: ir.VectorType) -> ir.Value:
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), scalar, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, kind.count), None)
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

    def variable(self, kind: ir.Type, value: ir.Value) -> ir.Value:
        """A mutable local; LLVM turns it into registers."""
        with self.b.goto_entry_block():
            slot = self.b.alloca(kind)
        self.b.store(value, slot)
        return slot

    def table(self, length: int) -> ir.Value:
        """A local array of 64-bit integers."""
        with self.b.goto_entry_block():
            return self.b.alloca(I64, length)

    @contextmanager
    def loop(self, start: ir.Value, end: ir.Value, step: int = 1) -> Iterator[ir.Value]:
        """Body for start <= i < end."""
        slot = self.variable(I64, start)
        head, body, behind = (self.b.append_basic_block(name) for name in ("head", "body", "behind"))
        self.b.branch(head)
        self.b.position_at_end(head)
        i = self.b.load(slot, typ=I64)
        self.b.cbranch(self.b.icmp_signed("<", i, end), body, behind)
        self.b.position_at_end(body)
        yield i
        self.b.store(self.b.add(i, I64(step)), slot)
        self.b.branch(head)
        self.b.position_at_end(behind)

    def intrinsic(self, name: str, kind: ir.Type, *args: ir.Value) -> ir.Value:
        module = self.b.module
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, [a.type for a in args]), name)
        return self.b.call(function, args)

    def relu(self, x: ir.Value) -> ir.Value:
        zero = ir.Constant(FLOATS, None)
        return self.b.select(self.b.fcmp_ordered(">", x, zero), x, zero)

    def affine(self, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> ir.Value:
        """Give x * alpha + beta, rounded once or twice, as torch's batch norm does on this machine."""
        if self.fused:
            return self.intrinsic(f"llvm.fma.v{LANES}f32", FLOATS, x, alpha, beta)
        return self.b.fadd(self.b.fmul(x, alpha), beta)

    def compare_zero(self, relation: str, x: ir.Value) -> ir.Value:
        """A byte whose bit l says whether x[l] stands in that relation to 0."""
        return self.b.bitcast(self.b.fcmp_ordered(relation, x, ir.Constant(FLOATS, None)), I8)

    def note(self, byte: ir.Value, seen: ir.Value) -> None:
        self.b.store(self.b.or_(byte, self.b.load(seen, typ=I8)), seen)

    def report(self, seen: ir.Value, pointer: ir.Value) -> None:
        """Write what was noted, but only if it is something: threads share the byte."""
        value = self.b.load(seen, typ=I8)
        with self.b.if_then(self.b.icmp_unsigned("!=", value, I8(0))):
            self.store(value, self.b.inttoptr(pointer, PTR))


def function(
    module: ir.Module, name: str, args: tuple[str, ...], fused: bool = False
) -> tuple[Emitter, dict[str, ir.Value]]:
    """A new function of a module, and the arguments that it finds behind its pointer."""
    made = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR]), name)
    e = Emitter(ir.IRBuilder(made.append_basic_block("entry")), fused)
    body = made.append_basic_block("start")
    values = {}
    for i, arg in enumerate(args):
        values[arg] = e.load(I64, e.at(made.args[0], I64(8 * i)), align=8)
    e.b.branch(body)
    e.b.position_at_end(body)
    return e, values


def _pixel_place(e: Emitter, a: dict[str, ir.Value], pixel: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Image, row and column of an output pixel counted through the batch."""
    image = e.b.udiv(pixel, a["out_pixels"])
    rest = e.b.sub(pixel, e.b.mul(image, a["out_pixels"]))
    row = e.b.udiv(rest, a["out_width"])
    return image, row, e.b.sub(rest, e.b.mul(row, a["out_width"]))


def _window(e: Emitter, a: dict[str, ir.Value], place: tuple[ir.Value, ir.Value, ir.Value]) -> ir.Value:
    """Address of the first byte under the kernel."""
    address = a["x"]
    for index, step in zip(place, ("image_bytes", "row_step", "column_step"), strict=True):
        address = e.b.add(address, e.b.mul(index, a[step]))
    return address


def _base(e: Emitter, a: dict[str, ir.Value], place: tuple[ir.Value, ir.Value, ir.Value]) -> ir.Value:
    """Address of the starting values of a pixel's accumulators."""
    row, column = (
        e.load(I64, e.at(e.b.inttoptr(a[name], PTR), index, 8))
        for name, index in zip(("row_base", "column_base"), place[1:], strict=True)
    )
    return e.b.add(a["base"], e.b.mul(e.b.add(row, column), I64(4)))


def _bits_place(e: Emitter, a: dict[str, ir.Value], place: tuple[ir.Value, ir.Value, ir.Value]) -> ir.Value:
    offset = a["bits_start"]
    for index, step in zip(place, ("bits_image", "bits_row", "bits_pixel"), strict=True):
        offset = e.b.add(offset, e.b.mul(index, a[step]))
    return e.b.add(a["bits"], offset)


def _note_places(
    e: Emitter, a: dict[str, ir.Value], kind: str, tile: int, start: ir.Value, tables: dict[str, ir.Value]
) -> None:
    """Fill the tables with the addresses that belong to each output pixel of a tile."""
    b = e.b
    last = b.sub(a["end"], I64(1))
    with e.loop(I64(0), I64(tile)) as p:
        ahead = b.add(start, p)
        pixel = b.select(b.icmp_signed("<", ahead, last), ahead, last)  # a ragged end repeats its last pixel
        place = _pixel_place(e, a, pixel)
        channel0 = b.mul(pixel, b.mul(a["blocks"], I64(4 * LANES)))
        values = {"window": _window(e, a, place), "base": _base(e, a, place), "out": b.add(a["out"], channel0)}
        if kind != "count":
            values["bits"] = _bits_place(e, a, place)
        if kind == "add":
            values["skip"] = b.add(a["skip"], channel0)
        for name, value in values.items():
            e.store(value, e.at(tables[name], p, 8))


def _store(
    e: Emitter,
    a: dict[str, ir.Value],
    kind: str,
    differing: ir.Value,
    block: ir.Value,
    place: dict[str, ir.Value],
    seen: ir.Value,
) -> None:
    """What becomes of eight channels of a pixel, from the number of bits that differ."""
    b = e.b
    channel = b.mul(block, I64(LANES))
    base = e.load(INTS, e.at(b.inttoptr(place["base"], PTR), channel, 4))
    acc = b.sub(base, b.shl(b.trunc(differing, INTS), ir.Constant(INTS, [1] * LANES)))
    out, bits = b.inttoptr(place["out"], PTR), b.inttoptr(place["bits"], PTR)
    if kind == "count":
        e.store(acc, e.at(out, channel, 4))
    elif kind == "sign":
        lower, flip = (b.inttoptr(a[name], PTR) for name in ("lower", "flip"))
        reached = b.icmp_signed(">=", acc, e.load(INTS, e.at(lower, channel, 4)))
        e.store(b.xor(b.bitcast(reached, I8), e.load(I8, e.at(flip, block))), e.at(bits, block))
    else:
        y = _finish(e, a, acc, place["skip"], channel)
        e.store(y, e.at(out, channel, 4))
        e.store(e.compare_zero(">", y), e.at(bits, block))
        e.note(e.compare_zero("==", y), seen)


def _conv(module: ir.Module, kind: str, tile: int, fused: bool) -> None:
    """Convolution of signs over a range of output pixels, `tile` of them against eight channels at a time.

    Kinds: "count" stores the integer accumulators; "sign" stores bits by one threshold a channel; "add" finishes with
    ReLU, norm and skip in float32 and stores these and their sign bits.
    """
    e, a = function(module, f"conv_{kind}", CONV_ARGS, fused)
    b = e.b
    weight, mask = (b.inttoptr(a[name], PTR) for name in ("weight", "mask"))
    tables = {name: e.table(tile) for name in PLACES}
    seen = e.variable(I8, I8(0))
    with e.loop(a["first"], a["end"], tile) as start:
        _note_places(e, a, kind, tile, start, tables)
        windows, bases, outs, bits, skips = (
            [e.load(I64, e.at(tables[name], I64(p), 8), align=8) for p in range(tile)] for name in PLACES
        )
        row_words = b.mul(a["words"], I64(8 * LANES))
        block_bytes = b.mul(row_words, a["kernel_rows"])
        with e.loop(I64(0), a["blocks"]) as block:
            weights = e.at(weight, b.mul(block, block_bytes))
            sums = [e.variable(WORDS, ir.Constant(WORDS, None)) for _ in range(tile)]
            with e.loop(I64(0), a["kernel_rows"]) as ky:
                row_weights = e.at(weights, b.mul(ky, row_words))
                row_start = b.mul(ky, a["row_bytes"])
                with e.loop(I64(0), a["words"]) as word:
                    bits_wanted = e.load(WORDS, e.at(row_weights, word, 8 * LANES))
                    valid = e.splat(e.load(I64, e.at(mask, word, 8)), WORDS)
                    offset = b.add(row_start, b.mul(word, I64(8)))
                    for window, total in zip(windows, sums, strict=True):
                        activation = e.splat(e.load(I64, b.inttoptr(b.add(window, offset), PTR)), WORDS)
                        differ = b.and_(b.xor(activation, bits_wanted), valid)
                        count = e.intrinsic(f"llvm.ctpop.v{LANES}i64", WORDS, differ)
                        b.store(b.add(b.load(total, typ=WORDS), count), total)
            for p in range(tile):
                place = {"base": bases[p], "out": outs[p], "bits": bits[p], "skip": skips[p]}
                _store(e, a, kind, b.load(sums[p], typ=WORDS), block, place, seen)
    if kind == "add":
        e.report(seen, a["zeros"])
    b.ret_void()


def _finish(e: Emitter, a: dict[str, ir.Value], acc: ir.Value, skip: ir.Value, channel: ir.Value) -> ir.Value:
    """relu(acc * scale) * alpha + beta + skip, each operation in the order and rounding of the float network."""
    b = e.b

    def vector(name: str) -> ir.Value:
        return e.load(FLOATS, e.at(b.inttoptr(a[name], PTR), channel, 4))

    scale = e.splat(e.load(F32, b.inttoptr(a["scale"], PTR)), FLOATS)
    y = e.affine(e.relu(b.fmul(b.sitofp(acc, FLOATS), scale)), vector("alpha"), vector("beta"))
    result = e.variable(FLOATS, y)
    with b.if_then(b.icmp_unsigned("!=", a["skip"], I64(0))):
        other = e.variable(FLOATS, e.load(FLOATS, e.at(b.inttoptr(skip, PTR), channel, 4)))
        with b.if_then(b.icmp_unsigned("!=", a["skip_alpha"], I64(0))):
            b.store(e.affine(b.load(other, typ=FLOATS), vector("skip_alpha"), vector("skip_beta")), other)
        b.store(b.fadd(y, b.load(other, typ=FLOATS)), result)
    return b.load(result, typ=FLOATS)


def _pack(module: ir.Module, fused: bool) -> None:
    """Sign bits of a float map."""
    e, a = function(module, "pack", PACK_ARGS, fused)
    b = e.b
    seen = e.variable(I8, I8(0))
    width = b.mul(a["blocks"], I64(LANES))
    with e.loop(a["first"], a["end"]) as pixel:
        bits = b.inttoptr(_bits_place(e, a, _pixel_place(e, a, pixel)), PTR)
        x = e.at(b.inttoptr(a["x"], PTR), b.mul(pixel, width), 4)
        with e.loop(I64(0), a["blocks"]) as block:
            value = e.load(FLOATS, e.at(x, block, 4 * LANES))
            e.store(e.compare_zero(">", value), e.at(bits, block))
            e.note(e.compare_zero("==", value), seen)
    e.report(seen, a["zeros"])
    b.ret_void()


def _norm(module: ir.Module, fused: bool) -> None:
    """relu(x) * alpha + beta, in place."""
    e, a = function(module, "norm", NORM_ARGS, fused)
    b = e.b
    width = b.mul(a["blocks"], I64(LANES))
    with e.loop(a["first"], a["end"]) as pixel:
        pixels = e.at(b.inttoptr(a["x"], PTR), b.mul(pixel, width), 4)
        with e.loop(I64(0), a["blocks"]) as block:
            alpha, beta = (e.load(FLOATS, e.at(b.inttoptr(a[n], PTR), block, 4 * LANES)) for n in ("alpha", "beta"))
            x = e.at(pixels, block, 4 * LANES)
            e.store(e.affine(e.relu(e.load(FLOATS, x)), alpha, beta), x)
    b.ret_void()


def module(tile: int, fused: bool) -> ir.Module:
    """All kernels: `conv_count`, `conv_sign`, `conv_add`, `pack`, `norm`.

    Args:
        tile: Output pixels that share a load of weights; bounded by the vector registers.
        fused: Whether x * alpha + beta is rounded once.
    """
    made = ir.Module("zoo_binary")
    for kind in ("count", "sign", "add"):
        _conv(made, kind, tile, fused)
    _pack(made, fused)
    _norm(made, fused)
    return made
