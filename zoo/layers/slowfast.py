"""The trunk of SlowFast: a slow pathway that sees much of a few frames, a fast one that sees little of many.

C. Feichtenhofer, H. Fan, J. Malik, K. He, "SlowFast Networks for Video Recognition", ICCV 2019, arXiv:1812.03982.
Names and sizes of the R50 8x8 network as PyTorchVideo publishes it.
"""

import torch
from torch import Tensor, nn

__all__ = ["SlowFast"]

DEPTHS = (3, 4, 6, 3)
ALPHA = 4  # frames of the fast pathway for one of the slow pathway
BETA = 8  # the fast pathway has this many times fewer channels
KERNELS = ((1, 1, 3, 3), (3, 3, 3, 3))  # over time, of each stage's first convolutions: slow, fast


class Bottleneck(nn.Module):
    """The three convolutions of a residual block; the first one may look over time, the second one over space."""

    def __init__(self, in_chs: int, chs: int, out_chs: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv_a = nn.Conv3d(in_chs, chs, (kernel, 1, 1), padding=(kernel // 2, 0, 0), bias=False)
        self.norm_a = nn.BatchNorm3d(chs)
        self.conv_b = nn.Conv3d(
            chs,
            chs,
            (1, 3, 3),
            (1, stride, stride),
            padding=(0, dilation, dilation),
            dilation=(1, dilation, dilation),
            bias=False,
        )
        self.norm_b = nn.BatchNorm3d(chs)
        self.conv_c = nn.Conv3d(chs, out_chs, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(out_chs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_a(self.conv_a(x)).relu()
        x = self.norm_b(self.conv_b(x)).relu()
        return self.norm_c(self.conv_c(x))


class Block(nn.Module):
    """A residual block; its skip is a convolution where the shape changes."""

    def __init__(self, in_chs: int, chs: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        out_chs = 4 * chs
        if in_chs != out_chs or stride != 1:
            self.branch1_conv = nn.Conv3d(in_chs, out_chs, 1, (1, stride, stride), bias=False)
            self.branch1_norm = nn.BatchNorm3d(out_chs)
        self.branch2 = Bottleneck(in_chs, chs, out_chs, kernel, stride, dilation)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.branch1_norm(self.branch1_conv(x)) if hasattr(self, "branch1_conv") else x
        return (skip + self.branch2(x)).relu()


class Stage(nn.Module):
    """Residual blocks of one pathway; the first one changes the shape."""

    def __init__(self, in_chs: int, chs: int, depth: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        blocks = [Block(in_chs, chs, kernel, stride, dilation)]
        blocks += [Block(4 * chs, chs, kernel, 1, dilation) for _ in range(depth - 1)]
        self.res_blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.res_blocks(x)


class Stem(nn.Module):
    """First convolution of a pathway, and a pool; together they divide the side by 4."""

    def __init__(self, in_chs: int, chs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_chs, chs, (kernel, 7, 7), (1, 2, 2), (kernel // 2, 3, 3), bias=False)
        self.norm = nn.BatchNorm3d(chs)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.norm(self.conv(x)).relu())


class Fusion(nn.Module):
    """Brings the fast pathway's features to the slow one's frames, with twice the channels."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.conv_fast_to_slow = nn.Conv3d(chs, 2 * chs, (7, 1, 1), (ALPHA, 1, 1), (3, 0, 0), bias=False)
        self.norm = nn.BatchNorm3d(2 * chs)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return torch.cat([slow, self.norm(self.conv_fast_to_slow(fast)).relu()], 1)


class Pathways(nn.Module):
    """One part of both pathways, and behind all but the last the fusion."""

    def __init__(self, slow: nn.Module, fast: nn.Module, fast_chs: int | None) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleList([slow, fast])
        if fast_chs is not None:
            self.multipathway_fusion = Fusion(fast_chs)

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        slow, fast = self.multipathway_blocks[0](slow), self.multipathway_blocks[1](fast)
        return self.multipathway_fusion(slow, fast) if hasattr(self, "multipathway_fusion") else slow, fast


class SlowFast(nn.Module):
    """SlowFast R50 8x8 up to its last residual stage: of each clip, one map of 2304 channels.

    Args:
        dilated: Keep the last stage at stride 16, with dilation, as the network for AVA does; 32 else.
        in_chans: Channels of a frame.
    """

    num_features = 2048 + 2048 // BETA

    def __init__(self, dilated: bool = True, in_chans: int = 3) -> None:
        super().__init__()
        self.reduction = 16 if dilated else 32
        chs = 64
        parts = [Pathways(Stem(in_chans, chs, 1), Stem(in_chans, chs // BETA, 5), chs // BETA)]
        slow, fast = chs + 2 * chs // BETA, chs // BETA
        for i, depth in enumerate(DEPTHS):
            is_last = i == len(DEPTHS) - 1
            stride, dilation = (1, 2) if is_last and dilated else (1 if i == 0 else 2, 1)
            width = chs * 2**i
            slow_stage, fast_stage = (
                Stage(inputs, channels, depth, kernels[i], stride, dilation)
                for inputs, channels, kernels in zip((slow, fast), (width, width // BETA), KERNELS, strict=True)
            )
            slow, fast = 4 * width + 2 * 4 * width // BETA, 4 * width // BETA
            parts.append(Pathways(slow_stage, fast_stage, None if is_last else fast))
        self.blocks = nn.ModuleList(parts)

    def forward(self, clips: Tensor) -> Tensor:
        """(N, C, K, H, W) clips, K a multiple of 4, to (N, 2304, h, w), each pathway averaged over its own time."""
        slow, fast = clips[:, :, ::ALPHA], clips
        for block in self.blocks:
            slow, fast = block(slow, fast)
        return torch.cat([slow.mean(2), fast.mean(2)], 1)
