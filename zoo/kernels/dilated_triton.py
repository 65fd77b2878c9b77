"""Dilated attention as fused Triton kernels: no map of neighbours is ever written.

A program takes a block of pixels of one head. Forward, it goes over the K * K neighbours with a running softmax. The
backward pass has two kernels and needs no atomic addition: the first sees its pixels as queries; the second sees them
as keys, which are read by the queries at the mirrored offsets.

Arithmetic is in float32. TRITON_INTERPRET=1, set before this module is imported, runs the kernels on a CPU, slowly.

Inside the kernels a map is its memory and three strides: of pictures, of channels, and of pixels in row-major order.
D is the width of a head, PADDED_D the next power of 2.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["backward", "forward"]

BITS = 8  # of one dilation in the integer that holds them all


def forward(q: Tensor, k: Tensor, v: Tensor, num_heads: int, dilations: Sequence[int], kernel_size: int) -> Tensor:
    """(B, C, H, W), see `zoo.layers.dilated_attention`."""
    out = torch.empty_like(q)
    _launch(_forward, (q, k, v), (out,), (), num_heads, dilations, kernel_size)
    return out


def backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, num_heads: int, dilations: Sequence[int], kernel_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from the output's, all (B, C, H, W)."""
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    # of each query: the logarithm of the softmax's sum, and the weighted mean of the slopes of its weights
    each = q.new_empty((2, q.shape[0], num_heads, q.shape[2] * q.shape[3]), dtype=torch.float32).unbind()
    _launch(_backward_queries, (q, k, v, gradient), (dq,), each, num_heads, dilations, kernel_size)
    _launch(_backward_keys, (q, k, v, gradient), (dk, dv), each, num_heads, dilations, kernel_size)
    return dq, dk, dv


def _launch(
    kernel: Any,
    read: Sequence[Tensor],
    written: Sequence[Tensor],
    of_queries: Sequence[Tensor],
    num_heads: int,
    dilations: Sequence[int],
    kernel_size: int,
) -> None:
    batch, chs, rows, columns = read[0].shape
    if max(dilations) >= 1 << BITS or len(dilations) * BITS > 62:
        raise ValueError(f"dilations are {tuple(dilations)}; this kernel takes up to 7, each below {1 << BITS}")
    read = [x if x.stride(2) == columns * x.stride(3) else x.contiguous() for x in read]
    width = chs // num_heads
    padded = triton.next_power_of_2(width)
    block = max(16, min(128, 2048 // padded))  # pixels: a few arrays of block x padded fit into registers
    programs = triton.cdiv(rows * columns, block) * batch * num_heads
    if not programs:
        return
    kernel[(programs,)](
        *read,
        *written,
        *of_queries,
        *(stride for x in (*read, *written) for stride in (x.stride(0), x.stride(1), x.stride(3))),
        num_heads,
        num_heads // len(dilations),
        sum(dilation << BITS * i for i, dilation in enumerate(dilations)),
        rows,
        columns,
        width**-0.5,
        D=width,
        PADDED_D=padded,
        K=kernel_size,
        BLOCK=block,
        BITS_=BITS,
    )


@triton.jit
def _task(heads, heads_per_dilation, dilations, rows, columns, BLOCK: tl.constexpr, BITS_: tl.constexpr):
    """This program's picture, head, dilation and pixels."""
    blocks = tl.cdiv(rows * columns, BLOCK)
    of_head = tl.program_id(0) // blocks
    head = of_head % heads
    dilation = (dilations >> (head // heads_per_dilation * BITS_)) & ((1 << BITS_) - 1)
    return (of_head // heads).to(tl.int64), head, dilation, tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _neighbour(pixels, rows, columns, dilation, i, K: tl.constexpr):
    """Pixels at the i-th offset, and which of them lie on the map."""
    down, right = (i // K - K // 2) * dilation, (i % K - K // 2) * dilation
    y, x = pixels // columns + down, pixels % columns + right
    on_map = (pixels < rows * columns) & (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    return pixels + down * columns + right, on_map


@triton.jit
def _places(picture, head, pixels, on_map, sb, sc, sp, D: tl.constexpr, PADDED_D: tl.constexpr):
    """Where (BLOCK, PADDED_D) elements of a map lie, and which of them exist."""
    channels = tl.arange(0, PADDED_D)
    places = picture * sb + (head * D + channels)[None, :] * sc + pixels[:, None] * sp
    return places, on_map[:, None] & (channels < D)[None, :]


@triton.jit
def _read(x, picture, head, pixels, on_map, sb, sc, sp, D: tl.constexpr, PADDED_D: tl.constexpr):
    """(BLOCK, PADDED_D) float32, zeros off the map."""
    places, exists = _places(picture, head, pixels, on_map, sb, sc, sp, D, PADDED_D)
    return tl.load(x + places, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _write(x, values, picture, head, pixels, on_map, sb, sc, sp, D: tl.constexpr, PADDED_D: tl.constexpr):
    places, exists = _places(picture, head, pixels, on_map, sb, sc, sp, D, PADDED_D)
    tl.store(x + places, values.to(x.dtype.element_ty), mask=exists)


@triton.jit
def _forward(
    q, k, v, out, qb, qc, qp, kb, kc, kp, vb, vc, vp, ob, oc, op,
    heads, heads_per_dilation, dilations, rows, columns, scale,
    D: tl.constexpr, PADDED_D: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BITS_: tl.constexpr,
):  # fmt: skip
    picture, head, dilation, pixels = _task(heads, heads_per_dilation, dilations, rows, columns, BLOCK, BITS_)
    here = pixels < rows * columns
    query = _read(q, picture, head, pixels, here, qb, qc, qp, D, PADDED_D) * scale
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    mixed = tl.zeros((BLOCK, PADDED_D), tl.float32)
    for i in tl.static_range(K * K):
        there, on_map = _neighbour(pixels, rows, columns, dilation, i, K)
        key = _read(k, picture, head, there, on_map, kb, kc, kp, D, PADDED_D)
        logit = tl.sum(query * key, 1)  # 0 off the map, where the key counts as zeros
        raised = tl.maximum(highest, logit)
        shrink, weight = tl.exp(highest - raised), tl.exp(logit - raised)
        value = _read(v, picture, head, there, on_map, vb, vc, vp, D, PADDED_D)
        mixed = mixed * shrink[:, None] + weight[:, None] * value
        total = total * shrink + weight
        highest = raised
    _write(out, mixed / total[:, None], picture, head, pixels, here, ob, oc, op, D, PADDED_D)


@triton.jit
def _backward_queries(
    q, k, v, gradient, dq, log_sums, means,
    qb, qc, qp, kb, kc, kp, vb, vc, vp, gb, gc, gp, db, dc, dp,
    heads, heads_per_dilation, dilations, rows, columns, scale,
    D: tl.constexpr, PADDED_D: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BITS_: tl.constexpr,
):  # fmt: skip
    picture, head, dilation, pixels = _task(heads, heads_per_dilation, dilations, rows, columns, BLOCK, BITS_)
    here = pixels < rows * columns
    query = _read(q, picture, head, pixels, here, qb, qc, qp, D, PADDED_D) * scale
    grad = _read(gradient, picture, head, pixels, here, gb, gc, gp, D, PADDED_D)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    mean = tl.zeros((BLOCK,), tl.float32)  # of the slopes, weighted; with `sloped` and `mixed`, scaled by exp(-highest)
    sloped = tl.zeros((BLOCK, PADDED_D), tl.float32)
    mixed = tl.zeros((BLOCK, PADDED_D), tl.float32)
    for i in tl.static_range(K * K):
        there, on_map = _neighbour(pixels, rows, columns, dilation, i, K)
        key = _read(k, picture, head, there, on_map, kb, kc, kp, D, PADDED_D)
        value = _read(v, picture, head, there, on_map, vb, vc, vp, D, PADDED_D)
        logit, slope = tl.sum(query * key, 1), tl.sum(grad * value, 1)
        raised = tl.maximum(highest, logit)
        shrink, weight = tl.exp(highest - raised), tl.exp(logit - raised)
        mean = mean * shrink + weight * slope
        sloped = sloped * shrink[:, None] + (weight * slope)[:, None] * key
        mixed = mixed * shrink[:, None] + weight[:, None] * key
        total = total * shrink + weight
        highest = raised
    mean = mean / total
    result = (sloped - mean[:, None] * mixed) * (scale / total)[:, None]
    _write(dq, result, picture, head, pixels, here, db, dc, dp, D, PADDED_D)
    of_query = (picture * heads + head) * rows * columns + pixels
    tl.store(log_sums + of_query, highest + tl.log(total), mask=here)
    tl.store(means + of_query, mean, mask=here)


@triton.jit
def _backward_keys(
    q, k, v, gradient, dk, dv, log_sums, means,
    qb, qc, qp, kb, kc, kp, vb, vc, vp, gb, gc, gp, db, dc, dp, eb, ec, ep,
    heads, heads_per_dilation, dilations, rows, columns, scale,
    D: tl.constexpr, PADDED_D: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BITS_: tl.constexpr,
):  # fmt: skip
    picture, head, dilation, pixels = _task(heads, heads_per_dilation, dilations, rows, columns, BLOCK, BITS_)
    here = pixels < rows * columns
    key = _read(k, picture, head, pixels, here, kb, kc, kp, D, PADDED_D) * scale
    value = _read(v, picture, head, pixels, here, vb, vc, vp, D, PADDED_D)
    key_gradient = tl.zeros((BLOCK, PADDED_D), tl.float32)
    value_gradient = tl.zeros((BLOCK, PADDED_D), tl.float32)
    for i in tl.static_range(K * K):
        there, on_map = _neighbour(pixels, rows, columns, dilation, i, K)
        query = _read(q, picture, head, there, on_map, qb, qc, qp, D, PADDED_D)
        grad = _read(gradient, picture, head, there, on_map, gb, gc, gp, D, PADDED_D)
        of_query = (picture * heads + head) * rows * columns + there
        log_sum = tl.load(log_sums + of_query, mask=on_map, other=0.0)
        mean = tl.load(means + of_query, mask=on_map, other=0.0)
        weight = tl.exp(tl.sum(query * key, 1) - log_sum)  # 1 off the map, where query and gradient are zeros
        slope = weight * (tl.sum(grad * value, 1) - mean)
        value_gradient += weight[:, None] * grad
        key_gradient += slope[:, None] * query
    _write(dk, key_gradient * scale, picture, head, pixels, here, db, dc, dp, D, PADDED_D)
    _write(dv, value_gradient, picture, head, pixels, here, eb, ec, ep, D, PADDED_D)
