"""DilateFormer: a vision transformer that looks at dilated windows first and at the whole map later.

J. Jiao et al., "DilateFormer: Multi-Scale Dilated Transformer for Visual Recognition", IEEE Transactions on Multimedia
25, 2023, arXiv:2302.01791. Networks as in the released code, which takes pictures of one size only; here any size does.

A map is (B, C, H, W) between modules and lies in memory as (B, H, W, C), in which everything here is fastest.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath  # type: ignore[attr-defined]  # exported, but not said to be
from torch import Tensor, nn

from zoo.layers.building import build
from zoo.layers.classifier import StagedClassifier
from zoo.layers.dilated_attention import MultiDilatedAttention
from zoo.layers.images import check_images

__all__ = ["DilateFormer", "dilateformer_b", "dilateformer_pico", "dilateformer_s", "dilateformer_t"]

BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")


class GlobalAttention(nn.Module):
    """Multi-head attention of each pixel to all others, (B, H, W, C) to the same."""

    def __init__(self, chs: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(chs, 3 * chs, bias=qkv_bias)
        self.proj = nn.Linear(chs, chs)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)  # (B, heads, H * W, head width)
        return self.proj(y.transpose(1, 2).reshape(x.shape))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, chs: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(chs, hidden)
        self.fc2 = nn.Linear(hidden, chs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A position encoding by depthwise convolution, attention, and a feed-forward layer, each with a skip.

    Args:
        chs: Channels C.
        attention: (B, H, W, C) to the same.
        mlp_ratio: Hidden channels of the feed-forward layer over C.
        drop_path_rate: Share of samples, in training, that skip each residual.
    """

    def __init__(self, chs: int, attention: nn.Module, mlp_ratio: float, drop_path_rate: float) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(chs, chs, 3, padding=1, groups=chs)
        self.norm1 = nn.LayerNorm(chs, eps=1e-6)
        self.attn = attention
        self.norm2 = nn.LayerNorm(chs, eps=1e-6)
        self.mlp = FeedForward(chs, int(chs * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = (x + self.pos_embed(x)).permute(0, 2, 3, 1)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x.permute(0, 3, 1, 2)


class Stage(nn.Module):
    """A change of resolution, then blocks.

    Args:
        downsample: (B, C', H', W') to (B, C, H, W).
        blocks: Blocks of C channels.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class DilateFormer(StagedClassifier):
    """A stem of four convolutions, stages of dilated and then of global attention, and a linear head.

    Args:
        embed_dim: Channels of the first stage; each stage has twice those of the one before.
        depths: Blocks a stage.
        num_heads: Heads a stage; where attention is dilated, the dilations divide them.
        num_classes: Outputs of the head; 0 returns pooled features.
        in_chans: Channels of the image.
        dilated: Whether a stage attends to dilated windows, not to the whole map.
        dilations: Of the dilated stages; each has an equal share of the heads.
        kernel_size: Keys along the side of a window.
        stem_widths: Channels between the stem's convolutions.
        stem_strides: Of the stem's convolutions, one more than there are widths.
        mlp_ratio: Hidden channels of a feed-forward layer over the stage's.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_path_rate: Rate of the last block; it grows linearly from 0.
    """

    # the authors' stages end with a change of resolution, ours begin with it: what a stage returns is a pyramid's level
    authors_keys = (
        *((rf"^stages\.{i}\.downsample\.proj\.", f"stages.{i + 1}.downsample.") for i in (2, 1, 0)),
        (r"^patch_embed\.proj\.", "stem."),
        (r"^head\.", "fc."),
    )

    def __init__(
        self,
        embed_dim: int = 72,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        num_classes: int = 1000,
        in_chans: int = 3,
        *,
        dilated: Sequence[bool] = (True, True, False, False),
        dilations: Sequence[int] = (1, 2, 3),
        kernel_size: int = 3,
        stem_widths: Sequence[int] = (16, 32, 64),
        stem_strides: Sequence[int] = (1, 2, 1, 2),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        if len(stem_strides) != len(stem_widths) + 1:
            raise ValueError(f"{len(stem_strides)} stem_strides for {len(stem_widths)} stem_widths; one more is needed")
        if not len(depths) == len(num_heads) == len(dilated):
            raise ValueError(
                f"depths, num_heads and dilated name {len(depths)}, {len(num_heads)} and {len(dilated)} stages"
            )
        self.in_chans = in_chans
        self.stem = _stem((in_chans, *stem_widths, embed_dim), stem_strides)
        self.stages = nn.ModuleList()
        self.feature_info = []
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        for i, (depth, heads, is_dilated) in enumerate(zip(depths, num_heads, dilated, strict=True)):
            chs = embed_dim * 2**i
            if chs % heads:
                raise ValueError(f"{heads} heads do not divide the {chs} channels of stage {i}")
            blocks = []
            for _ in range(depth):
                attention = (
                    MultiDilatedAttention(chs, heads, dilations, kernel_size, qkv_bias)
                    if is_dilated
                    else GlobalAttention(chs, heads, qkv_bias)
                )
                blocks.append(Block(chs, attention, mlp_ratio, next(rates)))
            self.stages.append(Stage(_downsample(chs) if i else nn.Identity(), blocks))
            reduction = math.prod(stem_strides) * 2**i
            self.feature_info.append({"num_chs": chs, "reduction": reduction, "module": f"stages.{i}"})
        self.num_features = self.head_hidden_size = chs
        self.norm = nn.LayerNorm(chs, eps=1e-6)
        self.reset_classifier(num_classes)
        self.apply(_init)

    @staticmethod
    def shown_args(state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The arguments that a state's keys and shapes show."""
        blocks = {(int(found[1]), int(found[2])) for key in state if (found := BLOCK.match(key))}
        depths = [sum(stage == i for stage, _ in blocks) for i in range(max((i for i, _ in blocks), default=-1) + 1)]
        first = state.get("stages.0.blocks.0.norm1.weight")
        return {"embed_dim": 0 if first is None else len(first), "depths": depths}

    def forward_stem(self, x: Tensor) -> Tensor:
        check_images(x, self.in_chans, int(str(self.feature_info[-1]["reduction"])))
        return self.stem(x.contiguous(memory_format=torch.channels_last))

    def forward_norm(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        _init(self.fc)

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        fine = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^stem", "blocks": [(r"^stages\.(\d+)", None), fine[-1]] if coarse else fine}


def _stem(widths: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    """Convolutions with a norm and a GELU between them, none behind the last."""
    layers: list[nn.Module] = []
    for before, behind, stride in zip(widths, widths[1:], strides, strict=False):
        layers += [nn.Conv2d(before, behind, 3, stride, 1, bias=False), nn.BatchNorm2d(behind), nn.GELU()]
    return nn.Sequential(*layers[:-2])


def _downsample(chs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(chs // 2, chs, 3, 2, 1), nn.BatchNorm2d(chs))


def _init(module: nn.Module) -> None:
    """Linear layers as in the released code; convolutions and norms have torch's values there as well."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _build(variant: str, pretrained: bool, **kwargs: Any) -> DilateFormer:
    return build(
        DilateFormer,
        variant,
        pretrained,
        pretrained_filter_fn=lambda state, model: dict(state),
        feature_cfg={"out_indices": tuple(range(len(kwargs["depths"]))), "feature_cls": "getter"},
        **kwargs,
    )


def dilateformer_t(pretrained: bool = False, **kwargs: Any) -> DilateFormer:
    """DilateFormer-Tiny."""
    return _build("dilateformer_t", pretrained, **{"depths": (2, 2, 6, 2), **kwargs})


def dilateformer_s(pretrained: bool = False, **kwargs: Any) -> DilateFormer:
    """DilateFormer-Small, in the depths of the released code; the paper's table implies others."""
    return _build("dilateformer_s", pretrained, **{"depths": (3, 5, 8, 3), **kwargs})


def dilateformer_b(pretrained: bool = False, **kwargs: Any) -> DilateFormer:
    """DilateFormer-Base."""
    return _build("dilateformer_b", pretrained, **{"embed_dim": 96, "depths": (4, 8, 10, 3), **kwargs})


def dilateformer_pico(pretrained: bool = False, **kwargs: Any) -> DilateFormer:
    """For pictures of 32 or 64 pixels, ours: three stages at strides 2, 4 and 8, the last one with global attention."""
    args: dict[str, Any] = {"embed_dim": 36, "depths": (1, 2, 2), "num_heads": (3, 3, 3), "mlp_ratio": 2.0}
    args |= {"dilated": (True, True, False), "stem_widths": (24,), "stem_strides": (1, 2), "drop_path_rate": 0.0}
    return _build("dilateformer_pico", pretrained, **{"num_classes": 10, **args, **kwargs})
