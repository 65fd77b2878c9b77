"""What STVGFormer is made of: the layers of both streams, the blocks between them, and the two heads.

Letters: B videos, T sampled frames, N places of the grid, L words, D width. Masks are True on padding. Norms follow the
sums ("post-norm"), as in DETR.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.attention import Attention

__all__ = [
    "BoxHead",
    "Collaboration",
    "Decoder",
    "DecoderLayer",
    "DynamicLayer",
    "DynamicStream",
    "EncoderLayer",
    "Resizer",
    "StaticStream",
    "TemporalHead",
    "proposal_map",
    "spatial_mean",
    "valid_spans",
]


class Feed(nn.Module):
    """What has two linear layers with a ReLU between."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def feed(self, x: Tensor) -> Tensor:
        """(..., D) through both."""
        return self.linear2(self.dropout(self.linear1(x).relu()))


class FeedForward(Feed):
    """Those layers and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        return self.feed(x)


class Resizer(nn.Module):
    """From the text encoder's width to the streams'."""

    def __init__(self, in_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.fc = nn.Linear(in_dim, dim)
        self.layer_norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.layer_norm(self.fc(x)))


class EncoderLayer(Feed):
    """DETR's encoder layer: tokens look at each other."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(dim, hidden, dropout)
        self.self_attn = Attention(dim, heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """(B, tokens, D) to the same."""
        placed = x + position
        x = self.norm1(x + self.dropout(self.self_attn(placed, placed, x, padding)))
        return self.norm2(x + self.dropout(self.feed(x)))


class DecoderLayer(Feed):
    """MDETR's decoder layer: queries look at the encoder's tokens.

    Args:
        dim: Width.
        heads: Heads.
        hidden: Width inside the feed-forward part.
        dropout: Share dropped in training.
        self_attn: Let the queries look at each other first, as MDETR's hundred do. STVGFormer has one a frame.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, *, self_attn: bool = False) -> None:
        super().__init__(dim, hidden, dropout)
        if self_attn:
            self.self_attn = Attention(dim, heads, dropout)
            self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_image = Attention(dim, heads, dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)

    def forward(
        self, query: Tensor, query_position: Tensor, memory: Tensor, position: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, D) again, and where each looked: (B, Q, tokens), summing to 1."""
        if hasattr(self, "self_attn"):
            placed = query + query_position
            query = self.norm1(query + self.dropout(self.self_attn(placed, placed, query)))
        found, weights = self.cross_attn_image.with_weights(query + query_position, memory + position, memory, padding)
        query = self.norm3(query + self.dropout(found))
        return self.norm4(query + self.dropout(self.feed(query))), weights


class Decoder(nn.Module):
    """Decoder layers, and the norm that a query passes before it becomes a box."""

    def __init__(
        self, depth: int, dim: int, heads: int, hidden: int, dropout: float, *, self_attn: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(dim, heads, hidden, dropout, self_attn=self_attn) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)


class Encoder(nn.Module):
    """Encoder layers."""

    def __init__(self, depth: int, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, hidden, dropout) for _ in range(depth))


class StaticStream(nn.Module):
    """The encoder over a frame's places and the words, and the decoder with one query a frame."""

    def __init__(self, depth: int, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.encoder = Encoder(depth, dim, heads, hidden, dropout)
        self.decoder = Decoder(depth, dim, heads, hidden, dropout)


class DynamicStream(nn.Module):
    """Layers over all frames and the words."""

    def __init__(self, depth: int, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DynamicLayer(dim, heads, hidden, dropout) for _ in range(depth))


class DynamicLayer(nn.Module):
    """One layer of the dynamic stream, eq. (1) and figure 3b: space, time, words, and each for the other."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.spatial_attn = Attention(dim, heads, dropout)
        self.temporal_attn = Attention(dim, heads, dropout)
        self.text_attn = Attention(dim, heads, dropout)
        self.v2l_attn = Attention(dim, heads, dropout)
        self.l2v_attn = Attention(dim, heads, dropout)
        self.ffn_v = FeedForward(dim, hidden, dropout)
        self.ffn_l = FeedForward(dim, hidden, dropout)
        self.norm_s, self.norm_t, self.norm_l = (nn.LayerNorm(dim) for _ in range(3))
        self.norm_vc, self.norm_lc = (nn.LayerNorm(dim) for _ in range(2))
        self.norm_vf, self.norm_lf = (nn.LayerNorm(dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        video: Tensor,
        text: Tensor,
        place: Tensor,
        time: Tensor,
        space_padding: Tensor | None = None,
        time_padding: Tensor | None = None,
        text_padding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Both states again.

        Args:
            video: (B, T, N, D).
            text: (B, L, D).
            place: (B or 1, N, D), code of the place.
            time: (T, D), code of the step.
            space_padding: (B, N).
            time_padding: (B, T).
            text_padding: (B, L).
        """
        frames, places, dim = video.shape[1:]

        flat = video.flatten(0, 1)  # (B T, N, D)
        placed = flat + place.expand(len(video), -1, -1).repeat_interleave(frames, 0)
        flat = self.norm_s(flat + self.dropout(self.spatial_attn(placed, placed, flat, _each(space_padding, frames))))

        lines = flat.view(-1, frames, places, dim).transpose(1, 2).flatten(0, 1)  # (B N, T, D)
        timed = lines + time
        lines = self.norm_t(lines + self.dropout(self.temporal_attn(timed, timed, lines, _each(time_padding, places))))
        video = lines.view(-1, places, frames, dim).transpose(1, 2)

        text = self.norm_l(text + self.dropout(self.text_attn(text, text, text, text_padding)))
        pooled = spatial_mean(video, space_padding)  # (B, T, D)

        tokens = video.flatten(1, 2)
        tokens = self.norm_vc(tokens + self.dropout(self.v2l_attn(tokens, text, text, text_padding)))
        text = self.norm_lc(text + self.dropout(self.l2v_attn(text, pooled, pooled, time_padding)))

        tokens = self.norm_vf(tokens + self.dropout(self.ffn_v(tokens)))
        text = self.norm_lf(text + self.dropout(self.ffn_l(text)))
        return tokens.view(-1, frames, places, dim), text


class Collaboration(nn.Module):
    """The block between the streams behind each layer: the static one says where, the dynamic one says what moves.

    Args:
        dim: Width.
        heads: Heads.
        dropout: Share dropped in training.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)
        self.norm_v = nn.LayerNorm(dim)
        self.cross_attn = Attention(dim, heads, dropout)
        self.norm_q1 = nn.LayerNorm(dim)
        self.mix_attn = Attention(dim, heads, dropout)
        self.norm_q2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def static_to_dynamic(self, video: Tensor, attention: Tensor) -> Tensor:
        """Eq. (2): features (B, T, N, D) made stronger where the static stream looked, (B, T, N)."""
        return self.norm_v(video + attention[..., None] * self.fc(video))

    def dynamic_to_static(
        self,
        query: Tensor,
        video: Tensor,
        time: Tensor,
        space_padding: Tensor | None = None,
        time_padding: Tensor | None = None,
    ) -> Tensor:
        """Figure 4c: queries (B, T, D) that looked at their own step's features, then at each other."""
        frames = query.shape[1]
        flat = video.flatten(0, 1)  # (B T, N, D)
        found = self.cross_attn(query.flatten(0, 1)[:, None], flat, flat, _each(space_padding, frames))
        query = self.norm_q1(query + self.dropout(found.view(query.shape)))
        timed = query + time
        return self.norm_q2(query + self.dropout(self.mix_attn(timed, timed, query, time_padding)))


class BoxHead(nn.Module):
    """Three linear layers to the logits of a box: centre, width and height as shares of the picture's sides."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](self.layers[1](self.layers[0](x).relu()).relu())


class TemporalHead(nn.Module):
    """From one feature a step to a score for every span of steps.

    Args:
        dim: Width of the features.
        map_dim: Channels of the map.
        kernel: Side of its convolutions; odd.
        depth: How many.
        mask_norm: 2D-TAN's way: pad once, before the first convolution, and divide by the cells under the kernel.
    """

    def __init__(self, dim: int, map_dim: int, kernel: int, depth: int, *, mask_norm: bool = False) -> None:
        super().__init__()
        self.mask_norm = mask_norm
        half = kernel // 2
        self.paddings = [depth * half] + [0] * (depth - 1) if mask_norm else [half] * depth
        self.proj = nn.Linear(dim, map_dim)
        self.convs = nn.ModuleList(nn.Conv2d(map_dim, map_dim, kernel, padding=padding) for padding in self.paddings)
        self.predict = nn.Conv2d(map_dim, 1, 1)
        self.attn_score = nn.Linear(map_dim, 1)

    def forward(self, features: Tensor, time_padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of spans (B, T, T), row the first step, column the last, and logits of attention (B, T).

        Cells below the diagonal and cells of padded steps mean nothing.
        """
        features = self.proj(features)
        there = valid_spans(features.shape[1], time_padding, features.device).expand(len(features), -1, -1)
        scores = self.predict(self.convolve(proposal_map(features), there))[:, 0]
        return scores, self.attn_score(features)[..., 0]

    def convolve(self, spans: Tensor, there: Tensor) -> Tensor:
        """The map (B, D, T, T) through the convolutions; `there` (B, T, T) is True where a span is one."""
        mask = there[:, None].to(spans.dtype)
        spans = spans * mask
        for conv, padding in zip(self.convs, self.paddings, strict=True):
            assert isinstance(conv, nn.Conv2d)
            spans = conv(spans).relu()
            if self.mask_norm:
                ones = spans.new_ones(1, 1, *conv.kernel_size)
                count = F.conv2d(mask, ones, padding=padding).round()
                mask = (count > 0).to(spans.dtype)
                spans = spans * torch.where(count > 0, 1 / count.clamp(min=1), 0)
            else:
                spans = spans * mask
        return spans


def proposal_map(features: Tensor) -> Tensor:
    """Means of (B, T, D) over every span of steps: (B, D, T, T), cell i, j for i..j with both, 0 where i > j."""
    steps = features.shape[1]
    sums = F.pad(features.float().cumsum(1), (0, 0, 1, 0)).transpose(1, 2)  # (B, D, T+1)
    at = torch.arange(steps, device=features.device)
    length = at[None, :] - at[:, None] + 1
    total = sums[:, :, None, 1:] - sums[:, :, :-1, None]
    return torch.where(length > 0, total / length.clamp(min=1), 0).to(features.dtype)


def valid_spans(steps: int, time_padding: Tensor | None, device: torch.device) -> Tensor:
    """(B or 1, T, T), True where a span begins no later than it ends and holds no padded step."""
    there = torch.ones(1, steps, steps, dtype=torch.bool, device=device).triu()
    return there if time_padding is None else there & ~time_padding[:, None, :] & ~time_padding[:, :, None]


def spatial_mean(video: Tensor, space_padding: Tensor | None) -> Tensor:
    """(B, T, N, D) to (B, T, D), padded places left out."""
    if space_padding is None:
        return video.mean(2)
    inside = (~space_padding).to(video.dtype)[:, None, :, None]
    return (video * inside).sum(2) / inside.sum(2)


def _each(x: Tensor | None, times: int) -> Tensor | None:
    """Every item `times` in a row, for the frames or places of its video."""
    return None if x is None else x.repeat_interleave(times, 0)
