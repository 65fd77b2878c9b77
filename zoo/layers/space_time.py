"""The space-time vision transformer: patches of all frames, attended to along time and then within their frame.

M. Bain, A. Nagrani, G. Varol and A. Zisserman, "Frozen in Time", arXiv:2104.00650, section 3 and its released code. B
clips of F frames, n patches a frame, D width; tokens are the class token and then the patches, frame after frame.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["SpaceTimeTransformer", "fit_frames", "inflate"]

Along = Literal["time", "space"]


class DividedAttention(nn.Module):
    """Attention in which the class token sees everything, and a patch the class token and its own line.

    A line is the same patch in all frames ("time"), or all patches of the frame ("space").
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, frames: int, along: Along, seen: Tensor | None = None) -> Tensor:
        """(B, 1 + F n, D) -> the same.

        Args:
            x: Tokens.
            frames: F.
            along: Which lines.
            seen: (B, F), false where a frame only fills up the clip: nothing attends to it.
        """
        batch, count, dim = x.shape
        heads, patches = self.num_heads, (count - 1) // frames
        q, k, v = self.qkv(x).view(batch, count, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)  # (B, h, 1 + F n, d)
        mask = None
        if seen is not None:
            mask = F.pad(seen.repeat_interleave(patches, 1), (1, 0), value=True)[:, None, None]  # (B, 1, 1, 1 + F n)
        whole = F.scaled_dot_product_attention(q[:, :, :1], k, v, mask)

        def lines(t: Tensor) -> Tensor:
            """(B, h, F n, d) -> (B, h, lines, length, d)."""
            t = torch.unflatten(t, 2, (frames, patches))
            return t.transpose(2, 3) if along == "time" else t

        def keys(t: Tensor) -> Tensor:
            """(B, h, 1 + F n, d) -> (B, h lines, 1 + length, d)."""
            inside = lines(t[:, :, 1:])
            first = t[:, :, None, :1].expand(-1, -1, inside.shape[2], -1, -1)
            return torch.cat((first, inside), 3).flatten(1, 2)

        in_line = F.pad(seen, (1, 0), value=True)[:, None, None] if seen is not None else None
        mask = in_line if along == "time" else None  # (B, 1, 1, 1 + F)
        # each line as a head: four axes are what other runtimes know of this attention
        parts = F.scaled_dot_product_attention(lines(q[:, :, 1:]).flatten(1, 2), keys(k), keys(v), mask)
        parts = torch.unflatten(parts, 1, (heads, -1))
        parts = (parts.transpose(2, 3) if along == "time" else parts).flatten(2, 3)
        return self.proj(torch.cat((whole, parts), 2).transpose(1, 2).flatten(2))


class SpaceTimeBlock(nn.Module):
    """Attention along time, then within frames, then an MLP."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.attn = DividedAttention(dim, num_heads)
        self.timeattn = DividedAttention(dim, num_heads)
        hidden = int(mlp_ratio * dim)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})

    def forward(self, x: Tensor, frames: int, seen: Tensor | None = None) -> Tensor:
        in_time = x + self.timeattn(self.norm3(x), frames, "time", seen)
        x = x + self.attn(self.norm1(in_time), frames, "space", seen)  # from x, not from in_time, as released
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class SpaceTimeTransformer(nn.Module):
    """A vision transformer over clips.

    Args:
        img_size: Side of a frame in pixels.
        patch_size: Side of a patch.
        embed_dim: D.
        depth: Blocks.
        num_heads: Of each attention.
        num_frames: Most frames of a clip.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        num_frames: int = 4,
    ) -> None:
        super().__init__()
        if img_size % patch_size or embed_dim % num_heads:
            raise ValueError(f"patches of {patch_size} do not divide {img_size}, or {num_heads} heads {embed_dim}")
        self.num_frames = num_frames
        self.grid = img_size // patch_size, img_size // patch_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, embed_dim, patch_size, patch_size)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], embed_dim))
        self.temporal_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim))
        self.blocks = nn.ModuleList(SpaceTimeBlock(embed_dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.checkpointing = False
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, video: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, F, 3, H, W), F up to `num_frames` -> (B, 1 + F n, D), normed.

        Args:
            video: Normalised frames.
            seen: (B, F), false where a frame only fills up the clip.

        Raises:
            ValueError: More frames, or another size.
        """
        frames = video.shape[1]
        x = self.patch_embed["proj"](video.flatten(0, 1)).flatten(2).transpose(1, 2)  # (B F, n, D)
        patches = self.pos_embed.shape[1] - 1
        if not 0 < frames <= self.num_frames or x.shape[1] != patches:
            raise ValueError(f"up to {self.num_frames} frames of {patches} patches; these are {tuple(video.shape)}")
        place = self.pos_embed[:, None, 1:] + self.temporal_embed[:, :frames, None]  # (1, F, n, D)
        x = (x.unflatten(0, (-1, frames)) + place).flatten(1, 2)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(
            x.shape[0], -1, -1
        )  # len() would fix the batch of an exported graph
        x = torch.cat((first, x), 1)
        for block in self.blocks:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, frames, seen, use_reentrant=False)
            else:
                x = block(x, frames, seen)
        return self.norm(x)


def inflate(model: SpaceTimeTransformer, image_state: Mapping[str, Tensor]) -> None:
    """Begin as an image transformer: its weights, no difference between frames, time attention that adds nothing.

    The attention along time gets queries, keys and values of zero, so its values are zero, and a projection of ones, so
    that gradients reach them.

    Args:
        model: What begins.
        image_state: State of timm's vision transformer of the same size; its head is left out.

    Raises:
        RuntimeError: A tensor is missing or of another shape.
    """
    ours = model.state_dict()
    new = {key for key in ours if ".timeattn." in key or ".norm3." in key or key == "temporal_embed"}
    state = {key: image_state[key] for key in ours if key not in new and key in image_state}
    for key in new:
        value = torch.zeros_like(ours[key])
        if key.endswith("timeattn.proj.weight") or key.endswith("norm3.weight"):
            value += 1
        state[key] = value
    model.load_state_dict(state)


def fit_frames(embedding: Tensor, num_frames: int, how: Literal["zeros", "interpolate"] = "zeros") -> Tensor:
    """Embeddings of frames (1, F, D) for another number of them: cut, or continued by zeros or stretched along time."""
    frames = embedding.shape[1]
    if num_frames <= frames:
        return embedding[:, :num_frames]
    if how == "zeros":
        return F.pad(embedding, (0, 0, 0, num_frames - frames))
    return F.interpolate(embedding.transpose(1, 2), num_frames, mode="linear", align_corners=True).transpose(1, 2)
