"""PSLT: a light vision transformer whose blocks are ladders of shifted-window attention.

G. Wu, W.-S. Zheng, Y. Lu, Q. Tian, "PSLT: A Light-Weight Vision Transformer With Ladder Self-Attention and Progressive
Shift", IEEE TPAMI 45(9), 2023, arXiv:2304.03481. Networks as in the released code; it accepts only maps that divide
into windows, here any size does.

E is the base width, d a branch's width, S the window's side. Throughout, the activation stands before the batch norm.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath  # type: ignore[attr-defined]  # exported, but not said to be
from torch import Tensor, nn

from zoo.layers.building import build
from zoo.layers.classifier import StagedClassifier
from zoo.layers.images import check_images

__all__ = ["PSLT", "pslt_base", "pslt_large", "pslt_pico", "pslt_tiny"]

BRANCHES = 3
DIRECTIONS = (0, -1, 1)  # in which the branches roll their maps: the progressive shift
APART = -100.0  # added to the logits of pixels that only the roll has brought into one window


class Gate(nn.Module):
    """sigmoid(Linear(ReLU(Linear(x)))) over the last axis, with half the width in between."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(chs, chs // 2)
        self.fc2 = nn.Linear(chs // 2, chs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x).relu()).sigmoid()


class InvertedResidual(nn.Module):
    """Pointwise, depthwise and pointwise convolution with fourfold width between, then squeeze-excitation."""

    def __init__(self, in_chs: int, chs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * in_chs
        self.has_skip = stride == 1 and in_chs == chs
        self.conv = nn.Sequential(
            nn.Conv2d(in_chs, wide, 1, bias=False),
            nn.GELU(),
            nn.BatchNorm2d(wide),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.GELU(),
            nn.BatchNorm2d(wide),
            nn.Conv2d(wide, chs, 1, bias=False),
            nn.BatchNorm2d(chs),
        )
        self.se = Gate(chs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y * self.se(y.mean((2, 3)))[:, :, None, None]
        return x + y if self.has_skip else y


def _light_feed_forward(width: int) -> nn.Sequential:
    """Pointwise, depthwise and pointwise convolution of one width (the paper's ratio 4, reduced by 4)."""
    return nn.Sequential(
        nn.Conv2d(width, width, 1),
        nn.GELU(),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 3, 1, 1, groups=width),
        nn.GELU(),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 1),
        nn.BatchNorm2d(width),
    )


class WindowAttention(nn.Module):
    """Self-attention inside windows, one head a run of channels, with a bias for each relative position.

    A branch that is handed the branch before takes it as its values, with no norm and no projection.

    Args:
        width: Channels d.
        num_heads: Heads; they divide d.
        window: Side S.
        own_values: Whether values are projected from the input itself.
    """

    index: Tensor

    def __init__(self, width: int, num_heads: int, window: int, own_values: bool) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        if own_values:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.qk = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.register_buffer("index", _relative_positions(window), persistent=False)

    def forward(self, x: Tensor, values: Tensor | None, mask: Tensor | None) -> Tensor:
        """Attended maps.

        Args:
            x: (B, H, W, d), sides divisible by S, rolled.
            values: The same for the finished branch before; None where values are the branch's own.
            mask: (windows, S*S, S*S), 0 or `APART`.
        """
        if values is None:
            q, k, v = self._windows(self.qkv(x), 3)
        else:
            (q, k), (v,) = self._windows(self.qk(x), 2), self._windows(values, 1)
        bias = self.relative_position_bias_table[self.index].permute(2, 0, 1).to(q.dtype)  # (heads, S*S, S*S)
        if mask is not None:
            bias = (mask.to(q.dtype)[:, None] + bias).flatten(0, 1)  # (windows * heads, S*S, S*S)
        elif (windows := q.shape[1] // self.num_heads) > 1:
            bias = bias.repeat(windows, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, bias[None])
        return self.proj(self._joined(y, x.shape))

    def _windows(self, x: Tensor, parts: int) -> Sequence[Tensor]:
        """(B, H, W, parts * d) to `parts` of (B, windows * heads, S*S, head width): one mask serves the whole batch."""
        batch, height, width, _ = x.shape
        side = self.window
        x = x.reshape(batch, height // side, side, width // side, side, parts, self.num_heads, -1)
        x = x.permute(5, 0, 1, 3, 6, 2, 4, 7)
        return x.reshape(parts, batch, -1, side * side, x.shape[-1]).unbind()

    def _joined(self, x: Tensor, shape: torch.Size) -> Tensor:
        """The way back from `_windows`."""
        batch, height, width, chs = shape
        side = self.window
        x = x.view(batch, height // side, width // side, self.num_heads, side, side, -1)
        return x.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, chs)


def _relative_positions(window: int) -> Tensor:
    """(S*S, S*S) rows of the bias table, for each query and key of a window."""
    place = torch.arange(window * window)
    y, x = place // window, place % window
    down, right = (axis[:, None] - axis[None] + window - 1 for axis in (y, x))
    return down * (2 * window - 1) + right


class Branch(nn.Module):
    """One rung of the ladder: window attention at its shift, then the light feed-forward.

    Args:
        width: Channels d.
        num_heads: Heads.
        window: Side S.
        is_first: Whether no branch stands before; the others add their normed input to what they attend to.
        own_values: Whether the values are the branch's own, not the branch before.
        drop_path_rate: Share of samples, in training, that skip each residual.
    """

    def __init__(
        self, width: int, num_heads: int, window: int, *, is_first: bool, own_values: bool, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.is_first = is_first
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, num_heads, window, own_values)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _light_feed_forward(width)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, before: Tensor | None, roll: int, mask: Tensor | None) -> Tensor:
        """(B, H, W, d) to the same.

        Args:
            x: This branch's part of the block's input.
            before: Finished output of the branch before, where that gives the values.
            roll: Pixels by which the map is rolled down and to the right before it is cut into windows.
            mask: See `WindowAttention`.
        """
        y = self.norm1(x)
        attended = self._attend(y, before, roll, mask)
        if not self.is_first:
            attended = attended + y
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    def _attend(self, y: Tensor, before: Tensor | None, roll: int, mask: Tensor | None) -> Tensor:
        _, height, width, _ = y.shape
        below, right = -height % self.attn.window, -width % self.attn.window
        maps = [y] if before is None else [y, before]
        if below or right:  # padded positions are attended to, as in the authors' detection backbone
            maps = [F.pad(x, (0, 0, 0, right, 0, below)) for x in maps]
        if roll:
            maps = [x.roll((roll, roll), (1, 2)) for x in maps]
        y = self.attn(maps[0], maps[1] if before is not None else None, mask)
        if roll:
            y = y.roll((-roll, -roll), (1, 2))
        return y[:, :height, :width] if below or right else y


class LadderBlock(nn.Module):
    """Three branches side by side in width and one behind the other in depth, joined by a gate for each pixel.

    Args:
        chs: Channels C = 3d.
        num_heads: Heads in each branch.
        window: Side S.
        drop_path_rate: See `Branch`.
        ladder: Whether a branch hands its output to the next one as values.
        gate: Whether the joined outputs are gated.
    """

    def __init__(
        self,
        chs: int,
        num_heads: int,
        window: int = 7,
        drop_path_rate: float = 0.0,
        *,
        ladder: bool = True,
        gate: bool = True,
    ) -> None:
        super().__init__()
        self.ladder = ladder
        self.branches = nn.ModuleList(
            Branch(
                chs // BRANCHES,
                num_heads,
                window,
                is_first=i == 0,
                own_values=i == 0 or not ladder,
                drop_path_rate=drop_path_rate,
            )
            for i in range(BRANCHES)
        )
        self.se: nn.Module | None = Gate(chs) if gate else None
        self.pointconv = nn.Linear(chs, chs)

    def forward(self, x: Tensor, rolls: Sequence[int], masks: Sequence[Tensor | None]) -> Tensor:
        """(B, H, W, C) to the same; `rolls` and `masks` are those of the branches, see `Branch`."""
        outputs: list[Tensor] = []
        for branch, part, roll, mask in zip(self.branches, x.chunk(BRANCHES, -1), rolls, masks, strict=True):
            outputs.append(branch(part, outputs[-1] if outputs and self.ladder else None, roll, mask))
        x = torch.cat(outputs, -1)
        if self.se is not None:
            x = x * self.se(x)
        return x + self.pointconv(x)  # the branches hold the only residuals from the input


class PatchMerging(nn.Module):
    """The pixels of each 2x2 cell, normed and projected: (B, C, H, W) to (B, 2C, H/2, W/2); odd sides are padded."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * chs)
        self.reduction = nn.Linear(4 * chs, 2 * chs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        batch, height, width, chs = x.shape
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, chs).permute(0, 1, 3, 4, 2, 5)
        x = x.flatten(3)  # (B, H/2, W/2, 4C), the cell's pixels column by column
        return self.reduction(self.norm(x)).permute(0, 3, 1, 2)


class LadderStage(nn.Module):
    """An entry that changes resolution and width, then ladder blocks that share their shifts.

    Args:
        entry: (B, C', H', W') to (B, C, H, W).
        blocks: Ladder blocks.
        window: Side S.
        shift: Whether branches shift at all.
    """

    def __init__(self, entry: nn.Module, blocks: Sequence[LadderBlock], window: int, shift: bool) -> None:
        super().__init__()
        self.entry = entry
        self.blocks = nn.ModuleList(blocks)
        self.window = window
        self.shift = (window - 1) // 2 if shift else 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x).permute(0, 2, 3, 1)  # (B, H, W, C)
        rolls, masks = self.partition(x)
        for block in self.blocks:
            x = block(x, rolls, masks)
        return x.permute(0, 3, 1, 2)

    def partition(self, x: Tensor) -> tuple[list[int], list[Tensor | None]]:
        """Rolls and masks of the three branches on a map (B, H, W, C); one that a window covers is not rolled."""
        _, height, width, _ = x.shape
        shift = self.shift if min(height, width) > self.window else 0
        rolls = [direction * shift for direction in DIRECTIONS]
        padded = height + -height % self.window, width + -width % self.window
        return rolls, [shift_mask(*padded, self.window, roll, x.device) if roll else None for roll in rolls]


def shift_mask(height: int, width: int, window: int, roll: int, device: torch.device | None = None) -> Tensor:
    """(windows, S*S, S*S): 0 where two pixels of a window were neighbours before the roll, `APART` elsewhere.

    Args:
        height: Of the map, a multiple of `window`.
        width: The same.
        window: Side S.
        roll: Pixels by which the map was rolled down and to the right; not 0.
        device: Where to make it.
    """
    regions = []
    for side in (height, width):
        place = torch.arange(side, device=device)
        cuts = (side - window, side + roll) if roll < 0 else (roll, window)
        regions.append((place >= cuts[0]).long() + (place >= cuts[1]).long())
    cells = 3 * regions[0][:, None] + regions[1]
    cells = cells.view(height // window, window, width // window, window).transpose(1, 2).flatten(2).flatten(0, 1)
    return (cells[:, :, None] != cells[:, None]).float() * APART


class PSLT(StagedClassifier):
    """Three-convolution stem, two stages of inverted residuals, two of ladder blocks.

    Args:
        embed_dim: Base width E, a multiple of 6; the stages have 2E, 4E, 8E and 16E channels.
        conv_depths: Inverted residuals in the first two stages.
        depths: Ladder blocks in the last two.
        num_heads: Heads in each branch, in the last two.
        num_classes: Outputs of the head; 0 returns pooled features.
        in_chans: Channels of the image.
        strides: Of the stem, the first two stages and the third; the fourth always halves.
        window: Side S of the attention's windows.
        drop_path_rate: Rate of the last block; it grows linearly from 0.
        shift: False turns the progressive shift off; for ablation, as are the next two.
        ladder: False gives each branch values of its own.
        gate: False joins the branches by plain concatenation.
    """

    def __init__(
        self,
        embed_dim: int,
        conv_depths: Sequence[int] = (3, 3),
        depths: Sequence[int] = (10, 3),
        num_heads: Sequence[int] = (4, 8),
        num_classes: int = 1000,
        in_chans: int = 3,
        *,
        strides: Sequence[int] = (2, 2, 2, 2),
        window: int = 7,
        drop_path_rate: float = 0.2,
        shift: bool = True,
        ladder: bool = True,
        gate: bool = True,
    ) -> None:
        super().__init__()
        if embed_dim % 6:
            raise ValueError(f"embed_dim is {embed_dim}; a multiple of 6 is needed")
        branches = [8 * embed_dim * 2**i // BRANCHES for i in range(2)]
        if any(width % heads for width, heads in zip(branches, num_heads, strict=True)):
            raise ValueError(f"num_heads are {tuple(num_heads)}; they divide the branches' widths, {branches}")
        self.in_chans = in_chans
        self.conv_depths = tuple(conv_depths)
        self.stem = _stem(in_chans, embed_dim, strides[0])
        widths = [embed_dim * 2**i for i in range(5)]
        for i, depth in enumerate(conv_depths):
            self.add_module(f"stage{i}", _conv_stage(widths[i], widths[i + 1], depth, strides[i + 1]))
        entries = InvertedResidual(widths[2], widths[3], strides[3]), PatchMerging(widths[3])
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        for i, entry in enumerate(entries):
            blocks = [
                LadderBlock(widths[i + 3], num_heads[i], window, rates.pop(0), ladder=ladder, gate=gate)
                for _ in range(depths[i])
            ]
            self.add_module(f"stage{i + 2}", LadderStage(entry, blocks, window, shift))
        reduction = strides[0]
        self.feature_info = []
        for i, stride in enumerate((*strides[1:], 2)):
            reduction *= stride
            self.feature_info.append({"num_chs": widths[i + 1], "reduction": reduction, "module": f"stage{i}"})
        self.total_stride = reduction
        self.num_features = self.head_hidden_size = widths[4]
        self.norm: nn.Module = nn.LayerNorm(widths[4])
        self.reset_classifier(num_classes)
        self.apply(_init)

    @property
    def authors_keys(self) -> tuple[tuple[str, str | None], ...]:
        """Authors' key -> ours, in this order; `zoo.convert` applies it. Theirs number the inverted residuals in a row.

        What is dropped: masks and indices, which are computed here, and what the FLOP counter left behind.
        """
        first, second = self.conv_depths
        places = [f"stage0.{i}" for i in range(first)] + [f"stage1.{i}" for i in range(second)] + ["stage2.entry"]
        return (
            (r"\.attn_mask$|\.relative_position_index$|(^|\.)total_(ops|params)$", None),
            *((rf"^conv_layers\.{n}\.", f"{place}.") for n, place in enumerate(places)),
            (r"^patch_embed\.proj\.", "stem."),
            (r"^layers\.0\.downsample\.", "stage3.entry."),
            (r"^layers\.0\.blocks\.(\d+)\.", r"stage2.blocks.\1."),
            (r"^layers\.1\.blocks\.(\d+)\.", r"stage3.blocks.\1."),
            (r"^(stage\d\.blocks\.\d+)\.blocks\.", r"\1.branches."),
            (r"\.attn\.kv\.", ".attn.qk."),
            (r"\.mlp\.conv\.", ".mlp."),
            (r"^head\.", "fc."),
        )

    def forward_stem(self, x: Tensor) -> Tensor:
        check_images(x, self.in_chans, self.total_stride)
        return self.stem(x)

    def forward_norm(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        _init(self.fc)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        if prune_norm:
            self.norm = nn.Identity()
        return super().prune_intermediate_layers(indices, prune_norm, prune_head)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith("relative_position_bias_table")}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        fine = [(r"^stage([01])\.(\d+)", None), (r"^stage([23])\.entry", (-1,)), (r"^stage([23])\.blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": r"^stage(\d)" if coarse else [*fine, (r"^norm", (99999,))]}


def _stem(in_chans: int, chs: int, stride: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (before, behind) in enumerate(((in_chans, chs // 2), (chs // 2, chs), (chs, chs))):
        conv = nn.Conv2d(before, behind, 3, stride if i == 0 else 1, 1, bias=False)
        layers += [conv, nn.GELU(), nn.BatchNorm2d(behind)]
    return nn.Sequential(*layers)


def _conv_stage(in_chs: int, chs: int, depth: int, stride: int) -> nn.Sequential:
    return nn.Sequential(*(InvertedResidual(chs if i else in_chs, chs, 1 if i else stride) for i in range(depth)))


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)


def _build(variant: str, pretrained: bool, **kwargs: Any) -> PSLT:
    return build(
        PSLT,
        variant,
        pretrained,
        pretrained_filter_fn=lambda state, model: dict(state),
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **kwargs,
    )


def pslt_tiny(pretrained: bool = False, **kwargs: Any) -> PSLT:
    """PSLT-Tiny: base width 24."""
    return _build("pslt_tiny", pretrained, **{"embed_dim": 24, **kwargs})


def pslt_base(pretrained: bool = False, **kwargs: Any) -> PSLT:
    """PSLT, the paper's main network: base width 36."""
    return _build("pslt_base", pretrained, **{"embed_dim": 36, **kwargs})


def pslt_large(pretrained: bool = False, **kwargs: Any) -> PSLT:
    """PSLT-Large: base width 48."""
    return _build("pslt_large", pretrained, **{"embed_dim": 48, **kwargs})


def pslt_pico(pretrained: bool = False, **kwargs: Any) -> PSLT:
    """PSLT for pictures of 32 or 64 pixels, ours: base width 12, total stride 8, windows of 4x4."""
    args = {"embed_dim": 12, "conv_depths": (1, 2), "depths": (2, 1), "num_heads": (2, 4), "num_classes": 10}
    args |= {"strides": (2, 1, 2, 1), "window": 4, "drop_path_rate": 0.0}
    return _build("pslt_pico", pretrained, **{**args, **kwargs})
