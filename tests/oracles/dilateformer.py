"""DilateFormer the literal way: keys and values unfolded into a copy for each neighbour. To compare with, and to beat.

Written from the paper's equations and the published key names; maps are (B, C, H, W) between blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unfold_attention(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, dilation: int = 1, kernel_size: int = 3
) -> Tensor:
    """(B, C, H, W) maps of the heads with one dilation to (B, H, W, C)."""
    batch, chs, rows, columns = q.shape
    width, neighbours = chs // num_heads, kernel_size**2

    def copies(x: Tensor) -> Tensor:  # (B, heads, H * W, head width, K * K)
        x = F.unfold(x, kernel_size, dilation=dilation, padding=dilation * (kernel_size - 1) // 2)
        return x.reshape(batch, num_heads, width, neighbours, rows * columns).permute(0, 1, 4, 2, 3)

    queries = q.reshape(batch, num_heads, width, 1, rows * columns).permute(0, 1, 4, 3, 2)
    weights = (queries @ copies(k) * width**-0.5).softmax(-1)  # (B, heads, H * W, 1, K * K)
    return (weights @ copies(v).transpose(-2, -1)).transpose(1, 2).reshape(batch, rows, columns, chs)


class DilatedAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.num_heads, self.dilations = num_heads, dilations
        self.qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        groups = len(self.dilations)
        parts = (part.chunk(groups, 1) for part in self.qkv(x.permute(0, 3, 1, 2)).chunk(3, 1))
        heads = self.num_heads // groups
        y = [unfold_attention(*maps, heads, d) for d, *maps in zip(self.dilations, *parts, strict=True)]
        return self.proj(torch.cat(y, -1))


class GlobalAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, columns, dim = x.shape
        qkv = self.qkv(x).reshape(batch, rows * columns, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(x.shape))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, attn: nn.Module) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = attn, Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = (x + self.pos_embed(x)).permute(0, 2, 3, 1)
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x.permute(0, 3, 1, 2).contiguous()


def sequence(*layers: nn.Module) -> nn.Module:
    """Layers under the key `proj`, where the published ones are."""
    module = nn.Module()
    module.proj = nn.Sequential(*layers)
    return module


class UnfoldDilateFormer(nn.Module):
    """Under the authors' keys, evaluation only (no drop path).

    Args:
        embed_dim: Width D of the first stage.
        depths: Blocks of the four stages.
        num_heads: Heads of the four stages.
        num_classes: Classes.
    """

    def __init__(
        self,
        embed_dim: int = 72,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        num_classes: int = 1000,
        in_chans: int = 3,
    ) -> None:
        super().__init__()

        def conv(before: int, behind: int, stride: int) -> nn.Conv2d:
            return nn.Conv2d(before, behind, 3, stride, 1, bias=False)

        stem = [conv(in_chans, 16, 1), nn.BatchNorm2d(16), nn.GELU(), conv(16, 32, 2), nn.BatchNorm2d(32), nn.GELU()]
        self.patch_embed = sequence(*stem, conv(32, 64, 1), nn.BatchNorm2d(64), nn.GELU(), conv(64, embed_dim, 2))
        self.stages = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            dim, stage = embed_dim * 2**i, nn.Module()
            stage.blocks = nn.Sequential(
                *(
                    Block(dim, DilatedAttention(dim, heads, (1, 2, 3)) if i < 2 else GlobalAttention(dim, heads))
                    for _ in range(depth)
                )
            )
            last = i == len(depths) - 1
            stage.downsample = (
                nn.Identity() if last else sequence(nn.Conv2d(dim, 2 * dim, 3, 2, 1), nn.BatchNorm2d(2 * dim))
            )
            self.stages.append(stage)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed.proj(x)
        for stage in self.stages:
            x = stage.blocks(x)
            x = stage.downsample.proj(x) if hasattr(stage.downsample, "proj") else x
        return self.head(self.norm(x.flatten(2).transpose(1, 2)).mean(1))
