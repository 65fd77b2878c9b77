"""Attention of each pixel to a small, dilated window of keys around it, in several dilations at once.

J. Jiao et al., "DilateFormer: Multi-Scale Dilated Transformer for Visual Recognition", IEEE TMM 25, 2023,
arXiv:2302.01791, section 3.1.

One function, three implementations, which give the same up to rounding: "plain" (`zoo.kernels.dilated_plain`, any
device), "triton" (`zoo.kernels.dilated_triton`, one fused kernel), and "traced" (below; torch.compile fuses it, export
writes it down).
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.inference import product

__all__ = ["Implementation", "MultiDilatedAttention", "choose_implementation", "dilated_attention", "traced"]

Implementation = Literal["auto", "plain", "traced", "triton"]


def dilated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int,
    dilations: Sequence[int] = (1, 2, 3),
    kernel_size: int = 3,
    implementation: Implementation = "auto",
) -> Tensor:
    """Softmax attention of each pixel to `kernel_size`**2 keys around it.

    Channels are heads one behind the other. The heads fall into as many equal runs as there are dilations; a head of
    the i-th run looks at offsets that are multiples of the i-th dilation. Outside the map lie keys and values of zeros,
    which take part in the softmax.

    Args:
        q: (B, C, H, W) queries, of any memory layout.
        k: The same shape, keys.
        v: The same shape, values.
        num_heads: Heads; a multiple of the number of dilations and a divisor of C.
        dilations: Pixels from one key to the next, a run of heads each.
        kernel_size: Keys along a side; odd.
        implementation: "auto" takes the fastest, see `choose_implementation`.

    Returns:
        (B, C, H, W), of the type of `q`.

    Raises:
        ValueError: Heads, channels or the kernel do not fit together.
    """
    _check(q.shape[1], num_heads, dilations, kernel_size)
    if implementation == "auto":
        implementation = choose_implementation(q)
    if implementation == "traced":
        return traced(q, k, v, num_heads, dilations, kernel_size)
    return _attend(q, k, v, num_heads, list(dilations), kernel_size, implementation)


def choose_implementation(q: Tensor) -> Implementation:
    """What "auto" means for these queries: Triton on a GPU; while a graph is traced, what fits into it; else plain.

    A compiled training step calls the plain form on a CPU as well: its backward pass is three times as fast as what the
    compiler makes of the traced form's.
    """
    tracing, exporting = torch.compiler.is_compiling(), torch.compiler.is_exporting()
    if exporting or (tracing and not q.is_cuda and not (torch.is_grad_enabled() and q.requires_grad)):
        return "traced"
    return "triton" if q.is_cuda and q.dtype != torch.float64 and _has_triton() else "plain"  # it rounds to float32


def traced(q: Tensor, k: Tensor, v: Tensor, num_heads: int, dilations: Sequence[int], kernel_size: int) -> Tensor:
    """`dilated_attention` in differentiable operations that a compiler can fuse; made for channels-last maps."""
    width = q.shape[1] // num_heads
    runs = [x.permute(0, 2, 3, 1).chunk(len(dilations), -1) for x in (q, k, v)]
    y = [_traced(q, k, v, dilation, width, kernel_size) for q, k, v, dilation in zip(*runs, dilations, strict=True)]
    return torch.cat(y, -1).permute(0, 3, 1, 2)


def _traced(q: Tensor, k: Tensor, v: Tensor, dilation: int, width: int, kernel_size: int) -> Tensor:
    """(B, H, W, heads * width) of the heads with one dilation."""
    _, rows, columns, _ = q.shape
    edge, precise = dilation * (kernel_size - 1) // 2, torch.promote_types(q.dtype, torch.float32)
    queries, keys, values = (torch.unflatten(x.to(precise), -1, (-1, width)) for x in (q, k, v))
    keys, values = (F.pad(x, (0, 0, 0, 0, edge, edge, edge, edge)) for x in (keys, values))
    starts = range(0, dilation * kernel_size, dilation)
    windows = [(slice(None), slice(y, y + rows), slice(x, x + columns)) for y in starts for x in starts]
    logits = torch.stack([(queries * keys[window]).sum(-1) for window in windows], -1) * width**-0.5
    weights = logits.softmax(-1).unsqueeze(-2)  # (B, H, W, heads, 1, K * K)
    out = weights[..., 0] * values[windows[0]]
    for i, window in enumerate(windows[1:], 1):
        out = out + weights[..., i] * values[window]
    return out.flatten(-2).to(q.dtype)


@torch.library.custom_op("zoo::dilated_attention", mutates_args=())
def _attend(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, dilations: Sequence[int], kernel_size: int, kernel: str
) -> Tensor:
    return _kernel(kernel).forward(q, k, v, num_heads, dilations, kernel_size)


@torch.library.custom_op("zoo::dilated_attention_backward", mutates_args=())
def _attend_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int,
    dilations: Sequence[int],
    kernel_size: int,
    kernel: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _kernel(kernel).backward(gradient, q, k, v, num_heads, dilations, kernel_size)


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *call: Any) -> Tensor:
    return torch.empty_like(q)


@_attend_backward.register_fake
def _(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *call: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.call = inputs[len(tensors) :]


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *_attend_backward(gradient, *ctx.saved_tensors, *ctx.call), *[None] * len(ctx.call)


def _gradients_of_gradients(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    """What the traced form says; few ask for it."""
    with torch.enable_grad():
        gradient, *qkv = (x.detach().requires_grad_() for x in ctx.saved_tensors)
        first = torch.autograd.grad(traced(*qkv, *ctx.call[:-1]), qkv, gradient, create_graph=True)
        second = torch.autograd.grad(first, (gradient, *qkv), gradients)
    return *second, *[None] * len(ctx.call)


_attend.register_autograd(_gradients, setup_context=_keep)
_attend_backward.register_autograd(_gradients_of_gradients, setup_context=_keep)


def _kernel(name: str) -> ModuleType:
    return importlib.import_module(f"zoo.kernels.dilated_{name}")


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _check(chs: int, num_heads: int, dilations: Sequence[int], kernel_size: int) -> None:
    if kernel_size % 2 == 0 or min(dilations) < 1:
        raise ValueError(
            f"kernel_size is {kernel_size}, dilations {tuple(dilations)}; an odd one and positive ones fit"
        )
    if num_heads % len(dilations) or chs % num_heads:
        raise ValueError(f"{num_heads} heads do not divide {chs} channels, or into {len(dilations)} dilations evenly")


class MultiDilatedAttention(nn.Module):
    """Multi-scale dilated attention with its projections, (B, H, W, C) to the same.

    Args:
        chs: Channels C.
        num_heads: Heads; see `dilated_attention`.
        dilations: A run of heads each.
        kernel_size: Keys along a side; odd.
        qkv_bias: Whether queries, keys and values have a bias; the map's border never has.
    """

    def __init__(
        self,
        chs: int,
        num_heads: int,
        dilations: Sequence[int] = (1, 2, 3),
        kernel_size: int = 3,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        _check(chs, num_heads, dilations, kernel_size)
        self.num_heads, self.dilations, self.kernel_size = num_heads, tuple(dilations), kernel_size
        self.qkv = nn.Conv2d(chs, 3 * chs, 1, bias=qkv_bias)
        self.proj = nn.Linear(chs, chs)

    def forward(self, x: Tensor) -> Tensor:
        # a 1x1 convolution in the published weights; as a product of matrices it takes half the time on a CPU
        q, k, v = product(x, self.qkv.weight.flatten(1), self.qkv.bias).permute(0, 3, 1, 2).chunk(3, 1)
        y = dilated_attention(q, k, v, self.num_heads, self.dilations, self.kernel_size)
        return self.proj(y.permute(0, 2, 3, 1))
