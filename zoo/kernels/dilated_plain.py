"""Dilated attention in plain torch, forward and backward, without a copy of the map for each neighbour.

A map is laid out once with the zeros of its border, row behind row. What lies at some offset from each pixel is then
the same memory read from another start, and every product runs over long contiguous stretches. What comes out of the
border's columns on the way is cut off at the end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

__all__ = ["backward", "forward"]

FEW = 80_000  # elements of a map beyond which calls of torch cost little beside what they do


def forward(q: Tensor, k: Tensor, v: Tensor, num_heads: int, dilations: Sequence[int], kernel_size: int) -> Tensor:
    """(B, C, H, W), see `zoo.layers.dilated_attention`; half precision is computed in float32."""
    out = torch.empty_like(q)
    for layout, q_, k_, v_, out_ in _groups(num_heads, dilations, kernel_size, q, k, v, out):
        weights = _weights(layout, q_, k_)
        out_.copy_(layout.cut(_mixed(weights, layout.neighbours(layout.framed(v_)))))
    return out


def backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, num_heads: int, dilations: Sequence[int], kernel_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from the output's, all (B, C, H, W); the weights of the softmax are computed anew."""
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    parts = (_groups(num_heads, dilations, kernel_size, *maps) for maps in _portions(gradient, q, k, v, *grads))
    for layout, gradient_, q_, k_, v_, dq, dk, dv in chain.from_iterable(parts):
        weights = _weights(layout, q_, k_)
        bare = layout.bare(gradient_)
        slopes = _products(bare, layout.neighbours(layout.framed(v_)))
        dv.copy_(_spread(weights, bare, layout))
        slopes = torch._softmax_backward_data(slopes, weights, 0, weights.dtype).mul_(layout.scale)
        dq.copy_(layout.cut(_mixed(slopes, layout.neighbours(layout.framed(k_)))))
        dk.copy_(_spread(slopes, layout.bare(q_), layout))
    return grads


@dataclass(frozen=True)
class _Layout:
    """How the maps of one dilation lie in memory.

    Args:
        batch: Pictures B.
        heads: Heads with this dilation.
        width: Channels of a head, D.
        rows: Height of the map, H.
        columns: Its width, W.
        dilation: Pixels from one neighbour to the next.
        kernel_size: Neighbours along a side, K.
    """

    batch: int
    heads: int
    width: int
    rows: int
    columns: int
    dilation: int
    kernel_size: int

    @property
    def scale(self) -> float:
        return self.width**-0.5

    @property
    def border(self) -> int:
        return self.dilation * (self.kernel_size - 1) // 2

    @property
    def pitch(self) -> int:
        """Elements from one row to the next."""
        return self.columns + 2 * self.border

    @property
    def length(self) -> int:
        """Elements of a channel's rows, L."""
        return self.rows * self.pitch

    @property
    def channel(self) -> int:
        """Elements from one channel to the next with rows of zeros around; the last neighbour reads beyond them."""
        return self.length + (2 * self.border + 1) * self.pitch

    def bare(self, x: Tensor) -> Tensor:
        """(B, heads * D, H, W) to (B * heads, D, L), zeros behind each row."""
        rows = self._zeros(x, self.length)
        self.cut(rows).copy_(x)
        return rows

    def framed(self, x: Tensor) -> Tensor:
        """(B, heads * D, H, W) to (B * heads, D, channel), zeros on all sides."""
        rows = self._zeros(x, self.channel)
        self.unframed(rows).copy_(x)
        return rows

    def cut(self, bare: Tensor) -> Tensor:
        """The way back from `bare`, as a view."""
        return bare.view(self.batch, self.heads * self.width, self.rows, self.pitch)[..., : self.columns]

    def unframed(self, framed: Tensor) -> Tensor:
        """The way back from `framed`, as a view."""
        edge = self.border
        return framed.view(self.batch, self.heads * self.width, self.channel // self.pitch, self.pitch)[
            ..., edge : edge + self.rows, edge : edge + self.columns
        ]

    def neighbours(self, framed: Tensor) -> Tensor:
        """(K, K, B * heads, D, L), a view: at each offset, what lies there from the pixels of `bare`."""
        side, down, right = self.kernel_size, self.dilation * self.pitch, self.dilation
        return framed.as_strided((side, side, *framed.shape[:2], self.length), (down, right, *framed.stride()))

    def _zeros(self, x: Tensor, length: int) -> Tensor:
        return x.new_zeros((self.batch * self.heads, self.width, length), dtype=_precise(x.dtype))


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _weights(layout: _Layout, q: Tensor, k: Tensor) -> Tensor:
    """(K * K, B * heads, L), summing to 1 over the neighbours; those in the border count as keys of zeros."""
    return _products(layout.bare(q).mul_(layout.scale), layout.neighbours(layout.framed(k))).softmax(0)


def _products(bare: Tensor, neighbours: Tensor) -> Tensor:
    """(K * K, B * heads, L) scalar products of each pixel with its neighbours."""
    sums = bare.new_zeros((*neighbours.shape[:3], bare.shape[-1]))
    for channel in range(bare.shape[1]):
        sums.addcmul_(bare[:, channel], neighbours[..., channel, :])
    return sums.flatten(0, 1)


def _pairs(weights: Tensor, neighbours: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each offset, weights (B * heads, 1, L) and what lies there (B * heads, D, L)."""
    side = neighbours.shape[0]
    return ((weights[i].unsqueeze(1), neighbours[i // side, i % side]) for i in range(side * side))


def _mixed(weights: Tensor, neighbours: Tensor) -> Tensor:
    """(B * heads, D, L) sum over the neighbours, weighted."""
    mixed = torch.zeros_like(neighbours[0, 0], memory_format=torch.contiguous_format)
    for weight, neighbour in _pairs(weights, neighbours):
        mixed.addcmul_(weight, neighbour)
    return mixed


def _spread(weights: Tensor, bare: Tensor, layout: _Layout) -> Tensor:
    """(B, heads * D, H, W), the transpose of `_mixed`: each pixel given to its neighbours, weighted."""
    framed = bare.new_zeros((*bare.shape[:2], layout.channel))
    for weight, neighbour in _pairs(weights, layout.neighbours(framed)):
        neighbour.addcmul_(weight, bare)
    return layout.unframed(framed)


def _portions(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few pictures of the maps at a time, so that what is computed on the way stays small."""
    pictures = max(1, FEW // maps[0].shape[1:].numel())
    return zip(*(torch.split(x, pictures) for x in maps), strict=True)


def _groups(num_heads: int, dilations: Sequence[int], kernel_size: int, *maps: Tensor) -> Iterator[tuple[Any, ...]]:
    """For each dilation its layout, and its channels of the maps (B, C, H, W)."""
    batch, chs, rows, columns = maps[0].shape
    heads, width = num_heads // len(dilations), chs // num_heads
    for dilation, *parts in zip(dilations, *(x.chunk(len(dilations), 1) for x in maps), strict=True):
        yield _Layout(batch, heads, width, rows, columns, dilation, kernel_size), *parts
