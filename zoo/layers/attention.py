"""Multi-head attention under torch's names, and the sine codes that tell it where and when a token is.

Masks are True on padding, as in torch. Letters: B batch, Q queries, K keys, D width, H W grid, T frames.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Attention", "sine_2d", "sine_time"]

TEMPERATURE = 10_000.0


class Attention(nn.Module):
    """Multi-head attention with the parameters of `torch.nn.MultiheadAttention`, so that its checkpoints drop in.

    Args:
        dim: Width D of queries, keys and values.
        heads: Heads; they divide D.
        dropout: Share of the attention weights that is dropped in training.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None = None) -> Tensor:
        """What each query gathers.

        Args:
            query: (B, Q, D), with its position added.
            key: (B, K, D), with its position added.
            value: (B, K, D), without.
            padding: (B, K), True on keys to pass over; at least one key of each item stays.
        """
        q, k, v = self._split(query, key, value)
        gathered = F.scaled_dot_product_attention(q, k, v, _bias(padding), self.dropout if self.training else 0.0)
        return self._join(gathered)

    def with_weights(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same, and the attention weights (B, Q, K), averaged over heads; they sum to 1 over the keys."""
        q, k, v = self._split(query, key, value)
        logits = q @ k.mT / math.sqrt(q.shape[-1])
        if padding is not None:
            logits = logits.masked_fill(padding[:, None, None], -math.inf)
        weights = logits.softmax(-1)
        return self._join(F.dropout(weights, self.dropout, self.training) @ v), weights.mean(1)

    def _split(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projected and cut into heads: (B, heads, tokens, D / heads)."""
        parts = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        projected = (F.linear(x, weight, bias) for x, weight, bias in parts)
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in projected)
        return q, k, v

    def _join(self, heads: Tensor) -> Tensor:
        return self.out_proj(heads.transpose(1, 2).flatten(2))


def _bias(padding: Tensor | None) -> Tensor | None:
    return None if padding is None else ~padding[:, None, None]  # here torch wants True where a key counts


def sine_2d(padding: Tensor, dim: int) -> Tensor:
    """DETR's code of a place in a grid, the same wherever padding lies beyond the picture.

    Half of the channels tell the row, half the column, each as a share of 2 pi over the un-padded area.

    Args:
        padding: (B, H, W), True on padding.
        dim: Channels; a multiple of 4.

    Returns:
        (B, H W, D) float32.
    """
    inside = (~padding).float()
    rows, columns = inside.cumsum(1), inside.cumsum(2)
    rows = rows / (rows[:, -1:] + 1e-6) * 2 * math.pi
    columns = columns / (columns[:, :, -1:] + 1e-6) * 2 * math.pi
    return torch.cat([_waves(rows, dim // 2), _waves(columns, dim // 2)], -1).flatten(1, 2)


def sine_time(steps: int, dim: int, device: torch.device | None = None) -> Tensor:
    """The code of a step in time: sines on even channels, cosines on odd ones.

    Args:
        steps: How many, counted from 0.
        dim: Channels; even.
        device: Where to.

    Returns:
        (T, D) float32.
    """
    return _waves(torch.arange(steps, dtype=torch.float32, device=device), dim)


def _waves(place: Tensor, dim: int) -> Tensor:
    """(..., D): pairs of sine and cosine, slower from pair to pair."""
    pair = torch.arange(0, dim, 2, dtype=torch.float32, device=place.device)
    angle = place[..., None] / TEMPERATURE ** (pair / dim)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
